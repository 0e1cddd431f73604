// The config: what is read, what is refused and how it is said, and that nothing is lost in a dump.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "trainer/config_fields.h"
#include "trainer/config_visitors.h"

namespace nestling {
namespace {

using testing::expect_error;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr const char* kSmall = R"(name: nano
tokenizer: tok
model: {pattern: "*-", hidden: 64, query_heads: 4, kv_heads: 2, head_dim: 16, ffn: 128}
data:
  train:
    - {path: corpus/a, weight: 0.75}
    - path: corpus/b
seq_len: 128
global_batch_tokens: 1024
tokens: 12_000_000
optimizer:
  lr: 3e-3
  schedule: wsd
)";

class ConfigTest : public ::testing::Test {
 protected:
  PretrainConfig read(const std::string& text, const std::vector<std::string>& overrides = {}) {
    return read_pretrain_config(dir_.write("run.yaml", text), overrides);
  }
  void refused(const std::string& text, std::initializer_list<const char*> parts,
               const std::vector<std::string>& overrides = {}) {
    expect_error([&] { read(text, overrides); }, parts);
  }
  TempDir dir_;
};

TEST_F(ConfigTest, ReadsFieldsAndKeepsDefaults) {
  const PretrainConfig c = read(kSmall);
  EXPECT_EQ(c.name, "nano");
  EXPECT_EQ(c.model.query_heads, 4);
  ASSERT_EQ(c.data.train.size(), 2u);
  EXPECT_EQ(c.data.train[0].weight, 0.75);
  EXPECT_EQ(c.data.train[1].path, "corpus/b");
  EXPECT_EQ(c.data.train[1].weight, 1.0);
  EXPECT_EQ(c.tokens, 12000000);
  EXPECT_EQ(c.optimizer.lr, 3e-3);
  EXPECT_EQ(c.optimizer.beta2, 0.95);
  EXPECT_EQ(c.seed, 42u);
}

TEST_F(ConfigTest, UnknownKeyNamesFileLineAndNearest) {
  refused(std::string(kSmall) + "  warmup_token: 5\n",
          {"run.yaml:14: optimizer.warmup_token: there is no such key",
           "nearest is optimizer.warmup_tokens"});
  refused(std::string(kSmall) + "sede: 5\n", {"run.yaml:14: sede:", "nearest is seed"});
  refused(std::string(kSmall) + "lr: 5\n", {"lr:", "nearest is optimizer.lr"});
  refused(std::string(kSmall), {"data.train.1.wieght", "nearest is data.train.N.weight"},
          {"data.train.1.wieght=2"});
}

TEST_F(ConfigTest, RepeatedKeyIsRefused) {
  refused(std::string(kSmall) + "seq_len: 128\n",
          {"run.yaml:14: key 'seq_len' is given twice, first at", "run.yaml:8"});
  refused(std::string(kSmall) + "  lr: 1\n", {"key 'lr' is given twice"});
}

TEST_F(ConfigTest, WrongTypesAndRanges) {
  const std::string base = kSmall;
  refused(base, {"--set seq_len=x: seq_len: needs an integer", "found a plain word 'x'"},
          {"seq_len=x"});
  refused(base, {"seq_len"}, {"seq_len=\"128\""});
  refused(base, {"tokens: needs an integer from 1"}, {"tokens=0"});
  refused(base, {"tokens"}, {"tokens=1.5"});
  refused(base, {"optimizer.lr: needs a number above 0"}, {"optimizer.lr=0"});
  refused(base, {"optimizer.lr"}, {"optimizer.lr=nan"});
  refused(base, {"optimizer.lr"}, {"optimizer.lr=.inf"});
  refused(base, {"optimizer.schedule: needs cosine, linear, constant or wsd"},
          {"optimizer.schedule=cosinus"});
  refused(base, {"log.tensorboard: needs true or false"}, {"log.tensorboard=yes"});
  refused(base, {"data.train.0.weight: needs a number above 0"}, {"data.train.0.weight=0"});
  refused(base, {"name: needs a plain file name"}, {"name=a/b"});
  refused(base, {"name"}, {"name=.."});
  refused(base, {"name: needs a plain file name", "found nothing"}, {"name="});
  refused(base, {"checkpoint.keep: needs an integer from 2"}, {"checkpoint.keep=1"});
  refused(base, {"optimizer: needs a map, found a plain word '3'"}, {"optimizer=3"});
  refused(base, {"data.train: needs a list of at least one item"}, {"data.train=[]"});
  refused(base, {"seed: needs an integer"}, {"seed=-1"});
  refused("name: x\n", {"run.yaml: needs tokenizer, data.train, global_batch_tokens, tokens"});
  refused("- a\n- b\n", {"needs keys and values, found a list"});
}

TEST_F(ConfigTest, FieldsThatMustAgree) {
  refused(kSmall, {"global_batch_tokens 1000 is not a multiple of seq_len 128"},
          {"global_batch_tokens=1000"});
  refused(kSmall, {"optimizer.warmup_tokens 20000000 exceeds tokens 12000000"},
          {"optimizer.warmup_tokens=2e7"});
  refused(kSmall, {"both init ('x') and model.pattern"}, {"init=x"});
  refused(kSmall, {"needs model.pattern"}, {"model.pattern=\"\""});
  refused(kSmall, {"num_attention_heads is 3, not a multiple"}, {"model.query_heads=3"});
}

TEST(ConfigValue, Integers) {
  EXPECT_EQ(parse_integer("1e9"), 1000000000);
  EXPECT_EQ(parse_integer("2.5e3"), 2500);
  EXPECT_EQ(parse_integer("1_000_000"), 1000000);
  EXPECT_EQ(parse_integer("+7"), 7);
  EXPECT_EQ(parse_integer("-7.000"), -7);
  EXPECT_EQ(parse_integer("0e500"), 0);
  EXPECT_EQ(parse_integer("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(parse_integer("-9223372036854775808"), INT64_MIN);
  EXPECT_EQ(parse_seed("18446744073709551615"), UINT64_MAX);
  for (const char* bad : {"", "x", "1_", "_1", "1__0", "1e-1", "1.5", "9223372036854775808", "1e",
                          "1e+-3", "0x10", "1 2", "-", ".", "e5", "1e99999999999"})
    EXPECT_FALSE(parse_integer(bad)) << bad;
}

TEST(ConfigValue, Numbers) {
  EXPECT_EQ(parse_number("1e-8"), 1e-8);
  EXPECT_EQ(parse_number("+.5"), 0.5);
  EXPECT_EQ(parse_number("1_0.25"), 10.25);
  EXPECT_EQ(parse_number("2%"), 0.02);
  for (const char* bad : {"", "%", "2%%", "nan", "inf", "1e400", "1.2.3", "0x1p3", "1,5", "+-1"})
    EXPECT_FALSE(parse_number(bad)) << bad;
  std::mt19937_64 random(7);
  for (int i = 0; i < 1000; ++i) {
    const double x =
        std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 200) - 100);
    EXPECT_EQ(parse_number(print_value(x)), x);
  }
}

TEST_F(ConfigTest, Overrides) {
  const PretrainConfig c =
      read(kSmall, {"data.train.0.weight=2", "optimizer.lr=1e-4", "optimizer.lr=2e-4",
                    "log.every_steps=3", "data.validation=[{path: v}]"});
  EXPECT_EQ(c.data.train[0].weight, 2);
  EXPECT_EQ(c.optimizer.lr, 2e-4);
  EXPECT_EQ(c.log.every_steps, 3);
  ASSERT_EQ(c.data.validation.size(), 1u);
  refused(kSmall, {"--set data.train.2.weight=2", "'2' names no item of a list of 2"},
          {"data.train.2.weight=2"});
  refused(kSmall, {"data.validation.0.weight", "there is no such key"},
          {"data.validation=[{path: v, weight: 2}]"});
  refused(kSmall, {"needs the form key=value"}, {"seed"});
  refused(kSmall, {"'x' lies under a plain word"}, {"seq_len.x=2"});
}

TEST_F(ConfigTest, LowActivationsNeedLowProductsAndADevice) {
  const std::string low = "precision.activations=bf16";
  refused(kSmall, {"cuda_isa sm_80 needs device cuda; it is cpu"}, {"cuda_isa=sm_80"});
  refused(kSmall, {"activations bf16 needs device cuda; on cpu activations are fp32"}, {low});
  refused(kSmall, {"activations bf16 needs precision.compute bf16, not fp32"},
          {low, "device=cuda", "precision.compute=fp32"});
  dir_.write("low.yaml", kSmall);
  const auto c = read_pretrain_config(dir_.path() / "low.yaml", {low, "device=cuda"});
  EXPECT_EQ(c.precision.activations_type(), DType::kBF16);
}

TEST_F(ConfigTest, ActivationsThatNobodyChoseAreBf16WhereTheyCanBe) {
  dir_.write("any.yaml", kSmall);
  const auto settled = [&](const std::vector<std::string>& overrides) {
    return read_pretrain_config(dir_.path() / "any.yaml", overrides).precision.activations;
  };
  EXPECT_EQ(settled({"precision.compute=bf16", "device=cuda"}), "bf16");
  EXPECT_EQ(settled({"precision.compute=bf16"}), "fp32");
  EXPECT_EQ(settled({"precision.compute=fp32", "device=cuda"}), "fp32");
  EXPECT_EQ(settled({"precision.compute=bf16", "device=cuda", "precision.activations=fp32"}),
            "fp32");
}

TEST_F(ConfigTest, IncludeLiesBelow) {
  std::filesystem::create_directories(dir_.path() / "base");
  dir_.write("base/all.yaml", kSmall);
  dir_.write("base/mid.yaml", "include: all.yaml\nseed: 7\noptimizer: {beta1: 0.8}\n");
  const PretrainConfig c = read(
      "include: base/mid.yaml\nname: other\noptimizer: {lr: 1e-5}\ndata: {train: [{path: z}]}\n");
  EXPECT_EQ(c.name, "other");
  EXPECT_EQ(c.seed, 7u);
  EXPECT_EQ(c.optimizer.lr, 1e-5);
  EXPECT_EQ(c.optimizer.beta1, 0.8);
  EXPECT_EQ(c.optimizer.schedule, "wsd");
  ASSERT_EQ(c.data.train.size(), 1u);
  dir_.write("base/mid.yaml", "include: all.yaml\nsede: 7\n");
  refused("include: base/mid.yaml\n", {"base/mid.yaml:2: sede"});
  refused("include: run.yaml\n", {"includes itself"});
  refused("include: absent.yaml\n", {"absent.yaml"});
  refused("include: [a, b]\n", {"include: needs the name of a file, found a list"});
}

TEST_F(ConfigTest, WhatYamlWouldDropIsRefused) {
  const std::string base = kSmall;
  refused(base + "seed: *x\n", {"run.yaml:14"});
  refused(base + "log: &a {every_steps: 5}\ncheckpoint: *a\n", {"aliases"});
  refused(base + "<<: {seed: 1}\n", {"merge keys"});
  refused(base + "seed: !!int 4\n", {"tag"});
  refused(base + "---\nseed: 3\n", {"more than one document"});
  refused(base + "seed: [1\n", {"run.yaml:", "not YAML"});
  refused(base + std::string("\x04seed: 1\n", 9), {"run.yaml:14: control character 4"});
  refused(base + "init: \"\xff\"\n", {"run.yaml:14: the text is not UTF-8"});
  refused(base + "? [a]\n: 3\n", {"a key must be a plain word"});
}

// Gives every field a value that is not the default.
struct Change {
  int64_t n = 0;
  void set(int64_t& x, const IntegerRule& rule) { x = rule.low + ++n; }
  void set(uint64_t& x, const SeedRule&) { x = UINT64_MAX - static_cast<uint64_t>(++n); }
  void set(double& x, const NumberRule& rule) {
    x = rule.low + (rule.high - rule.low) / static_cast<double>(3 + ++n);
  }
  void set(bool& x, const FlagRule&) { x = !x; }
  void set(std::string& x, const TextRule& rule) {
    if (rule.letters != nullptr) return void(x = "*-");
    if (!rule.one_of.empty())
      return void(x = x == rule.one_of.front() ? rule.one_of.back() : rule.one_of.front());
    static const char* kAwkward[] = {"null", "a: b # c", " lead and \"quote\" \\ ",
                                     "true", "-x",       "gr\xc3\xbc\xc3\x9f",
                                     "{a}",  "*a",       "12",
                                     "a,b]"};
    x = kAwkward[static_cast<size_t>(++n) % std::size(kAwkward)];
  }
  template <class T, class Rule>
  void field(const char*, T& value, const char*, const Rule& rule) {
    set(value, rule);
  }
  template <class G>
  void group(const char*, G& value, const char*) {
    visit_fields(*this, value);
  }
  template <class G, class Rule>
  void list(const char*, std::vector<G>& items, const char*, const Rule&) {
    items.resize(2);
    for (G& item : items) visit_fields(*this, item);
  }
};

TEST_F(ConfigTest, DumpReadsBackIdentically) {
  const PretrainConfig c = read(kSmall);
  const std::string dump = dump_config(c);
  EXPECT_EQ(dump_config(read(dump)), dump);

  for (int64_t start = 0; start < 10; ++start) {  // every field meets every awkward text
    PretrainConfig changed;
    Change change{start};
    visit_fields(change, changed);
    const std::string all = dump_config(changed);
    const auto back = read_fields<PretrainConfig>(parse_yaml(all, "dump"), "dump");
    EXPECT_EQ(dump_config(back), all);
    EXPECT_EQ(back.output, changed.output);
    EXPECT_EQ(back.tokenizer, changed.tokenizer);
    EXPECT_EQ(back.optimizer.eps, changed.optimizer.eps);
  }
}

// A field that came or went changes the count, here as in config.h.
TEST(ConfigFields, ListIsWholeAndUnique) {
  std::set<std::string> paths;
  int64_t leaves = 0;
  for (const FieldInfo& f : list_fields<PretrainConfig>()) {
    EXPECT_TRUE(paths.insert(f.path).second) << f.path;
    EXPECT_FALSE(f.meaning.empty()) << f.path;
    leaves += f.leaf ? 1 : 0;
  }
  // 19 of the shape, 2 of a source, 1 of a text and validation_tokens, 10 of the optimizer, 1 of the
  // experts, 3 of the precision, 2 of checkpoints, 3 of the log, 15 of the run itself.
  EXPECT_EQ(leaves, 25 + 4 + 10 + 1 + 3 + 2 + 3 + 15);
}

TEST(ConfigFields, Reference) {
  const std::string table = pretrain_config_reference();
  EXPECT_THAT(table, HasSubstr("| `optimizer.lr` | number | `0.001` | a number above 0 to 10 |"));
  EXPECT_THAT(table, HasSubstr("| `name` | text | *needed* |"));
  EXPECT_THAT(table, HasSubstr("| `data.train.N.weight` |"));
  EXPECT_THAT(table, HasSubstr("M Mamba-2, \\* attention"));
}

TEST_F(ConfigTest, DamagedTextIsReadOrRefused) {
  std::mt19937_64 random(11);
  const std::string whole = dump_config(read(kSmall));
  int refusals = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = whole;
    for (uint64_t k = 1 + random() % 4; k > 0; --k)
      text[random() % text.size()] = static_cast<char>(random() % 256);
    try {
      const auto c = read_fields<PretrainConfig>(parse_yaml(text, "damaged"), "damaged");
      const std::string dump = dump_config(c);
      EXPECT_EQ(dump_config(read_fields<PretrainConfig>(parse_yaml(dump, "d"), "d")), dump);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
      ++refusals;
    }
  }
  EXPECT_GT(refusals, 1000);
}

}  // namespace
}  // namespace nestling
