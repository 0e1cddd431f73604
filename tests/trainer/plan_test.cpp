// A run projected onto a cluster: the time of counted work by hand, stages and their sums, what fits, what is refused.
#include "trainer/run/plan.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

using testing::expect_error;
using testing::TempDir;

constexpr int64_t kVocab = 60, kLength = 32, kGlobal = 8 * kLength;

// Two nodes of two devices; every share a half.
ClusterConfig round_numbers() {
  const AchievedShare half{.share = 0.5, .basis = "assumed", .source = "a test"};
  ClusterConfig c;
  c.name = "four";
  c.device = {.name = "card",
              .memory_gib = 10,
              .reserved_gib = 1,
              .bf16_tflops = 100,
              .fp32_tflops = 10,
              .memory_gb_s = 1000,
              .source = "a test"};
  c.devices_per_node = 2;
  c.nodes = 2;
  c.links = {.within_gb_s = 100, .between_gb_s = 10, .source = "a test"};
  c.achieved = {.products = half, .memory = half, .links = half};
  return c;
}

RunConfig elastic_config(const TempDir& dir) {
  testing::write_tiny_model(dir.path(), kVocab, 3);
  RunConfig c;
  c.name = "planned";
  c.parent = dir.path();
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.experts = {"100%", "50%"};
  c.elastic.choices.ffn = {"100%", "16"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"active_params", "50%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.3;
  c.data.calibration = {.samples = 8, .seq_len = kLength, .depth_samples = 4};
  c.curriculum = {{.name = "one",
                   .seq_len = kLength,
                   .tokens = 10 * kGlobal,
                   .sampling = {{"full", "0.75"}, {"half", "0.25"}},
                   .global_batch_tokens = kGlobal,
                   .micro_batch = 1},
                  {.name = "two",
                   .seq_len = 2 * kLength,
                   .tokens = 2 * kGlobal - 1,
                   .global_batch_tokens = kGlobal,
                   .micro_batch = 1}};
  return c;
}

const PlanStage& stage(const PlanSetting& s, const std::string& name, const std::string& mode) {
  for (const PlanStage& one : s.stages)
    if (one.name == name && one.mode == mode) return one;
  throw Error(str("no stage ", name, " ", mode));
}

// 100 TFLOP at 50 TFLOP/s; 1,000 GB at 500 GB/s. Of 1 GB sent to three others a third at 50 GB/s, two thirds at 5. In a
// ring 2 GB leave a device at 50 GB/s, and half of that its node at 5, at the same time.
TEST(Plan, TimeByHand) {
  std::map<std::string, Work, std::less<>> work;
  work["linear_forward"] = {.flops = 100e12, .bytes = 10e9, .calls = 1};
  work["rms_norm_forward"] = {.flops = 1e9, .bytes = 1000e9, .calls = 7};
  work["all_gather"] = {.flops = 0, .bytes = 2e9, .calls = 1};
  work["reduce_scatter"] = {.flops = 0, .bytes = 1e9, .calls = 1};
  ClusterConfig c = round_numbers();
  const StepTime four = step_time(work, c, DType::kBF16);
  EXPECT_DOUBLE_EQ(four.products, 2.0);
  EXPECT_DOUBLE_EQ(four.memory, 2.0);
  EXPECT_DOUBLE_EQ(four.links, (1.0 / 3 / 50 + 2.0 / 3 / 5) + 1.0 / 5);
  EXPECT_DOUBLE_EQ(four.seconds(), 4.34);
  EXPECT_DOUBLE_EQ(step_time(work, c, DType::kF32).products, 20.0);
  c.links.between_gb_s = 100;  // now the ring's way within a node is the longer
  EXPECT_DOUBLE_EQ(step_time(work, c, DType::kBF16).links, 1.0 / 50 + 2.0 / 50);
  c.nodes = 1;  // all of it within the node
  EXPECT_DOUBLE_EQ(step_time(work, c, DType::kBF16).links, 3.0 / 50);
  c.devices_per_node = 1;  // nobody to send to
  EXPECT_EQ(step_time(work, c, DType::kBF16).links, 0);
}

TEST(Plan, StagesOfAnElasticRun) {
  const TempDir dir;
  RunConfig config = elastic_config(dir);
  const ClusterConfig cluster = round_numbers();
  const Plan plan = plan_run(config, cluster);
  ASSERT_EQ(plan.settings.size(), 4u);
  const PlanSetting& own = plan.own();
  EXPECT_EQ(own.recompute, "none");
  EXPECT_EQ(own.shard, "optimizer");
  ASSERT_EQ(own.stages.size(), 5u);  // importance; masks and slices of two phases
  EXPECT_EQ(own.stages[0].tokens, 8 * kLength);
  const PlanStage& masks = stage(own, "one", "mask");
  const PlanStage& slices = stage(own, "one", "slice");
  EXPECT_EQ(masks.steps, 10);
  EXPECT_EQ(stage(own, "two", "slice").steps, 2);  // the last step goes beyond its tokens
  EXPECT_EQ(slices.tokens, kGlobal);

  // The mean over the sizes as they are drawn.
  const DryRun dry = dry_run(config, 4);
  const DryStep &full = dry.steps.at(1), &half = dry.steps.at(2);
  ASSERT_EQ(full.size, "full");
  ASSERT_EQ(half.size, "half");
  const double of_full = step_time(full.work, cluster, DType::kBF16).seconds();
  const double of_half = step_time(half.work, cluster, DType::kBF16).seconds();
  EXPECT_DOUBLE_EQ(slices.step.seconds(), 0.75 * of_full + 0.25 * of_half);
  EXPECT_LT(of_half, of_full);

  const double first = own.stages[0].step.seconds();
  const double in_slices =
      first + 10 * slices.step.seconds() + 2 * stage(own, "two", "slice").step.seconds();
  const double in_masks =
      first + 10 * masks.step.seconds() + 2 * stage(own, "two", "mask").step.seconds();
  EXPECT_DOUBLE_EQ(own.least_seconds, in_slices);
  EXPECT_DOUBLE_EQ(own.most_seconds, in_masks);
}

// Choices freeze after so many tokens at the latest: three steps of ten.
TEST(Plan, MasksEndWhereChoicesFreeze) {
  const TempDir dir;
  RunConfig config = elastic_config(dir);
  config.router.freeze.at_tokens = 2 * kGlobal + 1;
  const PlanSetting own = plan_run(config, round_numbers()).own();
  EXPECT_EQ(stage(own, "one", "mask").steps, 3);
  EXPECT_EQ(stage(own, "two", "mask").steps, 0);
  const double more =
      stage(own, "one", "mask").step.seconds() - stage(own, "one", "slice").step.seconds();
  EXPECT_NEAR(own.most_seconds - own.least_seconds, 3 * more, 1e-9 * own.most_seconds);
}

TEST(Plan, SizesThatShareATeachersForwardAreTakenTogether) {
  const TempDir dir;
  RunConfig config = elastic_config(dir);
  const double alone = stage(plan_run(config, round_numbers()).own(), "two", "slice").flops;
  config.distill.sizes_per_micro_batch = 2;
  const DryRun dry = dry_run(config, 4);
  ASSERT_EQ(dry.steps.size(), 8u);  // masks, both sizes together, each alone; twice
  EXPECT_TRUE(dry.steps.at(5).drawn);
  const double both = stage(plan_run(config, round_numbers()).own(), "two", "slice").flops;
  EXPECT_EQ(both, dry.steps.at(5).total.flops);
  EXPECT_GT(both, 1.3 * alone);  // a teacher's forward less than twice
  EXPECT_LT(both, 2.0 * alone);
}

TEST(Plan, HasTheStageOnCodesInEverySetting) {
  const TempDir dir;
  RunConfig config = elastic_config(dir);
  config.qad = {.format = "fp8", .tokens = 4 * kGlobal};
  config.parallel.shard = "layers";
  const Plan plan = plan_run(config, round_numbers());
  EXPECT_EQ(plan.own().shard, "layers");
  ASSERT_EQ(plan.settings.size(), 4u);
  for (const PlanSetting& s : plan.settings) {
    EXPECT_EQ(stage(s, "qad", "codes").steps, 4);
    EXPECT_GT(stage(s, "qad", "codes").flops, 0);
  }
  // Operators of a tiny model start as long as they run.
  EXPECT_NE(plan_text(plan).find("too short to trust"), std::string::npos);
  ClusterConfig slow = round_numbers();
  slow.device.memory_gb_s = 1e-3;
  EXPECT_EQ(plan_text(plan_run(config, slow)).find("too short to trust"), std::string::npos);
}

// A device that is a byte too small for the config's setting holds that with recompute.
TEST(Plan, SaysWhatFits) {
  const TempDir dir;
  const RunConfig config = elastic_config(dir);
  ClusterConfig cluster = round_numbers();
  const Plan roomy = plan_run(config, cluster);
  for (const PlanSetting& s : roomy.settings) EXPECT_TRUE(s.fits);
  EXPECT_NE(plan_text(roomy).find("this config fits"), std::string::npos);

  const DryRun dry = dry_run(config, 4);
  EXPECT_EQ(total_bytes(roomy.own().pools), total_bytes(dry.largest()));
  EXPECT_EQ(roomy.own().importance, total_bytes(dry_run_importance(config, 4).largest()));
  const auto bytes = static_cast<double>(roomy.own().bytes());
  cluster.device = round_numbers().device;
  cluster.device.reserved_gib = 0;
  cluster.device.memory_gib = bytes / (1 << 30);
  EXPECT_TRUE(plan_run(config, cluster).own().fits);
  cluster.device.memory_gib = (bytes - 1) / (1 << 30);
  const Plan tight = plan_run(config, cluster);
  EXPECT_FALSE(tight.own().fits);
  EXPECT_TRUE(std::ranges::any_of(tight.settings, &PlanSetting::fits));
  EXPECT_NE(plan_text(tight).find("this config does not fit. What fits: recompute "),
            std::string::npos);
  cluster.device.memory_gib = 1e-6;
  EXPECT_NE(plan_text(plan_run(config, cluster)).find("What fits: no setting of these two; more"),
            std::string::npos);
}

TEST(Plan, PretrainingAndWhatItCosts) {
  const TempDir dir;
  testing::write_tiny_model(dir.path(), kVocab, 3);
  PretrainConfig config;
  config.name = "pretraining";
  config.init = dir.path();
  config.seq_len = kLength;
  config.micro_batch = 1;
  config.global_batch_tokens = kGlobal;
  config.tokens = 10 * kGlobal;
  config.recompute = "layer";
  ClusterConfig cluster = round_numbers();
  EXPECT_NE(plan_text(plan_run(config, cluster)).find("no price"), std::string::npos);
  cluster.price = {.per_device_hour = 2.5, .currency = "EUR", .source = "a test"};
  const Plan plan = plan_run(config, cluster);
  const PlanSetting& own = plan.own();
  EXPECT_EQ(own.recompute, "layer");
  EXPECT_EQ(own.importance, 0);
  ASSERT_EQ(own.stages.size(), 1u);
  EXPECT_EQ(own.stages[0].steps, 10);
  EXPECT_DOUBLE_EQ(own.least_seconds, 10 * own.stages[0].step.seconds());
  EXPECT_EQ(own.least_seconds, own.most_seconds);
  EXPECT_DOUBLE_EQ(own.stages[0].tokens_per_second(), kGlobal / own.stages[0].step.seconds());
  const std::string text = plan_json(plan);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const auto all = nlohmann::json::parse(text);
  EXPECT_EQ(all["kind"], "projected");
  EXPECT_EQ(all["ranks"], 4);
  const auto& mine = all["settings"][1];
  EXPECT_EQ(mine["config"], true);
  const double hours = own.least_seconds / 3600 * 4;
  EXPECT_DOUBLE_EQ(mine["device_hours"]["least"].get<double>(), hours);
  EXPECT_DOUBLE_EQ(mine["cost"]["most"].get<double>(), hours * 2.5);
  EXPECT_EQ(all["currency"], "EUR");
}

TEST(Plan, ABatchThatRanksCannotShareNamesTheNearest) {
  const TempDir dir;
  RunConfig config = elastic_config(dir);
  config.curriculum[1].global_batch_tokens = 6 * 2 * kLength;  // for 4 ranks 4 or 8 sequences
  expect_error([&] { plan_run(config, round_numbers()); },
               {"curriculum 'two'", "is 6 sequences of 64, which 4 ranks", "nearest that they can",
                "is 256"});
  config.curriculum[1].global_batch_tokens = 7 * 2 * kLength;
  expect_error([&] { check_ranks(config, 4); }, {"nearest that they can is 512"});
  config.curriculum[1].global_batch_tokens = 2 * kLength;  // of none there is no step
  expect_error([&] { check_ranks(config, 4); }, {"nearest that they can is 256"});
}

TEST(Cluster, ThoseOfTheRepositoryAreRead) {
  const auto folder = testing::source_dir() / "configs/clusters";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const ClusterConfig c = read_cluster(entry.path(), {});
    EXPECT_EQ(c.name.substr(0, c.name.find(' ')), std::to_string(c.ranks())) << entry.path();
    EXPECT_EQ(c.price.per_device_hour, 0) << entry.path();  // none is from a source
    ++files;
  }
  EXPECT_EQ(files, 4);
  EXPECT_EQ(read_cluster(folder / "h100-8.yaml", {"nodes=3"}).ranks(), 24);
}

TEST(Cluster, RefusesWhatDoesNotFit) {
  const auto file = testing::source_dir() / "configs/clusters/h100-8.yaml";
  const auto refused = [&](const std::string& assignment, std::initializer_list<const char*> says) {
    expect_error([&] { read_cluster(file, {assignment}); }, says);
  };
  refused("device.bf16_tflop=3", {"device.bf16_tflop", "nearest is device.bf16_tflops"});
  refused("device.reserved_gib=80", {"device.reserved_gib 80 leaves nothing"});
  refused("achieved.products.share=120%", {"achieved.products.share"});
  refused("achieved.products.basis=guessed", {"published, measured or assumed"});
  refused("price.per_device_hour=2", {"price.per_device_hour is 2", "price.source"});
  refused("nodes=1000000", {"nodes"});
  const TempDir dir;
  std::ofstream(dir.path() / "one.yaml")
      << "include: " << std::filesystem::absolute(file).string() << "\nnodes: 2\n"
      << "links: {between_gb_s: 0}\n";
  expect_error([&] { read_cluster(dir.path() / "one.yaml", {}); },
               {"one.yaml", "nodes is 2", "links.between_gb_s is not given"});
}

}  // namespace
}  // namespace nestling
