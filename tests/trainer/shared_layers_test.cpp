// Layers held in shares by the ranks: training has the bits of whole ones where every rank has one backward a step, and
// is as exact where it has several; what either saved, the other goes on with.
#include "model/shared_layers.h"

#include <cstring>
#include <gtest/gtest.h>
#include <map>

#include "kernels/core/host_view.h"
#include "kernels/ops/adamw.h"
#include "model/quantize.h"
#include "tests/support/ranks.h"
#include "tests/support/training_batch.h"
#include "tests/support/training_state.h"
#include "trainer/distill_step.h"
#include "trainer/train_step.h"
#include "trainer/whole_masters.h"

namespace nestling {
namespace {

using testing::device_of;
using testing::kSequences;
using testing::kVocab;
using testing::sequences;
using testing::world;

// Experts and dense layers of several norm blocks, none whole; the rest smaller than one.
ModelConfig model() {
  ShapeConfig shape{.pattern = "ME*-E", .hidden = 64};
  shape.query_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.mamba_heads = 4;
  shape.mamba_head_dim = 16;
  shape.state = 16;
  shape.groups = 2;
  shape.chunk = 8;
  shape.ffn = 592;
  shape.experts = 6;
  shape.top_k = 2;
  shape.expert_ffn = 80;
  shape.shared_ffn = 32;
  return model_config_of(shape, kVocab);
}

PretrainConfig pretraining(const std::string& shard) {
  PretrainConfig c;
  c.precision.compute = "bf16";
  c.precision.activations = "fp32";
  c.shard = shard;
  c.optimizer.clip = 0.5;
  return c;
}

// However the ranks hold them.
void expect_same(const TrainingState& a, const TrainingState& b, Comm& comm) {
  const StateDifference found = testing::SavedOnce(a, comm).difference(b);
  EXPECT_EQ(found.bits, 0) << found.first;
}

void hand_on(const TrainingState& from, const TrainingState& to, Comm& comm) {
  testing::SavedOnce(from, comm).load(to, comm);
}

class SharedTraining : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override { NESTLING_SKIP_RANKS_WITHOUT(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, SharedTraining, ::testing::Values(Device::kCpu, Device::kCuda),
                         device_of);

struct Pretrained {
  Pretrained(Device device, const PretrainConfig& c)
      : config(c), ctx(device), comm(world(device)), step(model(), config, ctx, comm) {
    step.weights().initialize(3);
  }
  // `batches` micro-batches of one sequence.
  StepResult advance(int64_t batches) {
    std::vector<Batch> mine;
    for (int64_t b = 0; b < batches; ++b)
      mine.push_back(sequences(at * batches + b, comm.rank() % kSequences, 1));
    at += 1;
    return step.run(mine, 1e-3, at);
  }
  PretrainConfig config;
  Context ctx;
  Comm& comm;
  TrainStep step;
  int64_t at = 0;
};

TEST_P(SharedTraining, HasTheBitsOfWholeLayers) {
  for (const char* compute : {"fp32", "bf16"})
    for (const char* recompute : {"none", "layer"}) {
      const auto config = [&](const char* shard) {
        PretrainConfig c = pretraining(shard);
        c.precision.compute = compute;
        c.recompute = recompute;
        return c;
      };
      Pretrained whole(GetParam(), config("optimizer")), shared(GetParam(), config("layers"));
      expect_same(whole.step.state(), shared.step.state(), whole.comm);
      for (int i = 0; i < 3; ++i) {
        const StepResult a = whole.advance(1), b = shared.advance(1);
        EXPECT_EQ(a.loss, b.loss) << compute << " " << recompute << " " << i;
        EXPECT_EQ(a.grad_norm, b.grad_norm) << compute << " " << recompute << " " << i;
        EXPECT_GT(a.grad_norm, 0.5);  // clipped
        EXPECT_EQ(a.expert_imbalance, b.expert_imbalance);
      }
      expect_same(whole.step.state(), shared.step.state(), whole.comm);
    }
}

// Their gradients are summed over ranks before they are over micro-batches.
TEST_P(SharedTraining, OfSeveralMicroBatchesDiffersByRoundingAlone) {
  PretrainConfig whole_config = pretraining("optimizer"), shared_config = pretraining("layers");
  whole_config.precision.compute = shared_config.precision.compute = "fp32";
  Pretrained whole(GetParam(), whole_config), shared(GetParam(), shared_config);
  Pretrained again(GetParam(), shared_config);
  for (int i = 0; i < 3; ++i) {
    const StepResult a = whole.advance(3), b = shared.advance(3);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss) << i;
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-4 * a.grad_norm) << i;
    again.advance(3);
  }
  expect_same(shared.step.state(), again.step.state(), shared.comm);
}

TEST_P(SharedTraining, GoesOnFromWhatWholeLayersSavedAndTheReverse) {
  Pretrained whole(GetParam(), pretraining("optimizer")), shared(GetParam(), pretraining("layers"));
  Pretrained from_whole(GetParam(), pretraining("layers"));
  Pretrained from_shared(GetParam(), pretraining("optimizer"));
  for (int i = 0; i < 2; ++i) {
    whole.advance(1);
    shared.advance(1);
  }
  hand_on(whole.step.state(), from_whole.step.state(), whole.comm);
  hand_on(shared.step.state(), from_shared.step.state(), shared.comm);
  for (Pretrained* next : {&from_whole, &from_shared}) {
    next->step.weights().refresh_low(next->ctx);
    next->at = 2;
    next->advance(1);
  }
  whole.advance(1);
  expect_same(whole.step.state(), from_whole.step.state(), whole.comm);
  expect_same(whole.step.state(), from_shared.step.state(), whole.comm);
}

TEST_P(SharedTraining, ScoresAsWholeLayersDo) {
  Pretrained whole(GetParam(), pretraining("optimizer")), shared(GetParam(), pretraining("layers"));
  const Batch text = sequences(9, 0, 2);
  EXPECT_EQ(whole.step.evaluate(text).nll, shared.step.evaluate(text).nll);
}

TEST_P(SharedTraining, MastersComeTogetherAtTheRoot) {
  Pretrained whole(GetParam(), pretraining("optimizer")), shared(GetParam(), pretraining("layers"));
  for (Pretrained* p : {&whole, &shared}) p->advance(1);
  int64_t seen = 0;
  at_root_with_masters(shared.ctx, shared.comm, shared.step.weights(), [&](const Weights& w) {
    for (int64_t i = 0; i < w.count(); ++i) {
      const ConstView brought = w.master(i);
      const View want = whole.step.weights().master(i);
      const Tensor host = on_host(want.reshape({want.size()}));
      EXPECT_EQ(brought.device(), Device::kCpu);
      EXPECT_EQ(
          0, std::memcmp(brought.data(), host.view().data(), static_cast<size_t>(brought.bytes())))
          << w.specs()[static_cast<size_t>(i)].name;
      ++seen;
    }
  });
  EXPECT_EQ(seen, shared.comm.rank() == 0 ? shared.step.weights().count() : 0);
}

int64_t pool(const std::vector<MemoryPool>& pools, const std::string& name) {
  for (const MemoryPool& p : pools)
    if (p.name == name) return p.bytes;
  return -1;
}

// Counted by hand from the list of parameters: each share is a rank's part but for a block a layer.
TEST_P(SharedTraining, HoldsItsShareOfLayersAndNothingElseOfThem) {
  Pretrained shared(GetParam(), pretraining("layers"));
  std::map<int64_t, int64_t> layers;  // padded elements of shared matrices
  int64_t whole = 0, whole_low = 0, largest = 0;
  for (const ParameterSpec& spec : shared.step.weights().specs()) {
    if (SharedLayers::holds(spec)) {
      layers[spec.layer] += spec.padded_size();
      largest = std::max(largest, layers[spec.layer]);
    } else {
      whole += spec.padded_size();
      whole_low += spec.padded_size();
    }
  }
  int64_t all = 0;
  for (const auto& [l, size] : layers) all += size;
  const int64_t ranks = shared.comm.size();
  const int64_t slack = static_cast<int64_t>(layers.size()) * (kNormBlock + ranks);
  const std::vector<MemoryPool> pools = shared.step.memory();
  const auto near = [&](const char* name, int64_t bytes, int64_t fixed) {
    const int64_t held = pool(pools, name) - fixed;
    EXPECT_LE(held, bytes * (all / ranks + slack)) << name;
    std::vector<int64_t> sum{held};
    Context host(Device::kCpu);
    shared.comm.all_reduce(host, host_view(sum), Reduce::kSum);
    EXPECT_EQ(sum[0], bytes * all) << name;
  };
  near("masters", 4, 4 * whole);
  near("low copies", 2, 2 * whole_low);
  near("gradients", 4, 4 * (whole + largest));
  EXPECT_EQ(pool(pools, "layer in hand"), 2 * largest);
  Pretrained unshared(GetParam(), pretraining("optimizer"));
  EXPECT_EQ(pool(unshared.step.memory(), "layer in hand"), 0);
}

// --- elastic distillation

// With `depth` the small size can only be had without two of the layers.
RunConfig distilling(const std::string& shard, const std::string& teacher, bool depth) {
  RunConfig c;
  c.precision.compute = "bf16";
  c.precision.activations = "fp32";
  c.teacher.precision = teacher;
  c.parallel.shard = shard;
  c.elastic.choices.experts = {"100%", "50%"};
  c.elastic.choices.ffn = {"592", "304"};
  if (depth)
    c.elastic.choices.layers = {"100%", "60%"};
  else
    c.elastic.choices.hidden = {"100%", "50%"};
  c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                     {.name = "half", .target = {{"total_params", "42%"}}}};
  c.router.hidden = 16;
  c.router.dead_zone = 0.2;
  c.curriculum = {
      {.name = "one", .seq_len = testing::kLength, .tokens = 4096, .global_batch_tokens = 96}};
  return c;
}

struct Distilled {
  Distilled(Device device, const RunConfig& c, const StudentStart& start = {})
      : config(c),
        space(make_space(model(), written_choices(c.elastic.choices), kBlock, {0, 2, 4, 1, 3})),
        ctx(device),
        comm(world(device)),
        teacher(model(), device,
                {.compute = teacher_precision(c),
                 .teacher = true,
                 .layers_shared_by = layers_shared_by(c, comm)}),
        router(space, config),
        step(space, config, initialized(), router, ctx, comm, teacher_masters(c), start) {}
  Weights& initialized() {
    teacher.initialize(3);
    return teacher;
  }
  DistillResult advance() {
    const DistillResult result =
        step.run({sequences(at, comm.rank() % kSequences, 1)},
                 sampling_weights(config.curriculum[0], config.elastic.sizes),
                 {.step = at, .update = at + 1, .tokens = 96 * at, .lr = 1e-3});
    at += 1;
    return result;
  }
  RunConfig config;
  ElasticSpace space;
  Context ctx;
  Comm& comm;
  Weights teacher;
  RouterTraining router;
  DistillStep step;
  int64_t at = 0;
};

// Under masks, then as slices, one of which leaves layers out. Draws of either size are among them.
TEST_P(SharedTraining, DistilsWithTheBitsOfWholeLayers) {
  for (const char* teacher : {"fp32", "bf16"}) {
    const bool depth = std::string(teacher) == "bf16";
    Distilled whole(GetParam(), distilling("optimizer", teacher, depth));
    Distilled shared(GetParam(), distilling("layers", teacher, depth));
    std::vector<double> tokens(2, 0.0);
    for (int i = 0; i < 8; ++i) {
      const DistillResult a = whole.advance(), b = shared.advance();
      EXPECT_EQ(a.loss, b.loss) << teacher << " " << i;
      EXPECT_EQ(a.grad_norm, b.grad_norm) << teacher << " " << i;
      EXPECT_EQ(a.router_grad_norm, b.router_grad_norm) << teacher << " " << i;
      if (i == 3) {
        whole.router.freeze_now();
        shared.router.freeze_now();
        for (const Widths& w : {whole.router.widths(1), shared.router.widths(1)})
          EXPECT_EQ(std::ranges::count(w.layers, 0, &LayerWidths::kept), depth ? 2 : 0);
      }
      for (size_t s = 0; i > 3 && s < 2; ++s) tokens[s] += a.sizes[s].tokens;
    }
    EXPECT_GT(std::min(tokens[0], tokens[1]), 0);
    expect_same(whole.step.state(), shared.step.state(), whole.comm);
    const Batch text = sequences(99, 0, 2);
    std::vector<HeldOutLoss> a(2), b(2);
    whole.step.evaluate(text, a);
    shared.step.evaluate(text, b);
    for (size_t s = 0; s < 2; ++s) EXPECT_EQ(a[s].kl, b[s].kl) << teacher << " " << s;
  }
}

// Codes are whole on every rank and made of masters that come a layer at a time.
TEST_P(SharedTraining, TrainsCodesWithTheBitsOfWholeLayers) {
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4}) {
    const StudentStart start{.quantization = unit_scales(model(), format)};
    Distilled whole(GetParam(), distilling("optimizer", "bf16", false), start);
    Distilled shared(GetParam(), distilling("layers", "bf16", false), start);
    for (Distilled* d : {&whole, &shared}) d->router.freeze_now();
    for (int i = 0; i < 4; ++i) {
      const DistillResult a = whole.advance(), b = shared.advance();
      EXPECT_GT(a.loss, 0);
      EXPECT_EQ(a.loss, b.loss) << weight_format_name(format) << " " << i;
      EXPECT_EQ(a.grad_norm, b.grad_norm) << weight_format_name(format) << " " << i;
    }
    expect_same(whole.step.state(), shared.step.state(), whole.comm);
    int64_t codes = 0;
    for (int64_t i = 0; i < whole.step.student().count(); ++i) {
      const View one = whole.step.student().codes(i), other = shared.step.student().codes(i);
      EXPECT_EQ(static_cast<bool>(one), static_cast<bool>(other)) << i;
      if (!one) continue;
      const Tensor a = on_host(one.reshape({one.size()})), b = on_host(other.reshape({one.size()}));
      EXPECT_EQ(
          0, std::memcmp(a.view().data(), b.view().data(), static_cast<size_t>(a.view().bytes())))
          << i;
      ++codes;
    }
    EXPECT_GT(codes, 0);
  }
}

}  // namespace
}  // namespace nestling
