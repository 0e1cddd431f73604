// A dry run against the step it stands for: the same memory, and the work the cost model counts.
#include "trainer/run/dry_run.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/core/rng.h"
#include "model/cost.h"
#include "model/quantize.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "trainer/calibration.h"
#include "trainer/distill_step.h"
#include "trainer/train_step.h"

namespace nestling {
namespace {

using testing::TempDir;

constexpr int64_t kVocab = 60, kLength = 40, kMicroBatch = 2, kGlobal = 4 * kLength;

Batch random_batch() {
  Batch b;
  b.sequences = kMicroBatch;
  b.seq_len = kLength;
  Rng rng(4);
  for (int64_t t = 0; t < kMicroBatch * kLength; ++t) {
    b.tokens.push_back(static_cast<int32_t>(rng.below(kVocab)));
    b.targets.push_back(static_cast<int32_t>(rng.below(kVocab)));
  }
  for (int64_t s = 0; s <= kMicroBatch; ++s)
    b.cu_seqlens.push_back(static_cast<int32_t>(s * kLength));
  b.counted_targets = kMicroBatch * kLength;
  return b;
}

RunConfig elastic_config(const TempDir& dir, const std::string& recompute) {
  testing::write_tiny_model(dir.path(), kVocab, 3);
  RunConfig c;
  c.parent = dir.path();
  c.precision.compute = "fp32";
  c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.choices.experts = {"100%", "50%"};
  c.elastic.choices.ffn = {"100%", "16"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"active_params", "50%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.3;
  c.curriculum = {{.name = "one",
                   .seq_len = kLength,
                   .tokens = kGlobal,
                   .global_batch_tokens = kGlobal,
                   .micro_batch = kMicroBatch}};
  c.parallel.recompute = recompute;
  return c;
}

PretrainConfig pretrain_config(const TempDir& dir, const std::string& recompute) {
  testing::write_tiny_model(dir.path(), kVocab, 3);
  PretrainConfig c;
  c.name = "pretraining";
  c.init = dir.path();
  c.precision.compute = "fp32";
  c.seq_len = kLength;
  c.micro_batch = kMicroBatch;
  c.global_batch_tokens = c.tokens = kGlobal;
  c.recompute = recompute;
  return c;
}

// The real step of what `dry` describes, on the CPU.
std::vector<MemoryPool> real_memory(const RunConfig& config, const DryStep& dry) {
  const ModelConfig model = testing::tiny_config(kVocab);
  const ElasticSpace space =
      make_space(model, written_choices(config.elastic.choices), config.elastic.multiple_of, {});
  Context ctx(Device::kCpu);
  const auto comm = make_self_comm();
  Weights teacher(model, Device::kCpu, {});
  teacher.initialize(3);
  RouterTraining router(space, config);
  if (dry.mode != "mask") router.freeze_evenly();
  StudentStart start;
  if (dry.mode == "codes") start.quantization = unit_scales(model, WeightFormat::kFp8);
  DistillStep step(space, config, teacher, router, ctx, *comm, TeacherMasters::kKept, start);
  std::vector<double> sampling = {0.5, 0.5};
  if (dry.mode != "mask")
    sampling = {dry.size == "full" ? 1.0 : 0.0, dry.size == "full" ? 0.0 : 1.0};
  const auto result = step.run({random_batch(), random_batch()}, sampling, {.lr = 1e-3});
  EXPECT_FALSE(result.skipped);
  return step.memory();
}

// Scratch that the null device does not take: the kernels' tiles. Of those on the way of a step the
// largest are the convolution's backward, per thread 2 taps rows of sums and 4 rows to read from, next to
// its taps + 1 rows of weights; experts take the inverse of their order, i32 a pair; AdamW's lists hold
// fewer than 64 bytes a parameter tensor. A kernel makes at most 8 allocations, rounded up to 256
// bytes each.
int64_t tiles_bound(const ModelConfig& c) {
  const int64_t widest = (std::max({c.hidden, c.inner(), c.ffn, c.vocab}) + 15) / 16 * 16;
  const int64_t rows = thread_count() * (2 * c.conv_kernel + 4) + c.conv_kernel + 1;
  const int64_t tensors = std::ssize(parameter_list(c));
  return rows * widest * 4 + kMicroBatch * kLength * c.top_k * 4 + 64 * tensors + 8 * 256;
}

void expect_memory(const std::vector<MemoryPool>& dry, const std::vector<MemoryPool>& real,
                   const std::string& what) {
  ASSERT_EQ(dry.size(), real.size());
  for (size_t i = 0; i < dry.size(); ++i) {
    EXPECT_EQ(dry[i].name, real[i].name);
    if (dry[i].name != "scratch") {
      EXPECT_EQ(dry[i].bytes, real[i].bytes) << what << ": " << dry[i].name;
      continue;
    }
    EXPECT_LE(dry[i].bytes, real[i].bytes) << what;
    EXPECT_LE(real[i].bytes, dry[i].bytes + tiles_bound(testing::tiny_config(kVocab))) << what;
  }
}

class DryRunOf : public ::testing::TestWithParam<const char*> {};

TEST_P(DryRunOf, AnElasticStepHasItsMemory) {
  const TempDir dir;
  const RunConfig config = elastic_config(dir, GetParam());
  const DryRun run = dry_run(config, 1);
  ASSERT_EQ(run.steps.size(), 3u);  // masks, then each size
  for (const DryStep& step : run.steps)
    expect_memory(step.pools, real_memory(config, step), step.mode + " " + step.size);
}

TEST_P(DryRunOf, AStepOnCodesHasItsMemory) {
  const TempDir dir;
  RunConfig config = elastic_config(dir, GetParam());
  config.qad.format = "fp8";
  config.qad.tokens = kGlobal;
  const DryRun run = dry_run(config, 1);
  ASSERT_EQ(run.steps.size(), 5u);  // masks, each size, each on codes
  for (const DryStep& step : {run.steps[3], run.steps[4]}) {
    ASSERT_EQ(step.mode, "codes");
    expect_memory(step.pools, real_memory(config, step), step.mode + " " + step.size);
  }
  config.qad.format = "nvfp4";
  testing::expect_error([&] { dry_run(config, 1); }, {"qad.format", "8 columns"});
}

TEST_P(DryRunOf, PretrainingHasItsMemory) {
  const TempDir dir;
  const PretrainConfig config = pretrain_config(dir, GetParam());
  const DryRun run = dry_run(config, 1);
  Context ctx(Device::kCpu);
  const auto comm = make_self_comm();
  TrainStep step(testing::tiny_config(kVocab), config, ctx, *comm);
  step.weights().initialize(3);
  EXPECT_FALSE(step.run({random_batch(), random_batch()}, 1e-3, 1).skipped);
  expect_memory(run.steps.at(0).pools, step.memory(), "pretraining");
}
INSTANTIATE_TEST_SUITE_P(Recompute, DryRunOf, ::testing::Values("none", "layer"),
                         [](const auto& p) { return std::string(p.param); });

double forward_products(const DryStep& s) {
  return s.work.at("linear_forward").flops + s.work.at("expert_linear_forward").flops;
}

// A forward multiplies and adds once for every active parameter that is a matrix of a product: all but
// vectors, convolutions and the embedding that is looked up. The teacher's and the student's forward of
// the parent's size are two, and recompute adds a third without the head.
TEST(DryRun, CountsTheProductsOfTheCostModel) {
  const ModelConfig c = testing::tiny_config(kVocab);
  int64_t others = 0;
  int64_t head = 0;
  for (const ParameterSpec& spec : parameter_list(c)) {
    const bool product = spec.product || spec.name.ends_with("gate.weight");
    if (!product || spec.name.find("embeddings") != std::string::npos) others += spec.size();
    if (spec.name.find("lm_head") != std::string::npos) head = spec.size();
  }
  ASSERT_GT(head, 0);
  const auto products = static_cast<double>(parameter_cost(c).active - others);
  const TempDir dir;
  RunConfig config = elastic_config(dir, "none");
  const DryStep none = dry_run(config, 1).steps.at(1);
  config.parallel.recompute = "layer";
  const DryStep layer = dry_run(config, 1).steps.at(1);
  ASSERT_EQ(none.size, "full");
  EXPECT_EQ(forward_products(none), 2 * 2.0 * kGlobal * products);
  EXPECT_EQ(forward_products(layer) - forward_products(none),
            2.0 * kGlobal * (products - static_cast<double>(head)));
}

// Of four ranks each holds a quarter of the batch and about a quarter of the moments; it sends the gradients that
// others step, and the weights it steps to three.
TEST(DryRun, SharesTheBatchAndCountsCollectives) {
  const TempDir dir;
  RunConfig config = elastic_config(dir, "none");
  config.curriculum[0].micro_batch = 1;
  const DryStep alone = dry_run(config, 1).steps.at(2),
                one_of_four = dry_run(config, 4).steps.at(2);
  EXPECT_EQ(alone.micro_batches, 4);
  EXPECT_EQ(one_of_four.micro_batches, 1);
  EXPECT_EQ(alone.work.at("all_reduce").bytes, 0);
  EXPECT_EQ(alone.work.at("all_reduce").calls, one_of_four.work.at("all_reduce").calls);
  const auto bytes = [](const DryStep& step, const char* name) {
    const auto found = std::find_if(step.pools.begin(), step.pools.end(),
                                    [&](const MemoryPool& p) { return p.name == name; });
    return found == step.pools.end() ? 0.0 : static_cast<double>(found->bytes);
  };
  const double gradients = bytes(alone, "gradients"), shard = bytes(one_of_four, "moments") / 2;
  ASSERT_GT(gradients, 0);
  EXPECT_EQ(bytes(one_of_four, "gradients"), gradients);
  EXPECT_EQ(bytes(alone, "moments"), 2 * gradients);
  EXPECT_GT(shard, 0.1 * gradients);
  EXPECT_LT(shard, 0.4 * gradients);
  EXPECT_EQ(one_of_four.work.at("reduce_scatter").bytes, gradients - shard);
  EXPECT_EQ(one_of_four.work.at("all_gather").bytes, 3 * shard);
  EXPECT_EQ(alone.work.at("reduce_scatter").bytes, 0);
  testing::expect_error([&] { dry_run(config, 3); }, {"3 ranks cannot share equally"});
}

// Of a layer in shares: once for the teacher, once for the student's forward, once for its backward, once its gradients.
TEST(DryRun, CountsWhatSharedLayersSend) {
  const TempDir dir;
  RunConfig config = elastic_config(dir, "none");
  config.curriculum[0].micro_batch = 1;
  const DryStep whole = dry_run(config, 2).steps.at(2);
  config.parallel.shard = "layers";
  const DryStep shared = dry_run(config, 2).steps.at(2);
  const ModelConfig model = read_model_config(config.parent);
  const auto comm = make_null_comm(0, 2);
  Weights weights(model, Device::kNull, {.layers_shared_by = comm.get()});
  const auto own = static_cast<double>(weights.shared_layers()->size());
  const auto own_rest =
      static_cast<double>(shares_of(weights.flat_places(), weights.flat_size(), 2).front().count);
  double matrices = 0;  // as padded in memory
  for (const ParameterSpec& spec : weights.specs())
    if (SharedLayers::holds(spec)) matrices += static_cast<double>(spec.padded_size());
  const auto times = static_cast<double>(shared.micro_batches);
  const auto sent = [](const DryStep& step, const char* name) { return step.work.at(name).bytes; };
  const auto calls = [](const DryStep& step, const char* name) { return step.work.at(name).calls; };
  EXPECT_EQ(calls(shared, "all_gather"), 1 + shared.micro_batches * 3 * model.layers());
  EXPECT_EQ(calls(shared, "reduce_scatter"), 1 + shared.micro_batches * model.layers());
  // Rank 0 of two sends its half when layers are brought, and gets that half's sums for the other's.
  const double rest = static_cast<double>(weights.flat_size()) - own_rest;
  EXPECT_EQ(sent(shared, "all_gather"), 4 * (3 * times * own + own_rest));
  EXPECT_EQ(sent(shared, "reduce_scatter"), 4 * (times * (matrices - own) + rest));
  EXPECT_LT(sent(whole, "all_gather"), 4 * matrices);
  EXPECT_EQ(shared.work.at("linear_forward").flops, whole.work.at("linear_forward").flops);
}

// Of a micro-batch longer than the CPU's chunk of the loss: one chunk of logits, the student's and the teacher's.
TEST(DryRun, HoldsAChunkOfLogitsAtOnce) {
  const TempDir dir;
  RunConfig config = elastic_config(dir, "none");
  constexpr int64_t kLong = 4096, kWide = 4096;
  const TempDir wide;
  testing::write_tiny_model(wide.path(), kWide, 3);
  config.parent = wide.path();
  config.curriculum[0] = {.name = "long",
                          .seq_len = kLong,
                          .tokens = kLong,
                          .global_batch_tokens = kLong,
                          .micro_batch = 1};
  const DryStep step = dry_run(config, 1).steps.at(1);
  int64_t scratch = 0;
  for (const MemoryPool& p : step.pools)
    if (p.pool == Pool::kScratch) scratch = p.bytes;
  EXPECT_LT(scratch, kLong * kWide * 4);  // less than all logits of one of them
}

int64_t activation_bytes(const DryStep& s) {
  for (const MemoryPool& p : s.pools)
    if (p.pool == Pool::kActivations) return p.bytes;
  return 0;
}

// The pass over calibration text, on the CPU: which layers go first, and so the products of the search,
// depends on the weights; how often a layer or the head is reached does not.
TEST(DryRun, ImportanceIsThePassOverCalibrationText) {
  const TempDir dir;
  RunConfig config = elastic_config(dir, "none");
  config.data.calibration = {.samples = 6, .seq_len = kLength, .depth_samples = 4};
  for (const bool search : {false, true}) {
    if (search) config.elastic.choices.layers = {"100%", "50%"};
    const DryStep dry = dry_run_importance(config, 1).steps.at(0);
    EXPECT_EQ(dry.micro_batches, 3);
    const ModelConfig model = testing::tiny_config(kVocab);
    Weights parent(model, Device::kCpu, {});
    parent.initialize(3);
    Context ctx(Device::kCpu);
    Arena arena(Device::kCpu);
    run_importance(
        ctx, arena, model, parent.params(), [](int64_t, int64_t) { return random_batch(); },
        calibration_options(config, model), *make_self_comm());
    EXPECT_EQ(dry.work.at("rms_norm_forward").calls, ctx.work().at("rms_norm_forward").calls);
    EXPECT_EQ(activation_bytes(dry), arena.peak_bytes());
    if (!search) {
      EXPECT_EQ(forward_products(dry), ctx.work().at("linear_forward").flops +
                                           ctx.work().at("expert_linear_forward").flops);
    }
  }
}

}  // namespace
}  // namespace nestling
