// Elastic files of codes at work: opened, inspected, verified, and refused where full weights are needed.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/safetensors.h"
#include "model/huggingface.h"
#include "runtime/inspect.h"
#include "runtime/loaded_model.h"
#include "runtime/slice.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

class QuantizedModel : public ::testing::TestWithParam<WeightFormat> {
 protected:
  // Without experts.
  void SetUp() override {
    const ElasticModel m = testing::quantizable_model("M-M*-");
    write_elastic(file(), m, testing::quantized(m.config, GetParam()), StoredType::kBF16);
  }
  fs::path file() const { return dir_.path() / "q.h5"; }
  static WeightFormat other() {
    return GetParam() == WeightFormat::kFp8 ? WeightFormat::kNvfp4 : WeightFormat::kFp8;
  }
  const TempDir dir_;
};

TEST_P(QuantizedModel, ViewsAreOfOneSetOfCodes) {
  LoadedModel whole(file(), DType::kF32);
  ASSERT_TRUE(whole.weights().quantization());
  const auto first_up = [&] { return std::get<FfnParams<Weight>>(whole.params().layers[1]).up; };
  const Weight all = first_up();
  EXPECT_TRUE(all.quantized());
  whole.select("narrow");
  EXPECT_EQ(first_up().data(), all.data());
  EXPECT_EQ(first_up().dim(0), 64);
  EXPECT_EQ(first_up().scale, all.scale);
  LoadedModel bf16_products(file(), DType::kBF16);
  EXPECT_TRUE(std::get<FfnParams<Weight>>(bf16_products.params().layers[1]).up.quantized());
}

TEST_P(QuantizedModel, Inspect) {
  const Json found = inspect_model(file());
  EXPECT_EQ(found["precision"], weight_format_label(GetParam()));
  EXPECT_EQ(found["unquantized"], "BF16");
  const LoadedSize narrow = load_elastic(file(), "narrow", DType::kF32);
  EXPECT_EQ(found["sizes"][1]["bytes"], narrow.weight_bytes);
  EXPECT_EQ(found["sizes"][1]["bytes_read"], narrow.bytes_read);
  EXPECT_EQ(found["sizes"][1]["params_total"], narrow.weights.parameter_count());
}

TEST_P(QuantizedModel, Verify) {
  Context ctx(Device::kCpu);
  const std::vector<Check> checks = verify_model(ctx, file());
  ASSERT_EQ(checks.size(), 5u);
  EXPECT_NE(checks[2].detail.find("relative L2 at most 0, bound"), std::string::npos);
  for (const Check& c : checks) {
    EXPECT_TRUE(c.ok) << c.name << ": " << c.detail;
    std::printf("%s: %s\n", c.name.c_str(), c.detail.c_str());
  }
}

TEST_P(QuantizedModel, SliceInNumbersNeedsFullWeights) {
  const fs::path out = dir_.path() / "cut";
  expect_error([&] { write_slice(file(), "narrow", out, StoredType::kBF16); },
               {"q.h5: its weights are ", weight_format_name(GetParam()),
                "codes; a slice in BF16 needs the file they were quantized from"});
  EXPECT_FALSE(fs::exists(out));
}

// Experts, and every axis: what is cut out as a directory is the size, bit for bit, and opens as it.
TEST_P(QuantizedModel, SliceIsTheSizeAsAPublishedDirectory) {
  const ElasticModel m = testing::quantizable_model("M-EM*");
  const fs::path from = dir_.path() / "experts.h5", out = dir_.path() / "cut";
  write_elastic(from, m, testing::quantized(m.config, GetParam()), StoredType::kBF16);
  write_quantized_slice(from, "narrow", out, GetParam());
  LoadedModel cut(out, DType::kF32), alone(from, DType::kF32, "narrow");
  ASSERT_EQ(cut.weights().count(), alone.weights().count());
  for (int64_t i = 0; i < cut.weights().count(); ++i) {
    testing::expect_same_weight(alone.weights().weight(i), cut.weights().weight(i),
                                cut.weights().specs()[static_cast<size_t>(i)].name);
  }
  expect_error([&] { write_quantized_slice(from, "narrow", dir_.path() / "other", other()); },
               {"experts.h5", weight_format_label(GetParam()), weight_format_label(other())});
}

// The names, types and values that ModelOpt gives its tensors.
TEST_P(QuantizedModel, TensorsOfASliceAreThoseOfModelOpt) {
  const ElasticModel m = testing::quantizable_model("M-EM*");
  const fs::path from = dir_.path() / "experts.h5", out = dir_.path() / "cut";
  Weights codes = testing::quantized(m.config, GetParam());
  write_elastic(from, m, codes, StoredType::kBF16);
  write_quantized_slice(from, "100%", out, GetParam());
  EXPECT_EQ(inspect_model(out)["precision"], weight_format_label(GetParam()));
  EXPECT_EQ(inspect_model(out)["unquantized"], "BF16");
  const SafetensorsDir tensors(out);
  const bool nvfp4 = GetParam() == WeightFormat::kNvfp4;
  const std::string expert = "backbone.layers.2.mixer.experts.5.down_proj";
  const StoredTensor& weight = tensors.at(expert + ".weight");
  EXPECT_EQ(weight.type, nvfp4 ? StoredType::kU8 : StoredType::kF8E4M3);
  EXPECT_EQ(weight.shape, (std::vector<int64_t>{64, nvfp4 ? 16 : 32}));
  EXPECT_TRUE(tensors.at(expert + ".input_scale").shape.empty());
  float scale = 0;
  std::memcpy(&scale,
              tensors.at(expert + (nvfp4 ? ".weight_scale_2" : ".weight_scale")).bytes.data(),
              sizeof scale);
  const auto down = [&] {
    for (int64_t i = 0; i < codes.count(); ++i)
      if (codes.specs()[static_cast<size_t>(i)].published_of(5) == expert + ".weight") return i;
    throw Error("no such expert");
  }();
  EXPECT_EQ(scale, codes.quantization()->parameters[static_cast<size_t>(down)]->weight[5]);
  if (nvfp4) {
    EXPECT_EQ(tensors.at(expert + ".weight_scale").type, StoredType::kF8E4M3);
    EXPECT_EQ(tensors.at(expert + ".weight_scale").shape, (std::vector<int64_t>{64, 2}));
  }
  const Json config = Json::parse(testing::read_bytes(out / "config.json"))["quantization_config"];
  EXPECT_EQ(config["quant_method"], "modelopt");
  EXPECT_EQ(config["quant_algo"], weight_format_label(GetParam()));
  for (const char* kept :
       {"lm_head", "backbone.layers.3.mixer.in_proj", "backbone.layers.4.mixer.q_proj",
        "backbone.layers.0.mixer.conv1d", "backbone.layers.2.mixer.gate"})
    EXPECT_NE(std::ranges::find(config["ignore"], Json(kept)), config["ignore"].end()) << kept;
  EXPECT_EQ(std::ranges::find(config["ignore"], Json(expert)), config["ignore"].end());
}

TEST_P(QuantizedModel, ADirectoryOfCodesIsNoParent) {
  const fs::path out = dir_.path() / "cut";
  write_quantized_slice(file(), "narrow", out, GetParam());
  const ModelConfig config = read_weights_config(out);
  Weights numbers(config, Device::kCpu, {});
  expect_error([&] { import_weights(out, config, numbers); },
               {"cut", weight_format_name(GetParam()), "needs BF16, F16 or F32"});
}

INSTANTIATE_TEST_SUITE_P(, QuantizedModel,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& p) { return std::string(weight_format_name(p.param)); });

}  // namespace
}  // namespace nestling
