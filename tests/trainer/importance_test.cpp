// Scores against their formulas, taken from weights and activations the long way round.
#include "trainer/importance.h"

#include <cmath>
#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/core/rng.h"
#include "kernels/ops/scan.h"
#include "kernels/ops/state_score.h"
#include "kernels/ops/unit_sums.h"
#include "model/weights.h"
#include "model/widths.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny_model.h"
#include "trainer/calibration.h"
#include "trainer/depth_search.h"

namespace nestling {
namespace {

constexpr int64_t kVocab = 40, kTokens = 31;

// A forward of a random model that keeps everything, over two documents.
struct Forward {
  ModelConfig config;
  Weights weights;
  Context ctx{Device::kCpu};
  Arena arena{Device::kCpu};
  Tensor ids{Device::kCpu, DType::kI32, {kTokens}};
  std::vector<int32_t> offsets = {0, 12, kTokens};
  ModelActs acts;

  explicit Forward(uint64_t seed, ModelConfig c = testing::tiny_config(kVocab))
      : config(std::move(c)), weights(config, Device::kCpu, {}) {
    weights.initialize(1);
    for (int64_t i = 0; i < weights.count(); ++i) {  // products that matter beside the embedding
      if (!weights.specs()[static_cast<size_t>(i)].product) continue;
      float* w = weights.master(i).ptr<float>();
      for (int64_t k = 0; k < weights.master(i).size(); ++k) w[k] *= 8.0f;
    }
    Rng rng(seed);
    for (int64_t t = 0; t < kTokens; ++t)
      ids.ptr<int32_t>()[t] = static_cast<int32_t>(rng.below(kVocab));
  }
  ModelActs& forward() {
    LayerRun run{.ctx = ctx, .arena = arena, .config = config, .segments = segments()};
    return acts = model_forward(run, weights.params(), ids.view());
  }
  Segments segments() const { return Segments(offsets); }
  Importance importance() {
    Importance scores(ctx, config);
    scores.add(forward(), weights.params(), segments());
    return scores;
  }
  View named(const std::string& name) {
    for (int64_t i = 0; i < weights.count(); ++i)
      if (weights.specs()[static_cast<size_t>(i)].name == name) return weights.master(i);
    ADD_FAILURE() << name;
    return {};
  }
};

double mean_abs(ConstView x, int64_t column) {
  double sum = 0;
  for (int64_t t = 0; t < x.dim(0); ++t) sum += std::abs(x.ptr<float>()[t * x.stride(0) + column]);
  return sum / static_cast<double>(x.dim(0));
}

// Sums of at most a few hundred doubles in another order.
constexpr double kDouble = 1e-13;

TEST(Importance, HiddenIsTheMeanMagnitudeAfterEveryNorm) {
  Forward run(2);
  const Scores scores = run.importance().scores();
  for (int64_t d = 0; d < run.config.hidden; ++d) {
    double sum = mean_abs(run.acts.final_norm.normed, d);
    for (const LayerActs& layer : run.acts.layers)
      sum += std::visit([&](const auto& a) { return mean_abs(a.norm.normed, d); }, layer);
    EXPECT_NEAR(scores.hidden[static_cast<size_t>(d)], sum, kDouble * sum);
  }
}

TEST(Importance, MambaHeadsAndChannelsComeFromTheProjection) {
  Forward run(2);
  const Importance importance = run.importance();
  const Scores all = importance.scores(), best = importance.scores(3);
  const ConstView x = std::get<MambaActs>(run.acts.layers[0]).x_raw;
  const int64_t H = run.config.mamba_heads, P = run.config.mamba_head_dim;
  const auto& channels = all.layers[0].at(Axis::kMambaChannels);
  for (int64_t p = 0; p < P; ++p) {
    double sum = 0;
    for (int64_t h = 0; h < H; ++h) sum += std::pow(mean_abs(x, h * P + p), 2);
    EXPECT_NEAR(channels[static_cast<size_t>(p)], std::sqrt(sum), kDouble);
  }
  std::vector<double> falling = channels;
  std::sort(falling.begin(), falling.end(), std::greater<>());
  for (int64_t h = 0; h < H; ++h) {
    double sum = 0, top = 0;
    for (int64_t p = 0; p < P; ++p) {
      const double square = std::pow(mean_abs(x, h * P + p), 2);
      sum += square;
      if (channels[static_cast<size_t>(p)] >= falling[2]) top += square;
    }
    const auto index = static_cast<size_t>(h);
    EXPECT_NEAR(all.layers[0].at(Axis::kMambaHeads)[index], std::sqrt(sum), kDouble);
    EXPECT_NEAR(best.layers[0].at(Axis::kMambaHeads)[index], std::sqrt(top), kDouble);
  }
}

// The scan's output with a component's C set to zero is off by what the score says.
TEST(Importance, StateIsWhatTheScanLosesWithoutTheComponent) {
  Forward run(2);
  const Scores scores = run.importance().scores();
  const auto& a = std::get<MambaActs>(run.acts.layers[0]);
  const auto params = run.weights.params();
  const auto& w = std::get<MambaParams<Weight>>(params.layers[0]);
  const int64_t H = a.x.dim(1), P = a.x.dim(2), N = a.B.dim(1), G = a.B.dim(2);
  Tensor C(Device::kCpu, DType::kF32, {kTokens, N, G}),
      y(Device::kCpu, DType::kF32, {kTokens, H, P});
  for (int64_t unit = 0; unit < N * G; ++unit) {
    copy(C.view(), a.C);
    for (int64_t t = 0; t < kTokens; ++t) C.ptr<float>()[t * N * G + unit] = 0;
    scan_forward(run.ctx, {.y = y.view(),
                           .x = a.x,
                           .dt_raw = a.dt,
                           .B = a.B,
                           .C = C.view(),
                           .A_log = w.A_log,
                           .D = w.D,
                           .dt_bias = w.dt_bias,
                           .segments = run.segments(),
                           .chunk = run.config.chunk});
    double sum = 0, scale = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      double change = 0, norm = 0;
      for (int64_t i = 0; i < H * P; ++i) {
        const double whole = a.y.ptr<float>()[t * H * P + i];
        change += std::pow(whole - y.ptr<float>()[t * H * P + i], 2);
        norm += whole * whole;
      }
      sum += std::sqrt(change) / kTokens;
      scale += std::sqrt(norm) / kTokens;
    }
    // Two outputs of N + chunk terms each are subtracted: their roundings stay.
    const double bound = 4 * static_cast<double>(N + run.config.chunk) * 0x1p-24 * scale;
    EXPECT_NEAR(scores.layers[0].at(Axis::kState)[static_cast<size_t>(unit)], sum, bound);
  }
}

TEST(Importance, QueryHeadsAndChannelsOfFeedForward) {
  Forward run(2);
  const Scores scores = run.importance().scores();
  const auto& attention = std::get<AttentionActs>(run.acts.layers[2]);
  const auto& ffn = std::get<FfnActs>(run.acts.layers[3]);
  const auto& moe = std::get<MoeActs>(run.acts.layers[1]);
  const int64_t h = run.config.head_dim;
  for (int64_t q = 0; q < run.config.query_heads; ++q) {
    double sum = 0;
    for (int64_t i = 0; i < h; ++i)
      sum += std::pow(mean_abs(merge_cols(ConstView(attention.y)), q * h + i), 2);
    EXPECT_NEAR(scores.layers[2].at(Axis::kQueryHeads)[static_cast<size_t>(q)], std::sqrt(sum),
                kDouble);
  }
  for (int64_t f = 0; f < run.config.ffn; ++f)
    EXPECT_NEAR(scores.layers[3].at(Axis::kFfn)[static_cast<size_t>(f)], mean_abs(ffn.act, f),
                kDouble);
  for (int64_t f = 0; f < run.config.shared_ffn; ++f)
    EXPECT_NEAR(scores.layers[1].at(Axis::kSharedFfn)[static_cast<size_t>(f)],
                mean_abs(moe.shared.act, f), kDouble);
}

// REAP from the logits of the gate and the weights of the experts, token by token, in double.
TEST(Importance, ExpertsAreReapOverTheirTokens) {
  Forward run(2);
  const Importance importance = run.importance();
  const Scores scores = importance.scores();
  const auto& a = std::get<MoeActs>(run.acts.layers[1]);
  const ModelConfig& c = run.config;
  const std::string at = "backbone.layers.1.mixer.experts.{e}.";
  const float* up = run.named(at + "up_proj.weight").ptr<float>();
  const float* down = run.named(at + "down_proj.weight").ptr<float>();
  std::vector<double> reap(6), count(6), channels(static_cast<size_t>(c.experts * c.expert_ffn));
  for (int64_t t = 0; t < kTokens; ++t) {
    const float* x = a.norm.normed.ptr<float>() + t * c.hidden;
    double total = 0;
    const auto sigmoid = [&](int64_t j) {
      const int32_t e = a.index.ptr<int32_t>()[t * c.top_k + j];
      return 1 / (1 + std::exp(-double{a.logits.ptr<float>()[t * c.experts + e]}));
    };
    for (int64_t j = 0; j < c.top_k; ++j) total += sigmoid(j);
    for (int64_t j = 0; j < c.top_k; ++j) {
      const int64_t e = a.index.ptr<int32_t>()[t * c.top_k + j];
      std::vector<double> y(static_cast<size_t>(c.hidden));
      for (int64_t f = 0; f < c.expert_ffn; ++f) {
        double s = 0;
        for (int64_t d = 0; d < c.hidden; ++d)
          s += double{up[(e * c.expert_ffn + f) * c.hidden + d]} * x[d];
        const double act = s > 0 ? s * s : 0;
        channels[static_cast<size_t>(e * c.expert_ffn + f)] += act;
        for (int64_t d = 0; d < c.hidden; ++d)
          y[static_cast<size_t>(d)] += act * down[(e * c.hidden + d) * c.expert_ffn + f];
      }
      double norm = 0;
      for (const double v : y) norm += v * v;
      reap[static_cast<size_t>(e)] += sigmoid(j) / total * std::sqrt(norm);
      count[static_cast<size_t>(e)] += 1;
    }
  }
  EXPECT_EQ(importance.routed(1), count);
  // The forward's products are f32 sums of up to 32 terms, squared once.
  constexpr double kBound = 4 * 32 * 0x1p-24;
  for (size_t e = 0; e < count.size(); ++e) {
    const double mean = count[e] > 0 ? reap[e] / count[e] : 0;
    EXPECT_NEAR(scores.layers[1].at(Axis::kExperts)[e], mean, kBound * mean);
    for (int64_t f = 0; f < c.expert_ffn; ++f) {
      const size_t unit = e * static_cast<size_t>(c.expert_ffn) + static_cast<size_t>(f);
      const double wanted = count[e] > 0 ? channels[unit] / count[e] : 0;
      EXPECT_NEAR(scores.layers[1].at(Axis::kExpertFfn)[unit], wanted, kBound * (wanted + 0.01));
    }
  }
}

TEST(Importance, LayersByCosine) {
  Forward run(2);
  const Scores scores = run.importance().scores();
  const ConstView in = std::get<FfnActs>(run.acts.layers[3]).norm.input;
  const ConstView out = run.acts.final_norm.input;
  double sum = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t d = 0; d < run.config.hidden; ++d) {
      const double a = in.ptr<float>()[t * run.config.hidden + d];
      const double b = out.ptr<float>()[t * run.config.hidden + d];
      ab += a * b, aa += a * a, bb += b * b;
    }
    sum += (1 - ab / std::sqrt(aa * bb)) / kTokens;
  }
  EXPECT_NEAR(scores.depth[3], sum, kDouble);
}

TEST(Importance, SameBitsTwice) {
  Forward a(2), b(2);
  EXPECT_EQ(a.importance().scores(), b.importance().scores());
}

TEST(Importance, SameBitsWithAnyNumberOfThreads) {
  Forward run(2);
  run.forward();
  const int threads = thread_count();
  std::vector<Scores> scores;
  for (const int n : {1, 2, 3}) {
    set_thread_count(n);
    Importance importance(run.ctx, run.config);
    importance.add(run.acts, run.weights.params(), run.segments());
    scores.push_back(importance.scores());
  }
  set_thread_count(threads);
  EXPECT_EQ(scores[0], scores[1]);
  EXPECT_EQ(scores[0], scores[2]);
}

TEST(Importance, WhatIsDeadScoresZero) {
  Forward run(2);
  fill_zero(run.named("backbone.layers.3.mixer.up_proj.weight").slice(0, 7, 1));
  fill_zero(run.named("backbone.layers.0.mixer.in_proj.weight/x").slice(0, 2, 1));
  fill_zero(run.named("backbone.layers.0.mixer.conv1d.weight/C").slice(0, 5, 1));
  fill_zero(run.named("backbone.layers.0.mixer.conv1d.bias/C").slice(0, 5, 1));
  run.named("backbone.layers.1.mixer.gate.e_score_correction_bias").ptr<float>()[4] = -100;
  const Importance importance = run.importance();
  const Scores scores = importance.scores();
  EXPECT_EQ(scores.layers[3].at(Axis::kFfn)[7], 0);
  EXPECT_EQ(scores.layers[0].at(Axis::kMambaHeads)[2], 0);
  EXPECT_EQ(scores.layers[0].at(Axis::kState)[5 * 2 + 1], 0);
  EXPECT_GT(scores.layers[0].at(Axis::kState)[4 * 2 + 1], 0);
  EXPECT_EQ(importance.routed(1)[4], 0);
  EXPECT_EQ(scores.layers[1].at(Axis::kExperts)[4], 0);
}

TEST(Importance, RefusesActivationsOfASmallerSize) {
  Forward run(2);
  Widths widths = full_widths(run.config);
  widths.layers[3].ffn = 32;
  LayerRun small{
      .ctx = run.ctx, .arena = run.arena, .config = run.config, .segments = run.segments()};
  const auto cut = prefix_parameters(run.config, widths, run.weights.params());
  const ModelActs acts = model_forward(small, cut, run.ids.view());
  Importance importance(run.ctx, run.config);
  testing::expect_error([&] { importance.add(acts, cut, run.segments()); },
                        {"48 units, the activation is [31,32]"}, ErrorKind::kRuntime);
}

Batch batch_of(const Forward& run) {
  Batch b;
  b.sequences = 1;
  b.seq_len = kTokens;
  b.tokens.assign(run.ids.ptr<int32_t>(), run.ids.ptr<int32_t>() + kTokens);
  b.cu_seqlens = run.offsets;
  return b;
}

// Error of the logits when one layer is left out, from the logits themselves.
double error_without(Forward& run, size_t layer) {
  const auto logits = [&](bool without) {
    Widths widths = full_widths(run.config);
    widths.layers[layer].kept = without ? 0 : 1;
    const auto w = prefix_parameters(run.config, widths, run.weights.params());
    LayerRun r{
        .ctx = run.ctx, .arena = run.arena, .config = run.config, .segments = run.segments()};
    const View out = run.arena.alloc(DType::kF32, {kTokens, kVocab});
    model_logits(run.ctx, w, model_forward(r, w, run.ids.view()).final_norm.normed, out);
    return out;
  };
  const View full = logits(false), cut = logits(true);
  double error = 0, norm = 0;
  for (int64_t i = 0; i < full.size(); ++i) {
    const double a = full.ptr<float>()[i];
    error += std::pow(a - cut.ptr<float>()[i], 2);
    norm += a * a;
  }
  return error / norm;
}

TEST(DepthSearch, StartsWithTheLeastHarmfulAndScoresByItsError) {
  Forward run(2);
  const auto self = make_self_comm();
  const Batch batch = batch_of(run);
  const std::vector<double> scores = search_depth(
      run.ctx, run.arena, run.config, run.weights.params(), {&batch, 1}, DType::kF32, *self);
  const auto first = std::min_element(scores.begin(), scores.end());
  double least = INFINITY;
  for (size_t l = 0; l < scores.size(); ++l) least = std::min(least, error_without(run, l));
  // f32 products over 32 and 40 terms, in two forms of one sum.
  EXPECT_NEAR(*first, least, 1e-5 * least);
  EXPECT_NEAR(*first, error_without(run, static_cast<size_t>(first - scores.begin())),
              1e-5 * least);
  std::vector<double> rising = scores;
  std::sort(rising.begin(), rising.end());
  EXPECT_EQ(std::adjacent_find(rising.begin(), rising.end()), rising.end());
}

TEST(DepthSearch, ALayerThatAddsNothingGoesFirst) {
  Forward run(2);
  fill_zero(run.named("backbone.layers.2.mixer.o_proj.weight"));
  const auto self = make_self_comm();
  const Batch batch = batch_of(run);
  const std::vector<double> scores = search_depth(
      run.ctx, run.arena, run.config, run.weights.params(), {&batch, 1}, DType::kF32, *self);
  EXPECT_EQ(std::min_element(scores.begin(), scores.end()) - scores.begin(), 2);
  EXPECT_LT(scores[2], 1e-300);  // exactly no error, counted as just above it
}

struct Place {
  Device device;
  DType compute, activations;
};
class ImportanceOn : public ::testing::TestWithParam<Place> {};

Scores scores_on(const Place& place, Weights& weights, const Forward& run) {
  Context ctx(place.device);
  const auto self = make_self_comm();
  const auto load = [&](int64_t, int64_t) { return batch_of(run); };
  Arena arena(place.device);
  return run_importance(ctx, arena, run.config, weights.params(), load,
                        {.samples = 2, .depth_samples = 1, .activations = place.activations},
                        *self);
}

// Scores of a device are the CPU's, up to the roundings of its products and, with bf16, of their operands.
TEST_P(ImportanceOn, ScoresAreThoseOfTheCpu) {
  const Place place = GetParam();
  NESTLING_SKIP_WITHOUT(place.device, MagnitudeSums, ExpertNormSums, CosineDistanceSum, ProductSum,
                        StateScore);
  Forward run(2);
  const Scores want = scores_on({Device::kCpu, DType::kF32, DType::kF32}, run.weights, run);
  Weights there = run.weights.on(place.device, place.compute);
  const Scores got = scores_on(place, there, run);
  EXPECT_EQ(got, scores_on(place, there, run));
  const double bound = place.compute == DType::kF32 ? 4 * 64 * 0x1p-24 : 8 * 0x1p-8;
  const auto expect_near = [&](const std::vector<double>& a, const std::vector<double>& b) {
    ASSERT_EQ(a.size(), b.size());
    const double largest = *std::max_element(b.begin(), b.end());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], bound * largest) << "unit " << i;
  };
  expect_near(got.hidden, want.hidden);
  expect_near(got.depth, want.depth);
  for (size_t l = 0; l < want.layers.size(); ++l)
    for (const auto& [axis, list] : want.layers[l]) {
      SCOPED_TRACE(str("layer ", l, ", ", axis_name(axis)));
      expect_near(got.layers[l].at(axis), list);
    }
}

INSTANTIATE_TEST_SUITE_P(All, ImportanceOn,
                         ::testing::Values(Place{Device::kCuda, DType::kF32, DType::kF32},
                                           Place{Device::kCuda, DType::kBF16, DType::kF32},
                                           Place{Device::kCuda, DType::kBF16, DType::kBF16}),
                         [](const auto& test) {
                           const Place& p = test.param;
                           return str(device_name(p.device), "_", dtype_name(p.compute), "_",
                                      dtype_name(p.activations));
                         });

}  // namespace
}  // namespace nestling
