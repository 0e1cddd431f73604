// Data parallel training: N ranks on shares of a batch equal one rank on all of it.
#include "tests/support/ranks.h"

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>

#include "kernels/core/host_view.h"
#include "tests/support/training_batch.h"
#include "trainer/train_step.h"

namespace nestling {
namespace {

using testing::device_of;
using testing::kSequences;
using testing::kVocab;
using testing::sequences;
using testing::world;

PretrainConfig small_run() {
  PretrainConfig c;
  c.precision.compute = "fp32";
  c.model = {.pattern = "ME*E", .hidden = 32};
  c.model.query_heads = 4;
  c.model.kv_heads = 2;
  c.model.head_dim = 8;
  c.model.mamba_heads = 4;
  c.model.mamba_head_dim = 8;
  c.model.state = 8;
  c.model.groups = 2;
  c.model.chunk = 8;
  c.model.experts = 6;
  c.model.top_k = 2;
  c.model.expert_ffn = 16;
  c.model.shared_ffn = 16;
  return c;
}

// Of training whose ranks compute on a device each, or on the CPU.
class Ranks : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override { NESTLING_SKIP_RANKS_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, Ranks, ::testing::Values(Device::kCpu, Device::kCuda), device_of);

Tensor flat_master(Weights& weights, int64_t i) {
  const View master = weights.master(i);
  return on_host(master.reshape({master.size()}));
}

TEST_P(Ranks, ShareABatchAndAgreeWithOne) {
  const PretrainConfig run = small_run();
  const ModelConfig model = model_config_of(run.model, kVocab);
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  const auto self = make_self_comm();
  TrainStep alone(model, run, ctx, *self);
  TrainStep together(model, run, ctx, comm);
  alone.weights().initialize(3);
  together.weights().initialize(3);
  const int64_t share = kSequences / comm.size();
  for (int64_t step = 0; step < 3; ++step) {
    const StepResult a = alone.run({sequences(step, 0, kSequences)}, 1e-3, step + 1);
    const StepResult b =
        together.run({sequences(step, comm.rank() * share, share)}, 1e-3, step + 1);
    // The sums over tokens are cut at other places: a few thousand roundings, random in sign.
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss);
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-4 * a.grad_norm);
    EXPECT_EQ(a.expert_imbalance, b.expert_imbalance);
  }
  double error = 0, moved = 0;
  Weights fresh(model, Device::kCpu, {});
  fresh.initialize(3);
  for (int64_t i = 0; i < fresh.count(); ++i) {
    const Tensor one = flat_master(alone.weights(), i), all = flat_master(together.weights(), i);
    for (int64_t k = 0; k < one.size(); ++k) {
      const double x = one.ptr<float>()[k];
      const double y = all.ptr<float>()[k];
      const double start = fresh.master(i).ptr<float>()[k];
      error += (x - y) * (x - y);
      moved += (x - start) * (x - start);
    }
  }
  // Against how far training moved: AdamW's first steps are nearly signs of the gradient, so an
  // element whose gradient is a rounding error may go either way.
  EXPECT_LE(std::sqrt(error), 2e-2 * std::sqrt(moved));
  // And all ranks hold the same bits.
  for (int64_t i = 0; i < fresh.count(); ++i) {
    const Tensor mine = flat_master(together.weights(), i);
    Tensor largest(Device::kCpu, DType::kF32, {mine.size()});
    copy(largest.view(), mine);
    comm.all_reduce(ctx, largest.view(), Reduce::kMax);
    int64_t different = 0;
    for (int64_t k = 0; k < mine.size(); ++k)
      different += largest.ptr<float>()[k] != mine.ptr<float>()[k];
    EXPECT_EQ(different, 0) << fresh.specs()[static_cast<size_t>(i)].name;
  }
}

// The selection bias of an expert moves by bias_rate towards the mean load of its own layer, over the whole
// batch; AdamW leaves it alone.
TEST_P(Ranks, MoveTheBiasOfEveryLayerTowardsItsMeanLoad) {
  PretrainConfig run = small_run();
  run.moe.bias_rate = 0.125;
  const ModelConfig model = model_config_of(run.model, kVocab);
  Comm& comm = world(GetParam());
  Context ctx(GetParam()), host(Device::kCpu);
  TrainStep step(model, run, ctx, comm);
  step.weights().initialize(3);
  const int64_t share = kSequences / comm.size();
  step.run({sequences(0, comm.rank() * share, share)}, 1e-3, 1);

  Weights fresh(model, Device::kCpu, {});
  fresh.initialize(3);
  const Batch batch = sequences(0, 0, kSequences);
  Arena arena(Device::kCpu);
  LayerRun layers{
      .ctx = host, .arena = arena, .config = model, .segments = Segments(batch.cu_seqlens)};
  const ModelActs acts = model_forward(layers, fresh.params(), host_view(batch.tokens));
  size_t moe = 0;
  for (int64_t i = 0; i < fresh.count(); ++i) {
    const ParameterSpec& spec = fresh.specs()[static_cast<size_t>(i)];
    if (spec.trained) continue;
    const auto* offsets =
        std::get<MoeActs>(acts.layers[static_cast<size_t>(spec.layer)]).offsets.ptr<int32_t>();
    const Tensor bias = flat_master(step.weights(), i);
    const double mean = static_cast<double>(offsets[model.experts]) / 6;
    for (int64_t e = 0; e < model.experts; ++e) {
      const double load = offsets[e + 1] - offsets[e];
      const float want = load == mean ? 0.0f : (load < mean ? 0.125f : -0.125f);
      EXPECT_EQ(bias.ptr<float>()[e], want) << spec.name << ", expert " << e << ", load " << load;
    }
    ++moe;
  }
  EXPECT_EQ(moe, 2u);
}

TEST_P(Ranks, ANanSkipsTheStepOnEveryRank) {
  const PretrainConfig run = small_run();
  const ModelConfig model = model_config_of(run.model, kVocab);
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  TrainStep step(model, run, ctx, comm);
  step.weights().initialize(3);
  const View first =
      step.weights().master(1).reshape({step.weights().master(1).size()}).prefix(0, 1);
  const Tensor good = on_host(first);
  Tensor bad(Device::kCpu, DType::kF32, {1});
  *bad.ptr<float>() = std::nanf("");
  if (comm.rank() == comm.size() - 1) copy(first, bad);
  Weights before(model, Device::kCpu, {});
  before.initialize(3);
  const int64_t share = kSequences / comm.size();
  const StepResult result = step.run({sequences(0, comm.rank() * share, share)}, 1e-3, 1);
  EXPECT_TRUE(result.skipped);
  copy(first, good);
  for (int64_t i = 0; i < before.count(); ++i) {
    const Tensor master = flat_master(step.weights(), i);
    for (int64_t k = 0; k < master.size(); ++k)
      EXPECT_EQ(master.ptr<float>()[k], before.master(i).ptr<float>()[k]);
  }
}

TEST_P(Ranks, RecomputeChangesNoBit) {
  const PretrainConfig keep = small_run();
  PretrainConfig recompute = keep;
  recompute.recompute = "layer";
  const ModelConfig model = model_config_of(keep.model, kVocab);
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  TrainStep keeps(model, keep, ctx, comm), forgets(model, recompute, ctx, comm);
  keeps.weights().initialize(3);
  forgets.weights().initialize(3);
  const int64_t share = kSequences / comm.size();
  for (int64_t step = 0; step < 3; ++step) {
    const Batch batch = sequences(step, comm.rank() * share, share);
    const StepResult a = keeps.run({batch}, 1e-3, step + 1);
    const StepResult b = forgets.run({batch}, 1e-3, step + 1);
    EXPECT_EQ(a.loss, b.loss);
    EXPECT_EQ(a.grad_norm, b.grad_norm);
    EXPECT_EQ(a.expert_imbalance, b.expert_imbalance);
  }
  for (int64_t i = 0; i < keeps.weights().count(); ++i) {
    const Tensor a = flat_master(keeps.weights(), i), b = flat_master(forgets.weights(), i);
    EXPECT_EQ(std::memcmp(a.view().data(), b.view().data(), static_cast<size_t>(a.view().bytes())),
              0)
        << keeps.weights().specs()[static_cast<size_t>(i)].name;
  }
}

}  // namespace
}  // namespace nestling
