// The files that a whole run leaves: the parent sorted and nothing else, sizes that keep their budgets, and
// the precision asked for.
#include "trainer/run/elastic_run.h"

#include <cstring>
#include <fstream>
#include <gtest/gtest.h>

#include "data/json.h"
#include "model/elastic_file.h"
#include "model/order.h"
#include "runtime/verify.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kVocab = 4096;
constexpr const char* kTexts[] = {"reasoning:addition:1-2:0-20:heldout",
                                  "reasoning:sorting:1-2:0-20:heldout"};

RunConfig settings(const fs::path& dir) {
  RunConfig c;
  c.name = "run";
  c.output = dir / "runs";
  c.parent = dir / "parent";
  c.data.train = {{.path = "reasoning:addition:1-2:0-50"}};
  c.data.validation = {{.path = kTexts[0]}, {.path = kTexts[1]}};
  c.data.validation_tokens = 64;
  c.evaluation.seq_len = 32;
  c.data.calibration = {.samples = 2, .seq_len = 32};
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.mamba_heads = {"100%", "50%"};
  c.elastic.choices.experts = {"100%", "50%"};
  c.elastic.choices.ffn = {"48", "32", "16"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"total_params", "55%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.1;
  c.curriculum = {{.name = "one", .seq_len = 32, .tokens = 128, .global_batch_tokens = 64}};
  c.evaluation.problems = 0;
  c.precision.compute = "fp32";
  c.log.tensorboard = false;
  return c;
}

void write_parent(const fs::path& dir) {
  fs::create_directories(dir);
  testing::write_tiny_model(dir, kVocab, 3);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(testing::source_dir() / "data/tokenizers/tiny-reasoner" / name, dir / name);
}

// Every text was measured for itself: the losses of the same size are not the same.
void expect_two_texts(const fs::path& log) {
  std::ifstream in(log);
  std::vector<double> losses;
  for (std::string line; std::getline(in, line);) {
    const JsonDocument record = parse_json(line, "log");
    const JsonRef scalars = record.root().find("scalars");
    if (!scalars || !scalars.find(str("valid/", kTexts[0], "/half/loss"))) continue;
    for (const char* text : kTexts)
      losses.push_back(scalars.at(str("valid/", text, "/half/loss")).number());
  }
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_NE(losses[0], losses[1]);
}

class ElasticRunFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(ElasticRunFiles, HoldTheSortedParentAndSizesOfTheirBudgets) {
  const testing::TempDir dir;
  write_parent(dir.path() / "parent");
  RunConfig config = settings(dir.path());
  config.store = GetParam();
  const bool wide = config.store == "fp32";
  const auto comm = make_self_comm();
  ElasticRun run(config, *comm, ConfigChange::kRefused);
  run.measure_importance();
  run.distill();
  EXPECT_TRUE(run.router().frozen());  // by its end, not by agreement
  run.write_elastic_files();

  const ModelConfig model = read_model_config(config.parent);
  Weights parent(model, Device::kCpu, {});
  import_weights(config.parent, model, parent);
  const fs::path before = dir.path() / "runs/run/before.h5";
  const ElasticHeader header = read_elastic_header(before);
  EXPECT_EQ(header.precision, wide ? StoredType::kF32 : StoredType::kBF16);
  EXPECT_NE(header.model.order.hidden, identity_order(model).hidden);
  LoadedSize sorted = load_elastic_whole(before, DType::kF32);
  apply_order(model, inverse(model, header.model.order), sorted.weights);
  for (int64_t i = 0; wide && i < parent.count(); ++i)
    EXPECT_EQ(0, std::memcmp(sorted.weights.master(i).data(), parent.master(i).data(),
                             static_cast<size_t>(parent.master(i).bytes())))
        << parent.specs()[static_cast<size_t>(i)].name;
  expect_two_texts(dir.path() / "runs/run/log.jsonl");
  Context ctx(Device::kCpu);
  for (const char* file : {"before.h5", "elastic.h5"})
    for (const Check& check : verify_model(ctx, dir.path() / "runs/run" / file))
      EXPECT_TRUE(check.ok) << file << ", " << check.name << ": " << check.detail;
}
// Found before the first step, not when training is over.
TEST(ElasticRunTexts, OfTheEvaluationAreOpenedBeforeAnythingIsTrained) {
  const testing::TempDir dir;
  write_parent(dir.path() / "parent");
  RunConfig config = settings(dir.path());
  config.evaluation.text = {{.path = kTexts[0]}, {.path = dir.path() / "absent.jsonl"}};
  const auto comm = make_self_comm();
  testing::expect_error([&] { ElasticRun(config, *comm, ConfigChange::kRefused); },
                        {"absent.jsonl"});
  EXPECT_FALSE(fs::exists(dir.path() / "runs/run/config.yaml"));
}
INSTANTIATE_TEST_SUITE_P(Stored, ElasticRunFiles, ::testing::Values("fp32", "bf16"));

}  // namespace
}  // namespace nestling
