// A directory and the GGUF file of it are the same parent; what is neither, or holds codes, is none.
#include "runtime/parent.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/huggingface.h"
#include "runtime/export_gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

class ParentForms : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    export_gguf(tiny_reasoner(), "", gguf(), {.type = GgmlType::kF32});
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static std::filesystem::path gguf() { return dir_->path() / "tiny.gguf"; }
  const Parent directory_{tiny_reasoner(), "parent"}, file_{gguf(), "parent"};

 private:
  static TempDir* dir_;
};
TempDir* ParentForms::dir_ = nullptr;

// GGUF has -exp(A_log), which more than one A_log has.
void expect_same(const ConstView& a, const ConstView& b, const ParameterSpec& spec) {
  ASSERT_EQ(a.size(), b.size()) << spec.name;
  for (int64_t k = 0; k < a.size(); ++k) {
    const float x = a.ptr<float>()[k], y = b.ptr<float>()[k];
    const bool same = spec.init == Init::kALog ? std::exp(x) == std::exp(y) : x == y;
    ASSERT_TRUE(same) << spec.name << " " << k << ": " << x << " " << y;
  }
}

// All channels of the residual stream backwards.
Order backwards(const ModelConfig& config) {
  Order order = identity_order(config);
  std::reverse(order.hidden.begin(), order.hidden.end());
  return order;
}

TEST_F(ParentForms, HaveTheSameArchitectureAndWeights) {
  const ModelConfig config = directory_.config();
  ModelConfig read = file_.config();
  read.bos = config.bos;  // in a GGUF file those of the tokenizer
  read.pad = config.pad;
  EXPECT_EQ(dump_json(model_config_json(read, StoredType::kF32)),
            dump_json(model_config_json(config, StoredType::kF32)));
  EXPECT_EQ(file_.architecture().pattern, config.pattern);
  const Order order = backwards(config);
  for (const Order* in : {static_cast<const Order*>(nullptr), &order}) {
    Weights a(config, Device::kCpu, {}), b(config, Device::kCpu, {});
    directory_.import(config, a, in);
    file_.import(config, b, in);
    const ParameterSource from_directory = directory_.parameters(config, in);
    const ParameterSource from_file = file_.parameters(config, in);
    for (int64_t i = 0; i < a.count(); ++i) {
      const ParameterSpec& spec = a.specs()[static_cast<size_t>(i)];
      expect_same(b.master(i), a.master(i), spec);
      expect_same(from_file(i), a.master(i), spec);
      expect_same(from_directory(i), a.master(i), spec);
    }
  }
}

TEST_F(ParentForms, HaveTheSameTokenizer) {
  const std::string text = "What is 358+467? <|im_end|> naïve\n";
  EXPECT_EQ(open_tokenizer(gguf()).encode(text, false),
            open_tokenizer(tiny_reasoner()).encode(text, false));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_TRUE(file_.tokenizer_files().contains(name)) << name;
    EXPECT_TRUE(directory_.tokenizer_files().contains(name)) << name;
  }
}

TEST_F(ParentForms, SayWhatTheyAre) {
  EXPECT_EQ(file_.name(), "tiny");
  EXPECT_EQ(directory_.name(), "tiny-reasoner");
  EXPECT_EQ(directory_.weights_digest(), digest_of_weights(tiny_reasoner()));
  EXPECT_TRUE(file_.weights_digest().starts_with("crc32c:"));
  EXPECT_NE(file_.weights_digest(), directory_.weights_digest());
}

TEST_F(ParentForms, WhatIsNeitherIsRefused) {
  const TempDir dir;
  expect_error([&] { Parent(dir.path() / "absent", "parent"); }, {"parent: ", "absent: not found"});
  expect_error([&] { Parent(dir.write("e.h5", "xxxxxxxx"), "init"); },
               {"init: ", "e.h5: a Hugging Face directory or a GGUF file is needed"});
}

}  // namespace
}  // namespace nestling
