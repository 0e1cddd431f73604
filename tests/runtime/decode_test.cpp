// Decoding equals prefill: the same tokens one by one give the logits of the whole forward.
#include <cmath>
#include <gtest/gtest.h>

#include "kernels/core/host_view.h"
#include "kernels/core/rng.h"
#include "model/model.h"
#include "model/widths.h"
#include "runtime/decode_state.h"
#include "tests/support/device.h"
#include "tests/support/family_models.h"
#include "tests/support/quantized_elastic.h"

namespace nestling {
namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.pattern = "M*-ME*E";
  c.vocab = 50;
  c.hidden = 24;
  c.query_heads = 6;
  c.kv_heads = 2;
  c.head_dim = 5;
  c.mamba_heads = 6;
  c.mamba_head_dim = 7;
  c.state = 9;
  c.groups = 3;
  c.conv_kernel = 4;
  c.chunk = 8;
  c.ffn = 30;
  c.experts = 7;
  c.top_k = 3;
  c.expert_ffn = 11;
  c.shared_ffn = 13;
  c.gate.scale = 2.5f;
  c.validate("test");
  return c;
}

// Where a model runs, in which types, and on which codes.
struct Place {
  Device device;
  DType compute;
  DType activations = DType::kF32;
  std::optional<WeightFormat> format = {};
  Family family = Family::kNemotronH;
};

// Blocks of NVFP4 are whole.
ModelConfig config_of(const Place& place) {
  for (const ModelConfig& c : testing::family_configs())
    if (c.family == place.family) return c;
  ModelConfig c = small_config();
  if (place.format != WeightFormat::kNvfp4) return c;
  c.hidden = 32;
  c.mamba_head_dim = 16;
  c.ffn = 32;
  c.expert_ffn = 16;
  c.shared_ffn = 16;
  c.validate("test");
  return c;
}

Tensor sent(Device device, ConstView v) {
  Tensor there(device, v.dtype(), {v.dim(0)});
  copy(there.view(), v);
  return there;
}

Tensor random_tokens(uint64_t seed, int64_t count, int64_t vocab) {
  Rng rng(seed);
  Tensor tokens(Device::kCpu, DType::kI32, {count});
  for (int64_t i = 0; i < count; ++i)
    tokens.ptr<int32_t>()[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
  return tokens;
}

// Logits [T, V] of a whole forward over segments, on the host.
Tensor forward_logits(const Place& place, const ModelConfig& config, const ModelParams<Weight>& w,
                      ConstView tokens, std::span<const int32_t> offsets) {
  Context ctx(place.device);
  Arena arena(place.device);
  arena.set_poison(true);
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config,
               .segments = Segments(offsets),
               .save = false,
               .activations = place.activations};
  const Tensor ids = sent(place.device, tokens);
  const ModelActs acts = model_forward(run, w, ids.view());
  const View made = arena.alloc(DType::kF32, {tokens.dim(0), config.vocab});
  model_logits(ctx, w, acts.final_norm.normed, made);
  ctx.synchronize();
  Tensor logits(Device::kCpu, DType::kF32, {tokens.dim(0), config.vocab});
  copy(logits.view(), made);
  return logits;
}

// Every element within `bound` of the largest.
void expect_same(ConstView got, ConstView want, double bound, const std::string& what) {
  double largest = 0;
  for (int64_t i = 0; i < want.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(want.ptr<float>()[i])));
  for (int64_t i = 0; i < want.size(); ++i)
    ASSERT_NEAR(got.ptr<float>()[i], want.ptr<float>()[i], bound * largest) << what << " at " << i;
}

class Decode : public ::testing::TestWithParam<Place> {
 protected:
  void SetUp() override {
    if (GetParam().device == Device::kCuda) NESTLING_SKIP_WITHOUT_CUDA();
  }
  static Weights host_weights(const ModelConfig& config, uint64_t seed) {
    Weights weights(config, Device::kCpu, {.compute = GetParam().compute});
    weights.initialize(seed);
    return GetParam().format
               ? testing::quantized(config, weights, *GetParam().format, GetParam().compute)
               : std::move(weights);
  }
  static Weights fresh_weights(const ModelConfig& config, uint64_t seed) {
    Weights weights = host_weights(config, seed);
    if (GetParam().device == Device::kCpu) return weights;
    return weights.on(GetParam().device, GetParam().compute);
  }
};

// w may be prefix views of the weights of `config`.
void expect_steps_equal_prefill(const Place& place, const ModelConfig& config,
                                const ModelParams<Weight>& w, double bound) {
  constexpr int64_t kBatch = 3, kPrompt = 13, kSteps = 9, kTotal = kPrompt + kSteps;
  const Tensor flat = random_tokens(3, kBatch * kTotal, config.vocab);
  const ConstView tokens = flat.view().reshape({kBatch, kTotal});
  const int32_t all[] = {0, kTotal, 2 * kTotal, 3 * kTotal};
  const Tensor want = forward_logits(place, config, w, flat.view(), all);

  // Prefill the prompts, then feed the rest one token at a time.
  Context ctx(place.device);
  Arena arena(place.device);
  DecodeState state(place.device, config, w, kBatch, kTotal, place.activations);
  Tensor prompt(Device::kCpu, DType::kI32, {kBatch * kPrompt});
  copy(prompt.view().reshape({kBatch, kPrompt}), tokens.prefix(1, kPrompt));
  const int32_t offsets[] = {0, kPrompt, 2 * kPrompt, 3 * kPrompt};
  const Segments segments(offsets);
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config,
               .segments = segments,
               .save = false,
               .activations = place.activations};
  const Tensor prompt_ids = sent(place.device, prompt.view());
  model_forward(run, w, prompt_ids.view(), &state.caches());
  state.set_lengths(segments);

  Tensor ids(Device::kCpu, DType::kI32, {kBatch});
  Tensor normed(place.device, DType::kF32, {kBatch, w.embeddings.dim(1)});
  Tensor made(place.device, DType::kF32, {kBatch, config.vocab});
  Tensor logits(Device::kCpu, DType::kF32, {kBatch, config.vocab});
  for (int64_t t = kPrompt; t < kTotal; ++t) {
    for (int64_t b = 0; b < kBatch; ++b)
      ids.ptr<int32_t>()[b] = tokens.ptr<int32_t>()[b * kTotal + t];
    state.advance();
    StepRun step{.ctx = ctx, .config = config, .lengths = state.lengths()};
    const Tensor step_ids = sent(place.device, ids.view());
    model_step(step, w, step_ids.view(), state.caches(), normed.view());
    model_logits(ctx, w, normed.view(), made.view());
    ctx.synchronize();
    copy(logits.view(), made.view());
    for (int64_t b = 0; b < kBatch; ++b)
      expect_same(logits.view().slice(0, b, 1), want.view().slice(0, b * kTotal + t, 1), bound,
                  str("sequence ", b, " token ", t));
  }
}

// Three sequences that are decoded: what each has, and forwards behind that.
class Decoding {
 public:
  Decoding(const Place& place, const ModelConfig& config, const ModelParams<Weight>& w,
           ConstView tokens)  // [B, n] of the sequences
      : place_(place),
        config_(config),
        w_(w),
        tokens_(tokens),
        ctx_(place.device),
        state_(place.device, config, w, tokens.dim(0), tokens.dim(1), place.activations) {
    ctx_.scratch().set_poison(true);
    state_.reset();
  }

  // The next counts[b] tokens of each; logits behind all of them. With `wrong` so many that are not theirs come
  // behind, in the same forward, and do not stand: their logits are not told.
  Tensor run(const std::vector<int32_t>& counts, int32_t wrong = 0) {
    Arena arena(place_.device);
    arena.set_poison(true);
    const std::vector<int32_t> starts(state_.lengths().begin(), state_.lengths().end());
    std::vector<int32_t> ids, offsets = {0};
    for (size_t b = 0; b < counts.size(); ++b) {
      for (int32_t i = 0; i < counts[b] + wrong; ++i)
        ids.push_back(i < counts[b] ? token(b, starts[b] + i) : 1 + i);
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
    LayerRun run{.ctx = ctx_,
                 .arena = arena,
                 .config = config_,
                 .segments = Segments(offsets),
                 .save = wrong > 0,
                 .starts = starts,
                 .hold = wrong > 0,
                 .activations = place_.activations};
    const ConstView on_device = device_view(ctx_, arena, ids);
    const ModelActs acts = model_forward(run, w_, on_device, &state_.caches());
    if (wrong > 0) model_advance(run, w_, acts, counts, state_.caches());
    state_.advance(counts);
    const View made = arena.alloc(DType::kF32, {std::ssize(ids), config_.vocab});
    model_logits(ctx_, w_, acts.final_norm.normed, made);
    ctx_.synchronize();
    Tensor logits(Device::kCpu, DType::kF32, {std::ssize(ids), config_.vocab});
    copy(logits.view(), made);
    return logits;
  }
  Tensor step() {
    const std::vector<int32_t> at(state_.lengths().begin(), state_.lengths().end());
    std::vector<int32_t> ids;
    for (size_t b = 0; b < at.size(); ++b) ids.push_back(token(b, at[b]));
    Arena arena(place_.device);
    const View normed = arena.alloc(DType::kF32, {std::ssize(ids), w_.embeddings.dim(1)});
    const View made = arena.alloc(DType::kF32, {std::ssize(ids), config_.vocab});
    state_.advance();
    StepRun run{.ctx = ctx_, .config = config_, .lengths = state_.lengths()};
    model_step(run, w_, device_view(ctx_, arena, ids), state_.caches(), normed);
    model_logits(ctx_, w_, normed, made);
    ctx_.synchronize();
    Tensor logits(Device::kCpu, DType::kF32, {std::ssize(ids), config_.vocab});
    copy(logits.view(), made);
    return logits;
  }
  DecodeState& state() { return state_; }
  Context& context() { return ctx_; }

 private:
  int32_t token(size_t b, int32_t t) const {
    return tokens_.ptr<int32_t>()[static_cast<int64_t>(b) * tokens_.dim(1) + t];
  }
  const Place& place_;
  const ModelConfig& config_;
  const ModelParams<Weight>& w_;
  ConstView tokens_;
  Context ctx_;
  DecodeState state_;
};

// Pieces of many lengths behind each other, of which some come with tokens that do not stand, then steps: all as the
// whole forward has it.
void expect_pieces_equal_the_whole(const Place& place, const ModelConfig& config,
                                   const ModelParams<Weight>& w, double bound) {
  constexpr int64_t kBatch = 3, kTotal = 40;
  const Tensor flat = random_tokens(5, kBatch * kTotal, config.vocab);
  const int32_t all[] = {0, kTotal, 2 * kTotal, 3 * kTotal};
  const Tensor want = forward_logits(place, config, w, flat.view(), all);
  Decoding decoding(place, config, w, flat.view().reshape({kBatch, kTotal}));
  struct Piece {
    std::vector<int32_t> counts;
    int32_t wrong;
  };
  std::vector<int32_t> at(kBatch, 0);
  const auto check = [&](size_t b, ConstView logits, const std::string& what) {
    expect_same(logits, want.view().slice(0, static_cast<int64_t>(b) * kTotal + at[b], 1), bound,
                str(what, ": sequence ", b, " token ", at[b]));
    ++at[b];
  };
  for (const Piece& piece : {Piece{{9, 1, 2}, 0}, Piece{{1, 3, 20}, 0}, Piece{{2, 5, 1}, 4},
                             Piece{{11, 1, 3}, 1}, Piece{{1, 1, 1}, 3}}) {
    const Tensor logits = decoding.run(piece.counts, piece.wrong);
    int64_t row = 0;
    for (size_t b = 0; b < kBatch; ++b, row += piece.wrong)
      for (int32_t i = 0; i < piece.counts[b]; ++i)
        check(b, logits.view().slice(0, row++, 1), "piece");
  }
  for (int i = 0; i < 4; ++i) {
    const Tensor logits = decoding.step();
    for (size_t b = 0; b < kBatch; ++b)
      check(b, logits.view().slice(0, static_cast<int64_t>(b), 1), "step");
  }
}

// f32: the orders of the sums differ, a few hundred roundings. bf16: an activation on the edge of
// rounding may fall the other way, 2^-8 of one operand in many; with bf16 activations a step keeps f32
// what a forward rounds between operators, in each of 7 layers. Codes of activations are further apart: one that falls the
// other way is off by up to 2^-3, of NVFP4 2^-1, of itself; after f32 few do, after bf16 some in a hundred.
double bound_of(const Place& place) {
  if (place.format && place.activations == DType::kBF16)
    return place.format == WeightFormat::kFp8 ? 1e-1 : 2e-1;
  if (place.format) return place.format == WeightFormat::kFp8 ? 1e-2 : 5e-2;
  if (place.activations == DType::kBF16) return 5e-2;
  return place.compute == DType::kF32 ? 1e-5 : 2e-2;
}

Widths smaller_widths(const ModelConfig& config, const Place& place) {
  Widths widths = full_widths(config);
  widths.hidden = 16;
  for (LayerWidths& layer : widths.layers) {
    if (layer.query_heads > 0 && !place.format) layer.query_heads = config.kv_heads;
    if (layer.mamba_heads == 0) continue;
    layer.mamba_heads = config.groups;
    if (place.format != WeightFormat::kNvfp4) layer.mamba_channels = 5;
  }
  return widths;
}

TEST_P(Decode, StepByStepEqualsPrefill) {
  const ModelConfig config = config_of(GetParam());
  Weights weights = fresh_weights(config, 11);
  expect_steps_equal_prefill(GetParam(), config, weights.params(), bound_of(GetParam()));
}

// Head channels are cut into runs, which a step gathers.
TEST_P(Decode, StepByStepEqualsPrefillInASmallerSize) {
  const ModelConfig config = config_of(GetParam());
  Weights weights = fresh_weights(config, 13);
  const auto views =
      prefix_parameters(config, smaller_widths(config, GetParam()), weights.params());
  expect_steps_equal_prefill(GetParam(), config, views, bound_of(GetParam()));
}

TEST_P(Decode, PiecesEqualTheWhole) {
  const ModelConfig config = config_of(GetParam());
  Weights weights = fresh_weights(config, 15);
  expect_pieces_equal_the_whole(GetParam(), config, weights.params(), bound_of(GetParam()));
}

TEST_P(Decode, PiecesEqualTheWholeInASmallerSize) {
  const ModelConfig config = config_of(GetParam());
  Weights weights = fresh_weights(config, 16);
  const auto views =
      prefix_parameters(config, smaller_widths(config, GetParam()), weights.params());
  expect_pieces_equal_the_whole(GetParam(), config, views, bound_of(GetParam()));
}

// One sequence goes back to where it was and says the same again; the others are left alone.
TEST_P(Decode, ASequenceGoesBack) {
  const ModelConfig config = config_of(GetParam());
  Weights weights = fresh_weights(config, 17);
  const Tensor flat = random_tokens(7, 3 * 20, config.vocab);
  const auto w = weights.params();
  Decoding decoding(GetParam(), config, w, flat.view().reshape({3, 20}));
  decoding.run({6, 7, 8});
  decoding.state().remember(decoding.context(), 0);
  const Tensor once = decoding.step();
  decoding.state().remember(decoding.context(), 1);
  const Tensor next = decoding.step();
  decoding.state().go_back(decoding.context(), 1, 0);
  EXPECT_EQ(
      std::vector<int32_t>(decoding.state().lengths().begin(), decoding.state().lengths().end()),
      (std::vector<int32_t>{8, 7, 10}));
  const Tensor again = decoding.step();
  const auto expect_equal = [](ConstView a, ConstView b) {
    for (int64_t i = 0; i < a.size(); ++i) ASSERT_EQ(a.ptr<float>()[i], b.ptr<float>()[i]) << i;
  };
  expect_equal(again.view().slice(0, 1, 1), once.view().slice(0, 1, 1));
  const Tensor after = decoding.step();
  expect_equal(after.view().slice(0, 1, 1), next.view().slice(0, 1, 1));
}

TEST_P(Decode, SequencesOfABatchDoNotSeeEachOther) {
  const ModelConfig config = config_of(GetParam());
  Weights weights = fresh_weights(config, 12);
  const Tensor tokens = random_tokens(4, 40, config.vocab);
  const int32_t both[] = {0, 17, 40};
  const int32_t alone[] = {0, 23};
  const auto w = weights.params();
  const Tensor together = forward_logits(GetParam(), config, w, tokens.view(), both);
  const Tensor second =
      forward_logits(GetParam(), config, w, tokens.view().slice(0, 17, 23), alone);
  const double bound = bound_of(GetParam());
  expect_same(together.view().slice(0, 17, 23), second.view(), bound, "the second document");
}

// A device says what the CPU does.
TEST_P(Decode, PrefillIsThatOfTheCpu) {
  const ModelConfig config = config_of(GetParam());
  Weights there = fresh_weights(config, 14), here = host_weights(config, 14);
  const Tensor tokens = random_tokens(6, 37, config.vocab);
  const int32_t offsets[] = {0, 17, 37};
  const Tensor got = forward_logits(GetParam(), config, there.params(), tokens.view(), offsets);
  Place cpu = GetParam();
  cpu.device = Device::kCpu;
  cpu.activations = DType::kF32;
  const Tensor want = forward_logits(cpu, config, here.params(), tokens.view(), offsets);
  expect_same(got.view(), want.view(), bound_of(GetParam()), "prefill");
}

std::vector<Place> places() {
  std::vector<Place> all = {Place{Device::kCpu, DType::kF32},
                            Place{Device::kCpu, DType::kBF16},
                            Place{Device::kCuda, DType::kF32},
                            Place{Device::kCuda, DType::kBF16},
                            Place{Device::kCuda, DType::kBF16, DType::kBF16},
                            Place{Device::kCpu, DType::kF32, DType::kF32, WeightFormat::kFp8},
                            Place{Device::kCpu, DType::kF32, DType::kF32, WeightFormat::kNvfp4},
                            Place{Device::kCuda, DType::kF32, DType::kF32, WeightFormat::kFp8},
                            Place{Device::kCuda, DType::kF32, DType::kF32, WeightFormat::kNvfp4},
                            Place{Device::kCuda, DType::kBF16, DType::kBF16, WeightFormat::kFp8},
                            Place{Device::kCuda, DType::kBF16, DType::kBF16, WeightFormat::kNvfp4}};
  for (const Family family : {Family::kLlama, Family::kQwen3Moe, Family::kGraniteHybrid})
    for (const Device device : {Device::kCpu, Device::kCuda}) {
      all.push_back({device, DType::kF32, DType::kF32, {}, family});
      all.push_back(
          {device, DType::kBF16, device == Device::kCpu ? DType::kF32 : DType::kBF16, {}, family});
    }
  all.push_back(
      {Device::kCuda, DType::kF32, DType::kF32, WeightFormat::kFp8, Family::kGraniteHybrid});
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, Decode, ::testing::ValuesIn(places()), [](const auto& test) {
  const Place& p = test.param;
  return str(device_name(p.device), "_", dtype_name(p.compute), "_", dtype_name(p.activations),
             p.format ? str("_", weight_format_name(*p.format)) : "",
             p.family != Family::kNemotronH ? str("_", family_name(p.family)) : "");
});

}  // namespace
}  // namespace nestling
