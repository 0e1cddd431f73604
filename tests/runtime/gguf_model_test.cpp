// A GGUF file as a model of every command: it says what the model says of which it was written, reads text as
// the same tokens, and is written again as the same bytes.
#include <bit>
#include <cmath>
#include <fstream>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/gguf_reader.h"
#include "data/json.h"
#include "runtime/chat_template.h"
#include "runtime/export_gguf.h"
#include "runtime/gguf_tokenizer.h"
#include "runtime/gguf_tokenizer_files.h"
#include "runtime/inspect.h"
#include "runtime/quantize_file.h"
#include "runtime/slice.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/tiny_model.h"
#include "tests/support/whole_logits.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

const std::vector<int32_t> kTokens = {5, 17, 900, 3, 44, 2047, 8, 8, 1000, 31};

std::vector<float> logits_of(LoadedModel& model, const std::vector<int32_t>& tokens = kTokens) {
  const Tensor logits = testing::whole_logits(model, tokens);
  return {logits.ptr<float>(), logits.ptr<float>() + logits.size()};
}

double relative_l2(const std::vector<float>& got, const std::vector<float>& want) {
  double off = 0, all = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    off += std::pow(static_cast<double>(got[i]) - want[i], 2);
    all += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(off / all);
}

class GgufModel : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(elastic(), StoredType::kF32);
    export_gguf(elastic(), "50%", gguf(), {.type = GgmlType::kF32});
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path elastic() { return dir_->path() / "e.h5"; }
  static fs::path gguf() { return dir_->path() / "half.gguf"; }
  static inline TempDir* dir_ = nullptr;
};

TEST_F(GgufModel, SaysWhatTheSizeSays) {
  LoadedModel size(elastic(), DType::kF32, "50%"), model(gguf(), DType::kF32);
  ModelConfig want = size.config();
  want.bos = 1;  // as its tokenizer_config.json names them
  want.pad = 2;
  EXPECT_EQ(model.sizes(), std::vector<std::string>{"half"});
  EXPECT_EQ(model.cost().total, size.cost().total);
  EXPECT_EQ(dump_json(model_config_json(model.config(), StoredType::kF32)),
            dump_json(model_config_json(want, StoredType::kF32)));
  // All weights are the same but A_log, whose exponential alone is kept, and whose last bit may move.
  EXPECT_LE(relative_l2(logits_of(model), logits_of(size)), 1e-6);
}

// With weights that are bf16, all of them, nothing is lost: every logit is the same number.
TEST_F(GgufModel, LogitsOfWeightsInBf16AreTheSameBits) {
  const TempDir dir;
  const ModelConfig config = [] {
    ModelConfig c = testing::tiny_config(4096);
    c.pattern = "MEM*E";
    return c;
  }();
  Weights weights(config, Device::kCpu, {});
  weights.initialize(7);
  for (int64_t i = 0; i < weights.count(); ++i)
    for (int64_t k = 0; k < weights.master(i).size(); ++k) {
      float& x = weights.master(i).ptr<float>()[k];
      x = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000u);
    }
  fs::create_directory(dir.path() / "d");
  export_weights(dir.path() / "d", config, weights, {.types = {}, .type = StoredType::kF32});
  LoadedModel directory(dir.path() / "d", DType::kF32);
  const std::vector<float> want = logits_of(directory);
  for (const GgmlType type : {GgmlType::kF32, GgmlType::kBF16}) {
    const fs::path file = dir.path() / "m.gguf";
    export_gguf(dir.path() / "d", "", file, {.type = type, .tokenizer = false});
    LoadedModel model(file, DType::kF32);
    EXPECT_EQ(logits_of(model), want) << ggml_type_name(type);
    expect_error([&] { model.tokenizer(); }, {"no tokenizer"});
  }
}

TEST_F(GgufModel, CodesOfNvfp4SayTheSame) {
  const TempDir dir;
  ElasticModel m;
  m.config = testing::quantizable_config("MEM*E");
  m.config.hidden = m.config.expert_ffn = m.config.shared_ffn = 128;
  m.sizes = {testing::make_size(m.config, "100%", full_widths(m.config))};
  m.order = identity_order(m.config);
  write_elastic(dir.path() / "q.h5", m, testing::quantized(m.config, WeightFormat::kNvfp4),
                StoredType::kBF16);
  export_gguf(dir.path() / "q.h5", "100%", dir.path() / "q.gguf", {.tokenizer = false});
  LoadedModel size(dir.path() / "q.h5", DType::kF32, "100%");
  LoadedModel model(dir.path() / "q.gguf", DType::kF32);
  ASSERT_TRUE(model.weights().quantization());
  const std::vector<int32_t> tokens = {1, 7, 30, 9, 9, 2};
  EXPECT_LE(relative_l2(logits_of(model, tokens), logits_of(size, tokens)), 1e-6);
  EXPECT_EQ(inspect_model(dir.path() / "q.gguf", "")["precision"], "NVFP4");
}

TEST_F(GgufModel, TextHasTheSameTokens) {
  const LoadedModel size(elastic(), DType::kF32, "50%"), model(gguf(), DType::kF32);
  std::ifstream text(testing::source_dir() / "data/samples/english.txt");
  int lines = 0;
  for (std::string line; std::getline(text, line) && lines < 200; ++lines) {
    const auto ids = size.tokenizer().encode(line, true);
    ASSERT_EQ(model.tokenizer().encode(line, true), ids) << line;
    ASSERT_EQ(model.tokenizer().decode(ids), size.tokenizer().decode(ids)) << line;
  }
  EXPECT_EQ(lines, 200);
  for (int32_t id = 0; id < 4096; ++id) {
    ASSERT_EQ(model.tokenizer().token_bytes(id), size.tokenizer().token_bytes(id)) << id;
    ASSERT_EQ(model.tokenizer().is_special(id), size.tokenizer().is_special(id)) << id;
  }
  const std::vector<ChatMessage> turn = {{.role = "user", .content = "What is 3+4? <think>"}};
  for (const bool thinking : {true, false})
    EXPECT_EQ(ChatTemplate(model.tokenizer_files(), "m").render(turn, thinking),
              ChatTemplate(size.tokenizer_files(), "s").render(turn, thinking));
}

TEST_F(GgufModel, IsWrittenAgainAsTheSameBytes) {
  const TempDir dir;
  for (const GgmlType type : {GgmlType::kBF16, GgmlType::kQ8}) {
    export_gguf(elastic(), "50%", dir.path() / "a.gguf", {.type = type});
    export_gguf(dir.path() / "a.gguf", "", dir.path() / "b.gguf", {.type = type});
    EXPECT_EQ(testing::read_bytes(dir.path() / "a.gguf"),
              testing::read_bytes(dir.path() / "b.gguf"))
        << ggml_type_name(type);
  }
}

TEST_F(GgufModel, IsInspectedAndVerified) {
  const Json found = inspect_model(gguf(), "");
  EXPECT_EQ(found["sizes"][0]["name"], "half");
  EXPECT_EQ(found["sizes"][0]["params_total"],
            LoadedModel(elastic(), DType::kF32, "50%").cost().total);
  EXPECT_EQ(found["precision"], "F32");
  EXPECT_EQ(found["provenance"]["general.name"], "tiny-reasoner 50%");
  EXPECT_EQ(found["provenance"]["nestling.size"], "50%");
  expect_error([&] { inspect_model(gguf(), "50%"); },
               {"no size '50%'; a GGUF file has one size, half"});
  expect_error([&] { LoadedModel(gguf(), DType::kF32, "50%"); },
               {"no size '50%'; a GGUF file has one size, half"});
  Context ctx(Device::kCpu);
  EXPECT_TRUE(verify_model(ctx, gguf()).at(0).ok);
  const TempDir dir;
  const std::string bytes = testing::read_bytes(gguf());
  const auto cut = dir.write("cut.gguf", bytes.substr(0, bytes.size() / 2));
  const Check check = verify_model(ctx, cut).at(0);
  EXPECT_FALSE(check.ok);
  EXPECT_NE(check.detail.find("the file ends early"), std::string::npos) << check.detail;
}

TEST_F(GgufModel, HasNoSizesToCutOrQuantize) {
  const TempDir dir;
  expect_error([&] { write_slice(gguf(), "50%", dir.path() / "s", StoredType::kF32); },
               {"half.gguf: a GGUF file; sizes are cut out of an elastic .h5"});
  Context ctx(Device::kCpu);
  expect_error([&] { quantize_file(ctx, gguf(), dir.path() / "q.h5", {}); },
               {"half.gguf: needs an elastic .h5"});
}

// A file of keys alone, as a tokenizer is read from.
class GgufTokenizerFiles : public ::testing::Test {
 protected:
  std::vector<GgufKey> written(const std::string& golden) {
    ModelConfig config = testing::tiny_config(640);
    return gguf_tokenizer({{"tokenizer.json", testing::read_bytes(golden_dir() / golden)}}, config,
                          golden)
        .keys;
  }
  std::map<std::string, std::string> read(const std::vector<GgufKey>& keys) {
    write_gguf(dir_.path() / "t.gguf", keys, {});
    return gguf_tokenizer_files(GgufFile(dir_.path() / "t.gguf"));
  }
  static void set(std::vector<GgufKey>& keys, const std::string& name, GgufValue value) {
    drop(keys, name);
    keys.push_back({name, std::move(value)});
  }
  static void drop(std::vector<GgufKey>& keys, const std::string& name) {
    std::erase_if(keys, [&](const GgufKey& k) { return k.name == name; });
  }
  static fs::path golden_dir() { return testing::source_dir() / "tests/golden/tokenizer"; }
  TempDir dir_;
};

TEST_F(GgufTokenizerFiles, GoldenTokenizersGiveTheSameIdsAndTexts) {
  const JsonDocument cases = read_json(golden_dir() / "cases.json");
  for (const char* name :
       {"gpt2.json", "starcoder.json", "qwen2.json", "llama3.json", "tekken.json"}) {
    const bool nfc = std::string(name) == "qwen2.json";
    const Tokenizer tokenizer(read(written(name)).at("tokenizer.json"), name);
    int checked = 0, other = 0;
    for (const Json& c : cases.json()) {
      if (c["file"] != name) continue;
      const auto text = c["text"].get<std::string>();
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      const bool same = tokenizer.encode(text, false) == ids;
      EXPECT_TRUE(same || nfc) << name << " " << c["text"].dump();
      other += !same;
      if (c.contains("ids_with_special") && same) {
        EXPECT_EQ(tokenizer.encode(text, true), c["ids_with_special"].get<std::vector<int32_t>>());
      }
      EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>()) << c["text"].dump();
      ++checked;
    }
    EXPECT_GT(checked, 100) << name;
    EXPECT_LT(other, checked / 10) << name;  // what is not in normal form C
  }
}

TEST_F(GgufTokenizerFiles, WhatIsPutAroundATextIsSaidOrThatOfThePreTokenizer) {
  std::vector<GgufKey> keys = written("llama3.json");
  const std::string text = "Hello";
  const auto encode = [&] {
    return Tokenizer(read(keys).at("tokenizer.json"), "t").encode(text, true);
  };
  const std::vector<int32_t> with = encode();
  set(keys, "tokenizer.ggml.add_bos_token", false);
  const std::vector<int32_t> without = encode();
  ASSERT_EQ(with.size(), without.size() + 1);
  drop(keys, "tokenizer.ggml.add_bos_token");
  EXPECT_EQ(encode(), with);
  set(keys, "tokenizer.ggml.pre", std::string("pixtral"));  // llama.cpp's other name of it
  EXPECT_EQ(encode(), with);
  set(keys, "tokenizer.ggml.pre", std::string("dbrx"));
  EXPECT_EQ(encode(), without);
  set(keys, "tokenizer.ggml.add_eos_token", true);
  set(keys, "tokenizer.ggml.eos_token_id", uint32_t{9});
  EXPECT_EQ(encode().back(), 9);
  const auto config = parse_json(read(keys).at("tokenizer_config.json"), "c").json();
  EXPECT_EQ(config["eos_token"], parse_json(read(keys).at("tokenizer.json"), "t")
                                     .json()["post_processor"]["single"][1]["SpecialToken"]["id"]);
}

TEST_F(GgufTokenizerFiles, AFileThatNamesNoPreTokenizerHasTheDefaultOne) {
  std::vector<GgufKey> keys = written("starcoder.json");
  const auto json = [&] { return parse_json(read(keys).at("tokenizer.json"), "t").json(); };
  const auto digits = json();
  for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"})
    EXPECT_TRUE(digits["decoder"].contains(key))
        << "without it the tokenizers package refuses the file";
  set(keys, "tokenizer.ggml.pre", std::string("refact"));
  EXPECT_EQ(json(), digits);
  set(keys, "tokenizer.ggml.pre", std::string("default"));
  const auto otherwise = json();
  EXPECT_NE(otherwise["pre_tokenizer"], digits["pre_tokenizer"]);
  drop(keys, "tokenizer.ggml.pre");
  EXPECT_EQ(json(), otherwise);
}

TEST_F(GgufTokenizerFiles, OneWayOfSplittingHasSeveralNames) {
  std::vector<GgufKey> keys = written("starcoder.json");
  const auto ids = [&] {
    return Tokenizer(read(keys).at("tokenizer.json"), "t").encode("x1234 = don't  12", false);
  };
  const std::vector<int32_t> want = ids();
  for (const char* name : {"smollm", "starcoder", "refact"}) {
    set(keys, "tokenizer.ggml.pre", std::string(name));
    EXPECT_EQ(ids(), want) << name;
  }
  set(keys, "tokenizer.ggml.pre", std::string("gpt-2"));  // which keeps digits together
  EXPECT_NE(ids(), want);
}

TEST_F(GgufTokenizerFiles, WhatIsNotKnownIsRefusedByName) {
  const std::vector<GgufKey> good = written("gpt2.json");
  const auto refused = [&](const std::string& key, GgufValue value,
                           std::initializer_list<const char*> parts) {
    std::vector<GgufKey> keys = good;
    set(keys, key, std::move(value));
    expect_error([&] { read(keys); }, {"t.gguf: key tokenizer.ggml."});
    expect_error([&] { read(keys); }, parts);
  };
  refused("tokenizer.ggml.pre", std::string("bloom"),
          {"key tokenizer.ggml.pre is 'bloom'; known are llama-bpe, ", "smollm"});
  refused("tokenizer.ggml.model", std::string("llama"),
          {"key tokenizer.ggml.model is 'llama'; needs 'gpt2'"});
  refused("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1},
          {"key tokenizer.ggml.token_type has 2 items, there are 640 tokens"});
  refused("tokenizer.ggml.token_type", std::vector<int32_t>(640, 6), {"token 0 is of type 6"});
  refused("tokenizer.ggml.eos_token_id", uint32_t{640},
          {"key tokenizer.ggml.eos_token_id is 640, there are 640 tokens"});
  std::vector<std::string> twice(640, "x");
  refused("tokenizer.ggml.tokens", twice, {"tokens 0 and 1 are both \"x\""});
  std::vector<GgufKey> keys = good;
  drop(keys, "tokenizer.ggml.merges");
  expect_error([&] { read(keys); }, {"key tokenizer.ggml.merges is missing"});
  keys = good;
  drop(keys, "tokenizer.ggml.bos_token_id");
  set(keys, "tokenizer.ggml.add_bos_token", true);
  expect_error([&] { read(keys); }, {"key tokenizer.ggml.bos_token_id is missing"});
  EXPECT_TRUE(read({{"tokenizer.ggml.model", std::string("none")}}).empty());
  EXPECT_TRUE(read({{"general.name", std::string("x")}}).empty());
}

}  // namespace
}  // namespace nestling
