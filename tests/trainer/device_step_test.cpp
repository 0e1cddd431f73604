// Whole training steps on a CUDA device against the CPU: loss, every gradient, the curve of some steps.
#include <cmath>
#include <gtest/gtest.h>
#include <map>

#include "kernels/core/host_view.h"
#include "model/quantize.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/family_models.h"
#include "tests/support/tiny_model.h"
#include "tests/support/training_batch.h"
#include "trainer/distill_step.h"
#include "trainer/train_step.h"

namespace nestling {
namespace {

using testing::kSequences;
using testing::kVocab;
using testing::sequences;

// Where activations are rounded, every token takes every expert: near a tie it would choose another.
ModelConfig model(const char* pattern = "ME*-E", bool all_experts = false) {
  ModelConfig c = testing::tiny_config(kVocab);
  c.pattern = pattern;
  c.top_k = all_experts ? c.experts : 2;
  c.expert_ffn = 32;
  c.shared_ffn = 32;
  c.validate("model");
  return c;
}

// Losses and gradients of some hundred f32 roundings in a row differ by that many, random in sign:
// sqrt(500) * 2^-24 is 1.3e-6 of a tensor's norm; ten times that for what layers above amplify.
constexpr double kStepBound = 1.3e-5;

// With bf16 between the operators, what goes from one to the next is rounded: some 12 times a layer on the way
// there and 12 times on the way back, 5 layers, random in sign: sqrt(120) * 2^-9 is 2.1% of a tensor's norm, and
// twice that for what layers above amplify. The loss is a mean of many tokens.
constexpr double kHalfBound = 0.043;
constexpr double kHalfLossBound = 2e-3;

double norm_of_difference(ConstView a, ConstView b, double& norm) {
  const Tensor x = on_host(a.reshape({a.size()})), y = on_host(b.reshape({b.size()}));
  double difference = 0;
  norm = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    const double d = double{x.ptr<float>()[i]} - y.ptr<float>()[i];
    difference += d * d;
    norm += double{y.ptr<float>()[i]} * y.ptr<float>()[i];
  }
  norm = std::sqrt(norm);
  return std::sqrt(difference);
}

void expect_same_gradients(Weights& got, Weights& want, double bound = kStepBound) {
  for (int64_t i = 0; i < want.count(); ++i) {
    const View g = want.grad(i);
    if (!g) continue;
    double norm = 0;
    const double difference = norm_of_difference(got.grad(i), g, norm);
    EXPECT_GT(norm, 0) << want.specs()[static_cast<size_t>(i)].name;
    EXPECT_LE(difference, bound * norm) << want.specs()[static_cast<size_t>(i)].name;
  }
}

const PrecisionConfig kWhole{.compute = "fp32"};
const PrecisionConfig kHalf{.compute = "bf16"};
const PrecisionConfig kHalfActivations{.compute = "bf16", .activations = "bf16"};

struct Training {
  PretrainConfig config;
  Context ctx;
  std::unique_ptr<Comm> comm = make_self_comm();
  TrainStep step;

  explicit Training(Device device, const PrecisionConfig& precision = kWhole,
                    const char* pattern = "ME*-E")
      : Training(device, precision, model(pattern, precision.compute == "bf16")) {}
  Training(Device device, const PrecisionConfig& precision, const ModelConfig& architecture)
      : config(settings(precision)), ctx(device), step(architecture, config, ctx, *comm) {
    step.weights().initialize(3);
  }
  static PretrainConfig settings(const PrecisionConfig& precision) {
    PretrainConfig c;
    c.precision = precision;
    return c;
  }
  StepResult advance(int64_t i) { return step.run({sequences(i, 0, kSequences)}, 1e-3, i + 1); }
};

TEST(DeviceStep, LossAndEveryGradientAreTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training cuda(Device::kCuda), cpu(Device::kCpu);
  const StepResult got = cuda.advance(0), want = cpu.advance(0);
  EXPECT_NEAR(got.loss, want.loss, kStepBound * want.loss);
  EXPECT_NEAR(got.grad_norm, want.grad_norm, kStepBound * want.grad_norm);
  EXPECT_EQ(got.expert_imbalance, want.expert_imbalance);
  expect_same_gradients(cuda.step.weights(), cpu.step.weights());
}

TEST(DeviceStep, HalfActivationsStayNearTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training cuda(Device::kCuda, kHalfActivations), cpu(Device::kCpu, kHalf);
  const StepResult got = cuda.advance(0), want = cpu.advance(0);
  EXPECT_NEAR(got.loss, want.loss, kHalfLossBound * want.loss);
  EXPECT_NEAR(got.grad_norm, want.grad_norm, kHalfBound * want.grad_norm);
  expect_same_gradients(cuda.step.weights(), cpu.step.weights(), kHalfBound);
  for (int64_t i = 1; i < 4; ++i) {
    const double next = cpu.advance(i).loss;
    EXPECT_NEAR(cuda.advance(i).loss, next, 2 * kHalfLossBound * next) << "step " << i;
  }
}

class DeviceFamily : public ::testing::TestWithParam<ModelConfig> {
 protected:
  // As model(): with all experts where activations are rounded.
  static ModelConfig architecture(bool all_experts) {
    ModelConfig c = GetParam();
    c.vocab = kVocab;
    if (all_experts && c.has(LayerKind::kMoe)) c.top_k = c.experts;
    return c;
  }
};

TEST_P(DeviceFamily, LossAndEveryGradientAreTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training cuda(Device::kCuda, kWhole, architecture(false));
  Training cpu(Device::kCpu, kWhole, architecture(false));
  EXPECT_NEAR(cuda.advance(0).loss, cpu.advance(0).loss, 10 * kStepBound);
  expect_same_gradients(cuda.step.weights(), cpu.step.weights());
}

TEST_P(DeviceFamily, HalfActivationsStayNearTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training cuda(Device::kCuda, kHalfActivations, architecture(true));
  Training cpu(Device::kCpu, kHalf, architecture(true));
  const double want = cpu.advance(0).loss;
  EXPECT_NEAR(cuda.advance(0).loss, want, kHalfLossBound * want);
  expect_same_gradients(cuda.step.weights(), cpu.step.weights(), kHalfBound);
}

INSTANTIATE_TEST_SUITE_P(, DeviceFamily, ::testing::ValuesIn(testing::family_configs()),
                         [](const auto& test) { return family_name(test.param.family); });

TEST(DeviceStep, TheCurveFollowsTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training cuda(Device::kCuda), cpu(Device::kCpu);
  for (int64_t i = 0; i < 8; ++i) {
    const double want = cpu.advance(i).loss;
    // AdamW's first steps are nearly signs of the gradient: elements whose gradient is a rounding error
    // go either way, and the loss feels lr times their share of the gradient.
    EXPECT_NEAR(cuda.advance(i).loss, want, 1e-3 * want) << "step " << i;
  }
}

TEST(DeviceStep, RepeatsBitForBit) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training a(Device::kCuda), b(Device::kCuda);
  for (int64_t i = 0; i < 2; ++i) EXPECT_EQ(a.advance(i).loss, b.advance(i).loss);
  for (int64_t i = 0; i < a.step.weights().count(); ++i) {
    double norm = 0;
    EXPECT_EQ(norm_of_difference(a.step.weights().master(i), b.step.weights().master(i), norm), 0);
  }
}

int64_t waits() {
  return cuda::activity().waits;
}

// The host waits for the device once a step, at its end, whatever is in the step.
TEST(DeviceStep, WaitsOnceWhateverTheLayersAndMicroBatches) {
  NESTLING_SKIP_WITHOUT_CUDA();
  for (const char* pattern : {"ME", "ME*-EME"}) {
    Training t(Device::kCuda, kWhole, pattern);
    t.step.reserve({sequences(0, 0, 1)});
    for (const int64_t count : {1, 3}) {
      std::vector<Batch> batches;
      for (int64_t i = 0; i < count; ++i) batches.push_back(sequences(0, i, 1));
      const int64_t before = waits();
      EXPECT_FALSE(t.step.run(batches, 1e-3, 1).skipped);
      EXPECT_EQ(waits() - before, 1) << pattern << ", " << count << " micro-batches";
    }
  }
}

// One sequence of kLength tokens, cut into documents of these lengths.
Batch cut(std::initializer_list<int32_t> lengths) {
  Batch b = sequences(0, 0, 1);
  b.cu_seqlens = {0};
  for (const int32_t n : lengths) b.cu_seqlens.push_back(b.cu_seqlens.back() + n);
  return b;
}
// Of four documents or fewer: the first is of the most memory.
std::vector<Batch> cuts() {
  return {cut({1, 1, 1, 21}), cut({24}), cut({8, 8, 8}), cut({9, 9, 1, 5}), cut({3, 1, 19, 1})};
}

int64_t held_by(Pool pool) {
  int64_t bytes = 0;
  for (const MemoryPool& p : cuda::held())
    if (p.pool == pool) bytes += p.bytes;
  return bytes;
}

TEST(DeviceStep, AllocatesNothingHoweverTheTokensAreCut) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training t(Device::kCuda);
  t.step.reserve({cuts()[0]});
  const int64_t before = cuda::activity().allocations;
  for (const Batch& b : cuts()) EXPECT_FALSE(t.step.run({b, cuts()[2]}, 1e-3, 1).skipped);
  EXPECT_EQ(cuda::activity().allocations, before);
  t.step.run({cut({1, 1, 1, 1, 1, 19})}, 1e-3, 1);  // of more documents than any before
  EXPECT_GT(cuda::activity().allocations, before);
}

// What a rehearsal counts is to the byte what the step then uses.
TEST(DeviceStep, UsesWhatItReserved) {
  NESTLING_SKIP_WITHOUT_CUDA();
  for (const PrecisionConfig& precision : {kWhole, kHalf, kHalfActivations}) {
    Training t(Device::kCuda, precision);
    t.step.run({cuts()[0]}, 1e-3, 1);
    std::map<Pool, int64_t> used;
    for (const MemoryPool& p : t.step.memory()) used[p.pool] += p.bytes;
    for (const Pool pool : {Pool::kWeights, Pool::kOptimizer, Pool::kActivations, Pool::kScratch})
      EXPECT_EQ(used[pool], held_by(pool))
          << pool_name(pool) << ", " << precision.compute << ", " << precision.activations;
  }
}

// What a kernel finds wrong in its operands ends the step that it is in.
TEST(DeviceStep, ATokenOutsideTheVocabularyIsAnError) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Training t(Device::kCuda);
  Batch batch = sequences(0, 0, kSequences);
  batch.tokens[7] = kVocab;
  testing::expect_error([&] { t.step.run({batch}, 1e-3, 1); }, {"position 7", "outside the table"},
                        ErrorKind::kRuntime);
}

struct Distillation {
  RunConfig config;
  ElasticSpace space;
  Context ctx;
  std::unique_ptr<Comm> comm = make_self_comm();
  Weights teacher;
  RouterTraining router;
  DistillStep step;

  Distillation(Device device, bool frozen) : Distillation(device, frozen, settings(kWhole)) {}
  // `format`: the student trains codes of the teacher's weights.
  Distillation(Device device, bool frozen, const RunConfig& c,
               std::optional<WeightFormat> format = {})
      : config(c),
        space(make_space(student_model(c, format), written_choices(config.elastic.choices), kBlock,
                         {})),
        ctx(device),
        teacher(space.config, device, {.compute = teacher_precision(config)}),
        router(space, config),
        step(space, config, initialized(teacher), router, ctx, *comm, TeacherMasters::kKept,
             {.masters = nullptr, .quantization = codes_of(teacher, format)}) {
    if (frozen) router.freeze_evenly();
  }
  static ModelConfig student_model(const RunConfig& c, std::optional<WeightFormat> format) {
    ModelConfig m = model("ME*-E", c.precision.compute == "bf16");
    if (format) m.mamba_head_dim = 16;  // a block of NVFP4
    return m;
  }
  // As if every activation seen had been 4 at most.
  std::optional<Quantization> codes_of(Weights& weights, std::optional<WeightFormat> format) {
    if (!format) return std::nullopt;
    const Weights host = weights.on(Device::kCpu, DType::kF32);
    Quantization q = weight_scales(space.config, *format, host);
    set_input_scales(q, space.config, std::vector<float>(q.parameters.size(), 4.0f));
    return q;
  }
  static Weights& initialized(Weights& w) {
    w.initialize(3);
    return w;
  }
  static RunConfig settings(const PrecisionConfig& precision) {
    RunConfig c;
    c.precision = precision;
    c.elastic.choices.hidden = {"100%", "50%"};
    c.elastic.choices.mamba_heads = {"100%", "50%"};
    if (precision.compute == "fp32") c.elastic.choices.experts = {"100%", "50%"};
    c.elastic.choices.expert_ffn = {"100%", "50%"};
    c.elastic.sizes = {{.name = "full", .target = {{"full", ""}}},
                       {.name = "half", .target = {{"active_params", "55%"}}}};
    c.router.hidden = 16;
    c.router.dead_zone = 0.1;
    c.curriculum = {
        {.name = "one", .seq_len = testing::kLength, .tokens = 4096, .global_batch_tokens = 96}};
    c.distill.sizes_per_micro_batch = 2;
    c.distill.ce_weight =
        0.5;  // the whole size starts as its teacher: KL alone would teach nothing
    return c;
  }
  DistillResult advance() {
    return step.run({sequences(0, 0, kSequences)}, {0.5, 0.5}, {.lr = 1e-3});
  }
};

class DeviceDistillation : public ::testing::TestWithParam<bool> {};

TEST_P(DeviceDistillation, LossBudgetAndEveryGradientAreTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Distillation cuda(Device::kCuda, GetParam()), cpu(Device::kCpu, GetParam());
  const DistillResult got = cuda.advance(), want = cpu.advance();
  EXPECT_NEAR(got.loss, want.loss, kStepBound * want.loss);
  EXPECT_NEAR(got.budget, want.budget, 1e-6 * (1 + want.budget));
  EXPECT_NEAR(got.grad_norm, want.grad_norm, kStepBound * want.grad_norm);
  for (size_t s = 0; s < want.sizes.size(); ++s) {
    EXPECT_NEAR(got.sizes[s].kl, want.sizes[s].kl, kStepBound * (1 + want.sizes[s].kl));
    EXPECT_EQ(got.sizes[s].imbalance, want.sizes[s].imbalance);
  }
  expect_same_gradients(cuda.step.student(), cpu.step.student());
}

TEST_P(DeviceDistillation, HalfActivationsStayNearTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Distillation cuda(Device::kCuda, GetParam(), Distillation::settings(kHalfActivations));
  Distillation cpu(Device::kCpu, GetParam(), Distillation::settings(kHalf));
  const DistillResult got = cuda.advance(), want = cpu.advance();
  EXPECT_NEAR(got.loss, want.loss, kHalfLossBound * want.loss);
  EXPECT_NEAR(got.grad_norm, want.grad_norm, kHalfBound * want.grad_norm);
  expect_same_gradients(cuda.step.student(), cpu.step.student(), kHalfBound);
}

TEST_P(DeviceDistillation, WaitsOnceWhateverTheSizesAndMicroBatches) {
  NESTLING_SKIP_WITHOUT_CUDA();
  for (const int64_t sizes : {1, 2}) {
    RunConfig config = Distillation::settings(kWhole);
    config.distill.sizes_per_micro_batch = sizes;
    Distillation d(Device::kCuda, GetParam(), config);
    d.step.reserve(std::vector<Batch>(3, sequences(0, 0, 1)));
    for (const int64_t count : {1, 3}) {
      std::vector<Batch> batches;
      for (int64_t i = 0; i < count; ++i) batches.push_back(sequences(0, i, 1));
      const int64_t before = waits();
      EXPECT_FALSE(d.step.run(batches, {0.5, 0.5}, {.lr = 1e-3}).skipped);
      EXPECT_EQ(waits() - before, 1) << sizes << " sizes, " << count << " micro-batches";
    }
  }
}

TEST_P(DeviceDistillation, AllocatesNothingHoweverTheTokensAreCut) {
  NESTLING_SKIP_WITHOUT_CUDA();
  for (const int64_t sizes : {1, 2}) {
    RunConfig config = Distillation::settings(kWhole);
    config.distill.sizes_per_micro_batch = sizes;
    Distillation d(Device::kCuda, GetParam(), config);
    d.step.reserve({cuts()[0], cuts()[0]});
    const int64_t before = cuda::activity().allocations;
    for (const Batch& b : cuts())
      EXPECT_FALSE(d.step.run({b, cuts()[2]}, {0.5, 0.5}, {.lr = 1e-3}).skipped);
    EXPECT_EQ(cuda::activity().allocations, before) << sizes << " sizes";
    std::vector<HeldOutLoss> sums(2);
    d.step.evaluate(sequences(0, 0, kSequences), sums);  // takes what it needs, before it begins
    EXPECT_GT(sums[1].nll, 0);
  }
}

// An activation that differs by its rounding may become the next code, 1/8 or 1/3 of it away, where it lies between two.
// Hopper's tensor cores keep 14 bits of FP8's sums: some in a thousand elements then do, which moves what layers above make
// of them by about sqrt(1e-3) / 8 = 0.4% of its norm, and five layers one on another by less than 2%.
constexpr double kCodesBound = 0.02;

class DeviceQad : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(DeviceQad, LossAndEveryGradientAreTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  const RunConfig config = Distillation::settings(kWhole);
  Distillation cuda(Device::kCuda, true, config, GetParam());
  Distillation cpu(Device::kCpu, true, config, GetParam());
  const DistillResult got = cuda.advance(), want = cpu.advance();
  EXPECT_NEAR(got.loss, want.loss, 0.1 * kCodesBound * want.loss);
  expect_same_gradients(cuda.step.student(), cpu.step.student(), kCodesBound);
  // The codes of the stepped masters are made there too.
  for (int64_t i = 0; i < cpu.step.student().count(); ++i) {
    const View codes = cuda.step.student().codes(i);
    if (!codes) continue;
    const Tensor device = on_host(codes.reshape({codes.size()}));
    const std::byte* host = cpu.step.student().codes(i).data();
    int64_t others = 0;
    for (int64_t k = 0; k < device.size(); ++k) others += device.view().data()[k] != host[k];
    EXPECT_LE(others, device.size() / 4) << cpu.step.student().specs()[static_cast<size_t>(i)].name;
  }
}

TEST_P(DeviceQad, HalfActivationsStayNearTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Distillation cuda(Device::kCuda, true, Distillation::settings(kHalfActivations), GetParam());
  Distillation cpu(Device::kCpu, true, Distillation::settings(kHalf), GetParam());
  const DistillResult got = cuda.advance(), want = cpu.advance();
  EXPECT_NEAR(got.loss, want.loss, (kHalfBound + kCodesBound) * want.loss);
  EXPECT_NEAR(got.grad_norm, want.grad_norm, 2 * (kHalfBound + kCodesBound) * want.grad_norm);
}

TEST_P(DeviceQad, WaitsOnceAndAllocatesNothing) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Distillation d(Device::kCuda, true, Distillation::settings(kHalfActivations), GetParam());
  const std::vector<Batch> batches{cuts()[0], cuts()[2]};
  d.step.reserve(batches);
  const int64_t before = cuda::activity().allocations, waited = waits();
  EXPECT_FALSE(d.step.run(batches, {0.5, 0.5}, {.lr = 1e-3}).skipped);
  EXPECT_EQ(cuda::activity().allocations, before);
  EXPECT_EQ(waits() - waited, 1);
}

// What a device measures is what the CPU does, up to the rounding of activations.
TEST_P(DeviceQad, RangesOfActivationsAreTheCpus) {
  NESTLING_SKIP_WITHOUT_CUDA();
  std::vector<Tensor> seen;
  for (const Device device : {Device::kCuda, Device::kCpu}) {
    Distillation d(device, true, Distillation::settings(kWhole));
    Tensor largest(device, DType::kF32, {d.step.student().count()});
    fill_zero(largest.view());
    d.step.watch_inputs(largest.view());
    std::vector<HeldOutLoss> sums(2);
    d.step.evaluate(sequences(0, 0, kSequences), sums);
    d.ctx.synchronize();
    seen.push_back(on_host(largest.view()));
  }
  int64_t products = 0;
  for (int64_t i = 0; i < seen[0].size(); ++i) {
    EXPECT_NEAR(seen[0].ptr<float>()[i], seen[1].ptr<float>()[i], 1e-5 * seen[1].ptr<float>()[i]);
    products += seen[1].ptr<float>()[i] > 0 ? 1 : 0;
  }
  EXPECT_GE(products, 10);
}

INSTANTIATE_TEST_SUITE_P(Formats, DeviceQad,
                         ::testing::Values(WeightFormat::kFp8, WeightFormat::kNvfp4),
                         [](const auto& test) { return weight_format_name(test.param); });

INSTANTIATE_TEST_SUITE_P(All, DeviceDistillation, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "sliced" : "masked"; });

}  // namespace
}  // namespace nestling
