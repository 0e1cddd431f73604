// GGUF files of sizes: every tensor is that of the slice under llama.cpp's name, codes of NVFP4
// stand for the same numbers, keys say what config.json and tokenizer.json do, and what llama.cpp
// cannot run or hold is refused.
#include "runtime/export_gguf.h"

#include <bit>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "data/safetensors.h"
#include "kernels/core/versions.h"
#include "runtime/slice.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_reader.h"
#include "tests/support/quantized_elastic.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::gguf_values;
using testing::read_gguf;
using testing::ReadGguf;
using testing::ReadGgufTensor;
using testing::TempDir;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// llama.cpp's name of a published tensor, by rules of its own spelling.
std::string gguf_name(std::string name) {
  if (name == "lm_head.weight") return "output.weight";
  name = replaced(name, "backbone.embeddings", "token_embd");
  name = replaced(name, "backbone.norm_f", "output_norm");
  name = replaced(name, "backbone.layers.", "blk.");
  name = replaced(name, "mixer.norm.", "ssm_norm.");
  name = replaced(name, ".norm.weight", ".attn_norm.weight");
  const std::pair<const char*, const char*> parts[] = {
      {"mixer.in_proj", "ssm_in"},
      {"mixer.out_proj", "ssm_out"},
      {"mixer.conv1d", "ssm_conv1d"},
      {"mixer.dt_bias", "ssm_dt.bias"},
      {"mixer.A_log", "ssm_a"},
      {"mixer.D", "ssm_d"},
      {"mixer.o_proj", "attn_output"},
      {"mixer.q_proj", "attn_q"},
      {"mixer.k_proj", "attn_k"},
      {"mixer.v_proj", "attn_v"},
      {"mixer.gate.weight", "ffn_gate_inp.weight"},
      {"mixer.gate.e_score_correction_bias", "exp_probs_b.bias"},
      {"mixer.shared_experts.up_proj", "ffn_up_shexp"},
      {"mixer.shared_experts.down_proj", "ffn_down_shexp"},
      {"mixer.up_proj", "ffn_up"},
      {"mixer.down_proj", "ffn_down"},
  };
  for (const auto& [from, to] : parts) name = replaced(name, from, to);
  return name;
}

// Name and expert (or -1) of a published tensor; "...experts.7.up_proj.weight" is row 7 of a stack.
std::pair<std::string, int> place(const std::string& name) {
  const std::string key = ".mixer.experts.";
  const size_t at = name.find(key);
  if (at == std::string::npos) return {gguf_name(name), -1};
  const size_t dot = name.find('.', at + key.size());
  const std::string bare = name.substr(dot + 1, name.find("_proj", dot) - dot - 1);
  return {
      replaced(name.substr(0, at), "backbone.layers.", "blk.") + ".ffn_" + bare + "_exps.weight",
      std::stoi(name.substr(at + key.size()))};
}

std::vector<double> floats_of(const StoredTensor& t) {
  std::vector<double> out;
  for (size_t i = 0; i < t.bytes.size(); i += 4) {
    float x = 0;
    std::memcpy(&x, t.bytes.data() + i, sizeof x);
    out.push_back(x);
  }
  return out;
}

struct MadeGguf {
  ReadGguf file;
  GgufExport done;
};
MadeGguf make(const TempDir& dir, const fs::path& model, const std::string& size,
              const GgufOptions& options = {}) {
  const fs::path out = dir.path() / "out.gguf";
  GgufExport done = export_gguf(model, size, out, options);
  return {read_gguf(out), std::move(done)};
}

using ValuesByName = std::map<std::string, std::vector<double>>;
ValuesByName values_of(const ReadGguf& file) {
  ValuesByName all;
  for (const ReadGgufTensor& t : file.tensors) all[t.name] = gguf_values(t);
  return all;
}

// Every tensor of the F32 slice, and no other. Returns how many were compared.
size_t expect_the_slice(const ReadGguf& got, const fs::path& slice) {
  const SafetensorsDir published(slice);
  const ValuesByName values = values_of(got);
  std::map<std::string, size_t> taken;
  for (const StoredTensor* t : published.tensors()) {
    const auto [name, expert] = place(t->name);
    std::vector<double> want = floats_of(*t);
    if (t->name.ends_with("A_log"))
      for (double& x : want) x = -std::exp(static_cast<float>(x));
    const std::vector<double>& all = values.at(name);
    const size_t begin = expert < 0 ? 0 : static_cast<size_t>(expert) * want.size();
    NESTLING_CHECK(begin + want.size() <= all.size(), name, " is too short");
    EXPECT_EQ(std::vector<double>(all.begin() + static_cast<ptrdiff_t>(begin),
                                  all.begin() + static_cast<ptrdiff_t>(begin + want.size())),
              want)
        << t->name;
    taken[name] += want.size();
  }
  for (const auto& [name, count] : taken) EXPECT_EQ(values.at(name).size(), count);
  EXPECT_EQ(got.tensors.size(), taken.size());
  return published.size();
}

class ExportGguf : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_reasoner(file(), StoredType::kF32);
  }
  static void TearDownTestSuite() { delete dir_; }
  static fs::path file() { return dir_->path() / "e.h5"; }
  static inline TempDir* dir_ = nullptr;
};

// Returns how many published tensors were compared.
size_t expect_same_as_slice(const fs::path& file, const std::string& size) {
  const TempDir dir;
  write_slice(file, size, dir.path() / "slice", StoredType::kF32);
  const MadeGguf made = make(dir, file, size, {.type = GgmlType::kF32, .tokenizer = false});
  EXPECT_EQ(made.done.tensors, std::ssize(made.file.tensors));
  EXPECT_TRUE(made.done.notes.empty());
  return expect_the_slice(made.file, dir.path() / "slice");
}

TEST_F(ExportGguf, EveryTensorIsTheSlices) {
  EXPECT_EQ(expect_same_as_slice(file(), "50%"), 243u);
}

TEST_F(ExportGguf, ShapesAndTypesAreThoseLlamaCppAsksFor) {
  const TempDir dir;
  const ReadGguf got =
      make(dir, file(), "50%").file;  // hidden 96, heads 12 x 16, state 32, groups 4
  const auto expect = [&](const char* name, std::vector<uint64_t> ne, uint32_t type) {
    EXPECT_EQ(got.at(name).ne, ne) << name;
    EXPECT_EQ(got.at(name).type, type) << name;
  };
  expect("token_embd.weight", {96, 4096}, 30);
  expect("blk.0.attn_norm.weight", {96}, 0);
  expect("blk.0.ssm_in.weight", {96, 2 * 192 + 2 * 4 * 32 + 12}, 30);
  expect("blk.0.ssm_conv1d.weight", {4, 192 + 2 * 4 * 32}, 0);
  expect("blk.0.ssm_a", {1, 12}, 0);
  expect("blk.0.ssm_d", {1, 12}, 0);
  expect("blk.0.ssm_dt.bias", {12}, 0);
  expect("blk.0.ssm_norm.weight", {192 / 4, 4}, 0);
  expect("blk.0.ssm_out.weight", {192, 96}, 30);
  expect("blk.1.ffn_gate_inp.weight", {96, 16}, 0);
  expect("blk.1.exp_probs_b.bias", {16}, 0);
  expect("blk.1.ffn_up_exps.weight", {96, 64, 16}, 30);
  expect("blk.1.ffn_down_exps.weight", {64, 96, 16}, 30);
  expect("blk.1.ffn_up_shexp.weight", {96, 96}, 30);
  expect("blk.3.attn_k.weight", {96, 64}, 30);
}

TEST_F(ExportGguf, KeysSayWhatConfigAndProvenanceDo) {
  const TempDir dir;
  const ReadGguf got = make(dir, file(), "50%").file;
  EXPECT_EQ(got.key_order.front(), "general.architecture");
  EXPECT_EQ(got.text("general.architecture"), "nemotron_h_moe");
  EXPECT_EQ(got.text("general.name"), "tiny-reasoner 50%");
  EXPECT_EQ(got.text("general.license"), "apache-2.0");
  EXPECT_EQ(got.text("general.base_model.0.name"), "tiny-reasoner");
  EXPECT_EQ(got.text("nestling.version"), program_version());
  EXPECT_EQ(got.text("nestling.size"), "50%");
  EXPECT_EQ(got.text("nestling.source_digest"), elastic_digest(file()));
  EXPECT_EQ(got.number("general.file_type"), 32);
  const std::string arch = "nemotron_h_moe.";
  const std::pair<const char*, double> numbers[] = {{"block_count", 12},
                                                    {"context_length", 4096},
                                                    {"embedding_length", 96},
                                                    {"vocab_size", 4096},
                                                    {"attention.head_count", 4},
                                                    {"attention.key_length", 32},
                                                    {"attention.value_length", 32},
                                                    {"attention.layer_norm_epsilon", 1e-5f},
                                                    {"attention.layer_norm_rms_epsilon", 1e-5f},
                                                    {"ssm.conv_kernel", 4},
                                                    {"ssm.inner_size", 192},
                                                    {"ssm.state_size", 32},
                                                    {"ssm.time_step_rank", 12},
                                                    {"ssm.group_count", 4},
                                                    {"expert_count", 16},
                                                    {"expert_used_count", 2},
                                                    {"expert_feed_forward_length", 64},
                                                    {"expert_shared_feed_forward_length", 96},
                                                    {"expert_weights_norm", 1},
                                                    {"expert_weights_scale", 1}};
  for (const auto& [key, value] : numbers) EXPECT_EQ(got.number(arch + key), value) << key;
  // MEM*EMEMEM*E
  EXPECT_EQ(got.keys.at(arch + "feed_forward_length").numbers,
            (std::vector<double>{0, 64, 0, 0, 64, 0, 64, 0, 64, 0, 0, 64}));
  EXPECT_EQ(got.keys.at(arch + "attention.head_count_kv").numbers,
            (std::vector<double>{0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0}));
  EXPECT_EQ(got.keys.at(arch + "expert_weights_norm").type, 7u);
  EXPECT_FALSE(got.keys.contains(arch + "expert_group_count"));
}

TEST_F(ExportGguf, TheVocabularyIsTokenizerJsons) {
  const TempDir dir;
  const ReadGguf got = make(dir, file(), "50%").file;
  EXPECT_EQ(got.text("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(got.text("tokenizer.ggml.pre"), "qwen2");
  const JsonDocument json = read_json(testing::tiny_reasoner() / "tokenizer.json");
  const std::vector<std::string>& tokens = got.keys.at("tokenizer.ggml.tokens").texts;
  const std::vector<double>& types = got.keys.at("tokenizer.ggml.token_type").numbers;
  ASSERT_EQ(tokens.size(), 4096u);
  ASSERT_EQ(types.size(), 4096u);
  for (const auto& [text, id] : json.json()["model"]["vocab"].items())
    EXPECT_EQ(tokens[id.get<size_t>()], text);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(types[i], i < 7 ? 3 : 1) << i;
  const auto& merges = json.json()["model"]["merges"];
  const std::vector<std::string>& lines = got.keys.at("tokenizer.ggml.merges").texts;
  ASSERT_EQ(lines.size(), merges.size());
  for (size_t i = 0; i < lines.size(); ++i)
    EXPECT_EQ(lines[i], merges[i].is_string() ? merges[i].get<std::string>()
                                              : merges[i][0].get<std::string>() + " " +
                                                    merges[i][1].get<std::string>());
  EXPECT_EQ(got.number("tokenizer.ggml.bos_token_id"), 1);
  EXPECT_EQ(got.number("tokenizer.ggml.eos_token_id"), 2);
  EXPECT_EQ(got.number("tokenizer.ggml.eot_token_id"), 4);
  EXPECT_EQ(got.number("tokenizer.ggml.padding_token_id"), 2);
  EXPECT_EQ(got.number("tokenizer.ggml.unknown_token_id"), 0);
  EXPECT_EQ(got.number("tokenizer.ggml.add_bos_token"), 0);
  EXPECT_EQ(got.text("tokenizer.chat_template"),
            testing::read_bytes(testing::tiny_reasoner() / "chat_template.jinja"));
}

TEST_F(ExportGguf, WhatIsNotThereOrNotPossibleIsSaid) {
  const TempDir dir;
  const fs::path out = dir.path() / "o.gguf";
  const auto refused = [&](const fs::path& model, const char* size, const GgufOptions& options,
                           std::initializer_list<const char*> parts) {
    expect_error([&] { export_gguf(model, size, out, options); }, parts);
    EXPECT_FALSE(fs::exists(out));
  };
  refused(file(), "", {}, {"e.h5: --size is missing; there are 100%, 75%, 50%"});
  refused(file(), "none", {}, {"none"});
  refused(dir.path() / "absent.h5", "50%", {}, {"absent.h5: not found"});
  refused(file(), "50%", {.type = GgmlType::kNvfp4}, {"numbers, not NVFP4"});
  expect_error([&] { export_gguf(file(), "50%", file(), {}); },
               {"e.h5: is the model that is to be exported"});
  expect_error([&] { export_gguf(file(), "50%", dir.path() / "no/o.gguf", {}); }, {"no/o.gguf"});
  expect_error([] { parse_gguf_precision("q4_k", "export --precision"); },
               {"export --precision q4_k: needs one of fp32, fp16, q8_0, bf16, nvfp4"});
  testing::write_tiny_model(dir.path(), 40, 1);
  refused(dir.path(), "", {.tokenizer = false}, {"both dense and expert layers"});
}

// Directories of one size, with a config and a tokenizer of one's own.
class ExportDirectory : public ::testing::Test {
 protected:
  void write(const ModelConfig& config) {
    Weights weights(config, Device::kCpu, {});
    weights.initialize(3);
    export_weights(dir_.path(), config, weights, {.types = {}, .type = StoredType::kF32});
  }
  static ModelConfig config(const std::string& pattern) {
    ModelConfig c = testing::tiny_config(640);
    c.pattern = pattern;
    return c;
  }
  void copy_tokenizer(
      const std::string& name, const std::function<void(Json&)>& change = [](Json&) {}) {
    Json json = read_json(source_dir() / "tests/golden/tokenizer" / name).json();
    change(json);
    dir_.write("tokenizer.json", json.dump());
  }
  static fs::path source_dir() { return testing::source_dir(); }
  MadeGguf made(const GgufOptions& options = {}) { return make(out_, dir_.path(), "", options); }
  TempDir dir_, out_;
};

TEST_F(ExportDirectory, DenseModelsHaveTheDenseArchitecture) {
  ModelConfig c = config("M-*");
  c.conv_bias = false;
  c.tied = true;
  write(c);
  const ReadGguf got = made({.type = GgmlType::kF32, .tokenizer = false}).file;
  EXPECT_EQ(got.text("general.architecture"), "nemotron_h");
  EXPECT_EQ(got.text("tokenizer.ggml.model"), "none");
  EXPECT_EQ(got.number("nemotron_h.vocab_size"), 640);
  EXPECT_EQ(got.number("nemotron_h.context_length"), 1 << 20);
  EXPECT_EQ(got.keys.at("nemotron_h.feed_forward_length").numbers, (std::vector<double>{0, 48, 0}));
  EXPECT_FALSE(got.keys.contains("nemotron_h.expert_count"));
  EXPECT_EQ(gguf_values(got.at("blk.0.ssm_conv1d.bias")), std::vector<double>(64, 0));
  EXPECT_THROW(got.at("output.weight"), std::runtime_error);
  EXPECT_EQ(got.at("blk.1.ffn_up.weight").ne, (std::vector<uint64_t>{32, 48}));
}

TEST_F(ExportDirectory, OtherTypesHoldTheSameNumbersRounded) {
  ModelConfig c = config("ME*");
  c.expert_ffn = c.shared_ffn = 32;
  write(c);
  const ReadGguf exact = made({.type = GgmlType::kF32, .tokenizer = false}).file;
  const std::pair<GgmlType, double> types[] = {
      {GgmlType::kBF16, 0x1p-8}, {GgmlType::kF16, 0x1p-11}, {GgmlType::kQ8, 0.5 / 127 + 0x1p-11}};
  for (const auto& [type, bound] : types) {
    const ReadGguf got = made({.type = type, .tokenizer = false}).file;
    for (const ReadGgufTensor& t : exact.tensors) {
      const std::vector<double> want = gguf_values(t), have = gguf_values(got.at(t.name));
      ASSERT_EQ(want.size(), have.size());
      const bool rounded = got.at(t.name).type != 0;
      for (size_t i = 0; i < want.size(); ++i) {
        double largest = std::fabs(want[i]);
        if (type == GgmlType::kQ8 && rounded)
          for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j)
            largest = std::max(largest, std::fabs(want[j]));
        const double most = rounded ? bound * largest + 0x1p-25 : 0;
        ASSERT_LE(std::fabs(have[i] - want[i]), most) << ggml_type_name(type) << ' ' << t.name;
      }
    }
  }
}

TEST_F(ExportDirectory, GroupsOfExpertsAreSaidWhereSomeAreLeftOut) {
  ModelConfig c = config("ME*");
  c.gate.groups = 3;
  c.gate.top_groups = 2;
  write(c);
  const ReadGguf got = made({.tokenizer = false}).file;
  EXPECT_EQ(got.number("nemotron_h_moe.expert_group_count"), 3);
  EXPECT_EQ(got.number("nemotron_h_moe.expert_group_used_count"), 2);
}

TEST_F(ExportDirectory, WhatLlamaCppDoesNotRunIsRefused) {
  const auto refused = [&](const ModelConfig& c, const char* what) {
    fs::remove(dir_.path() / "model.safetensors");
    write(c);
    expect_error([&] { made({.tokenizer = false}); }, {dir_.path().c_str(), what});
  };
  refused(config("*-"), "without a Mamba layer");
  refused(config("M-"), "without an attention layer");
  ModelConfig c = config("ME*");
  c.shared_ffn = 0;
  refused(c, "experts have no shared one");
  c = config("ME*");
  c.gate.groups = 6;
  c.gate.top_groups = 2;
  refused(c, "one expert each");
}

TEST_F(ExportDirectory, RowsThatAreNoWholeBlocksAreNamed) {
  write(config("ME*"));  // experts are 16 wide
  expect_error(
      [&] { made({.type = GgmlType::kQ8, .tokenizer = false}); },
      {"tensor blk.1.ffn_down_exps.weight has rows of 16; GGUF's Q8_0 needs multiples of 32",
       "--precision bf16"});
}

TEST_F(ExportDirectory, PreTokenizersAreNamedByTheirExpressions) {
  write(config("ME*"));
  const std::pair<const char*, const char*> known[] = {{"gpt2.json", "gpt-2"},
                                                       {"starcoder.json", "smollm"},
                                                       {"qwen2.json", "qwen2"},
                                                       {"llama3.json", "llama-bpe"},
                                                       {"tekken.json", "tekken"}};
  for (const auto& [file, name] : known) {
    copy_tokenizer(file);
    const MadeGguf got = made();
    EXPECT_EQ(got.file.text("tokenizer.ggml.pre"), name) << file;
    EXPECT_EQ(got.file.keys.at("tokenizer.ggml.tokens").texts[639], "[PAD639]");
    EXPECT_EQ(got.file.keys.at("tokenizer.ggml.token_type").numbers[639], 5);
    const bool nfc = std::string(file) == "qwen2.json";
    EXPECT_EQ(std::ranges::any_of(got.done.notes,
                                  [](const std::string& n) { return n.find("NFC") != n.npos; }),
              nfc)
        << file;
  }
  copy_tokenizer("llama3.json", [](Json& j) { j["model"]["ignore_merges"] = false; });
  EXPECT_EQ(made().file.text("tokenizer.ggml.pre"), "dbrx");
}

TEST_F(ExportDirectory, BosStandsWhereTheTemplatePutsIt) {
  write(config("ME*"));
  copy_tokenizer("llama3.json");
  const Json json = read_json(source_dir() / "tests/golden/tokenizer/llama3.json").json();
  const ReadGguf got = made().file;
  EXPECT_EQ(got.number("tokenizer.ggml.add_bos_token"), 1);
  const auto bos = static_cast<size_t>(got.number("tokenizer.ggml.bos_token_id"));
  EXPECT_EQ(got.keys.at("tokenizer.ggml.tokens").texts[bos],
            json["post_processor"]["processors"][1]["single"][0]["SpecialToken"]["id"]);
}

TEST_F(ExportDirectory, TokenizersThatLlamaCppDoesNotHaveAreRefused) {
  write(config("ME*"));
  expect_error([&] { made(); }, {"no tokenizer.json", "--tokenizer none"});
  copy_tokenizer("qwen2.json", [](Json& j) {
    j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{L}+|\\s";
  });
  expect_error([&] { made(); }, {"tokenizer.json: pre_tokenizer", "that splits by \\p{L}+|\\s;",
                                 "--tokenizer none"});
  copy_tokenizer("gpt2.json", [](Json& j) { j["model"]["ignore_merges"] = true; });
  expect_error([&] { made(); }, {"that splits by ByteLevel and takes whole tokens before merges"});
  copy_tokenizer("gpt2.json", [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; });
  expect_error([&] { made(); }, {"llama.cpp puts no space in front of a text"});
  ModelConfig c = config("ME*");
  c.eos = {};
  fs::remove(dir_.path() / "model.safetensors");
  write(c);
  copy_tokenizer("gpt2.json");
  expect_error([&] { made(); }, {"no eos_token_id", "would stop at token 11"});
}

// Elastic files of codes, in which every row of NVFP4 is whole blocks of 64.
ElasticModel coded_model() {
  ElasticModel m;
  m.config = testing::quantizable_config("MEM*E");
  m.config.hidden = 128;
  m.config.expert_ffn = m.config.shared_ffn = 128;
  m.sizes = {testing::make_size(m.config, "100%", full_widths(m.config)),
             testing::make_size(m.config, "narrow",
                                testing::cut_by(m.config, {{Axis::kHidden, 64},
                                                           {Axis::kMambaHeads, 2},
                                                           {Axis::kExperts, 4},
                                                           {Axis::kExpertFfn, 64},
                                                           {Axis::kSharedFfn, 64}}))};
  m.order = identity_order(m.config);
  return m;
}
fs::path write_coded(const TempDir& dir, const ElasticModel& m, WeightFormat format) {
  const fs::path file = dir.path() / (std::string(weight_format_name(format)) + ".h5");
  write_elastic(file, m, testing::quantized(m.config, format), StoredType::kBF16);
  return file;
}

TEST(ExportSizes, EveryTensorOfEverySizeIsTheSlices) {
  const TempDir dir;
  ElasticModel m = coded_model();
  Weights weights(m.config, Device::kCpu, {});
  weights.initialize(5);
  write_elastic(dir.path() / "e.h5", m, weights, StoredType::kF32);
  for (const Size& size : m.sizes)
    EXPECT_GT(expect_same_as_slice(dir.path() / "e.h5", size.name), 40u);
}

// The numbers of a published quantized tensor, without the scale of the whole.
std::vector<double> code_values(const SafetensorsDir& dir, const std::string& module) {
  const StoredTensor& codes = dir.at(module + ".weight");
  const auto* bytes = reinterpret_cast<const uint8_t*>(codes.bytes.data());
  std::vector<double> out;
  if (codes.type == StoredType::kF8E4M3) {
    for (size_t i = 0; i < codes.bytes.size(); ++i) out.push_back(testing::e4m3_by_bits(bytes[i]));
    return out;
  }
  const auto* blocks =
      reinterpret_cast<const uint8_t*>(dir.at(module + ".weight_scale").bytes.data());
  for (size_t i = 0; i < 2 * codes.bytes.size(); ++i)
    out.push_back(testing::e2m1_by_bits(i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4) *
                  testing::e4m3_by_bits(blocks[i / 16]));
  return out;
}

// Modules of a slice whose weights are codes.
std::vector<std::string> coded_modules(const SafetensorsDir& dir) {
  std::vector<std::string> modules;
  const std::string suffix = ".weight_scale";
  for (const StoredTensor* t : dir.tensors())
    if (t->name.ends_with(suffix))
      modules.push_back(t->name.substr(0, t->name.size() - suffix.size()));
  return modules;
}

TEST(ExportCodes, Nvfp4StandsForTheSameNumbersWithItsScalesBeside) {
  const TempDir dir;
  const fs::path file = write_coded(dir, coded_model(), WeightFormat::kNvfp4);
  for (const char* size : {"100%", "narrow"}) {
    fs::remove_all(dir.path() / "slice");
    write_quantized_slice(file, size, dir.path() / "slice", WeightFormat::kNvfp4);
    const MadeGguf made = make(dir, file, size, {.tokenizer = false});
    EXPECT_EQ(made.done.type, GgmlType::kNvfp4);
    EXPECT_EQ(made.file.number("general.file_type"), 39);
    const SafetensorsDir published(dir.path() / "slice");
    const std::vector<std::string> modules = coded_modules(published);
    const ValuesByName values = values_of(made.file);
    EXPECT_GT(modules.size(), 20u);
    for (const std::string& module : modules) {
      const auto [name, expert] = place(module + ".weight");
      const size_t e = expert < 0 ? 0 : static_cast<size_t>(expert);
      const ReadGgufTensor& t = made.file.at(name);
      EXPECT_EQ(t.type, 40u) << name;
      const std::vector<double> want = code_values(published, module);
      const std::vector<double>& all = values.at(name);
      ASSERT_GE(all.size(), (e + 1) * want.size()) << name;
      EXPECT_TRUE(std::equal(want.begin(), want.end(),
                             all.begin() + static_cast<ptrdiff_t>(e * want.size())))
          << module;
      const std::string bare = name.substr(0, name.size() - std::string(".weight").size());
      EXPECT_EQ(values.at(bare + ".scale").at(e),
                floats_of(published.at(module + ".weight_scale_2")).at(0));
      EXPECT_EQ(values.at(bare + ".input_scale").at(e),
                floats_of(published.at(module + ".input_scale")).at(0));
    }
    EXPECT_EQ(made.file.at("blk.2.ssm_in.weight").type, 30u);  // feeds attention: never codes
    EXPECT_EQ(made.file.at("output.weight").type, 30u);
  }
}

TEST(ExportCodes, NumbersAskedForAreThoseTheCodesStandFor) {
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4}) {
    const TempDir dir;
    const fs::path file = write_coded(dir, coded_model(), format);
    write_quantized_slice(file, "narrow", dir.path() / "slice", format);
    const MadeGguf made = make(dir, file, "narrow", {.type = GgmlType::kF32, .tokenizer = false});
    ASSERT_EQ(made.done.notes.size(), 1u);
    EXPECT_NE(made.done.notes[0].find("codes are written as the numbers they stand for, in F32"),
              std::string::npos);
    const SafetensorsDir published(dir.path() / "slice");
    const ValuesByName values = values_of(made.file);
    for (const std::string& module : coded_modules(published)) {
      const char* of_weight = format == WeightFormat::kFp8 ? ".weight_scale" : ".weight_scale_2";
      const auto scale = static_cast<float>(floats_of(published.at(module + of_weight)).at(0));
      const auto [name, expert] = place(module + ".weight");
      const std::vector<double> want = code_values(published, module);
      const std::vector<double>& all = values.at(name);
      const size_t begin = expert < 0 ? 0 : static_cast<size_t>(expert) * want.size();
      for (size_t i = 0; i < want.size(); ++i)
        ASSERT_EQ(all[begin + i], static_cast<float>(want[i]) * scale) << module << ' ' << i;
    }
  }
}

TEST(ExportCodes, CodesWithoutATypeThereAreRefused) {
  const TempDir dir;
  expect_error(
      [&] { make(dir, write_coded(dir, coded_model(), WeightFormat::kFp8), "100%"); },
      {"fp8.h5: its weights are FP8 codes, which llama.cpp has no type for; --precision bf16"});
  ElasticModel m = coded_model();
  m.config.expert_ffn = 32;
  m.sizes = {testing::make_size(m.config, "100%", full_widths(m.config))};
  m.order = identity_order(m.config);
  expect_error(
      [&] { make(dir, write_coded(dir, m, WeightFormat::kNvfp4), "100%", {.tokenizer = false}); },
      {"tensor blk.1.ffn_down_exps.weight has rows of 32; GGUF's NVFP4 needs multiples of 64"});
}

}  // namespace
}  // namespace nestling
