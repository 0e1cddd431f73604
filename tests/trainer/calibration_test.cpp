// The calibration pass on several ranks equals that on one.
#include "trainer/calibration.h"

#include <cmath>
#include <gtest/gtest.h>

#include "kernels/core/rng.h"
#include "model/order.h"
#include "model/weights.h"
#include "tests/support/expect_error.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"

namespace nestling {
namespace {

using testing::world;

constexpr int64_t kVocab = 40, kLength = 16, kSamples = 8;

Batch sequences(int64_t position, int64_t count, int64_t rank, int64_t ranks) {
  Batch b;
  b.sequences = count / ranks;
  b.seq_len = kLength;
  b.cu_seqlens = {0};
  for (int64_t s = 0; s < b.sequences; ++s) {
    Rng rng(7, static_cast<uint64_t>(position + rank * b.sequences + s));
    for (int64_t t = 0; t < kLength; ++t)
      b.tokens.push_back(static_cast<int32_t>(rng.below(kVocab)));
    b.cu_seqlens.push_back(static_cast<int32_t>((s + 1) * kLength));
  }
  return b;
}

Scores scores_of(const CalibrationOptions& options, Comm& comm) {
  const ModelConfig config = testing::tiny_config(kVocab);
  Weights weights(config, Device::kCpu, {});
  weights.initialize(3);
  Context ctx(Device::kCpu);
  const auto load = [&](int64_t position, int64_t count) {
    return sequences(position, count, comm.rank(), comm.size());
  };
  Arena arena(Device::kCpu);
  return run_importance(ctx, arena, config, weights.params(), load, options, comm);
}

TEST(Calibration, RanksAgreeWithOne) {
  const auto self = make_self_comm();
  const CalibrationOptions options{.samples = kSamples, .micro_batch = 2, .depth_samples = 4};
  const Scores alone = scores_of(options, *self), together = scores_of(options, world());
  // Micro-batches of other lengths: the products' sums of at most 64 terms may be cut elsewhere.
  constexpr double kBound = 4 * 64 * 0x1p-24;
  const auto expect_near = [&](const std::vector<double>& a, const std::vector<double>& b) {
    EXPECT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], kBound * (std::abs(a[i]) + 1e-3));
  };
  expect_near(alone.hidden, together.hidden);
  expect_near(alone.depth, together.depth);
  for (size_t l = 0; l < alone.layers.size(); ++l)
    for (const auto& [axis, list] : alone.layers[l]) expect_near(list, together.layers[l].at(axis));
}

TEST(Calibration, TheSameTwice) {
  const CalibrationOptions options{.samples = kSamples, .micro_batch = 1, .depth_samples = 4};
  EXPECT_EQ(scores_of(options, world()), scores_of(options, world()));
}

TEST(Calibration, LastMicroBatchMayBeSmaller) {
  const auto self = make_self_comm();
  int64_t calls = 0, last = 0;
  CalibrationOptions options{.samples = 8, .micro_batch = 3};
  options.progress = [&](int64_t done, int64_t of) {
    ++calls;
    last = done;
    EXPECT_EQ(of, 8);
  };
  scores_of(options, *self);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(last, 8);
}

TEST(Calibration, GreedySearchReplacesTheCosine) {
  const auto self = make_self_comm();
  const Scores cosine = scores_of({.samples = 4}, *self);
  const Scores greedy = scores_of({.samples = 4, .depth_samples = 4}, *self);
  EXPECT_NE(cosine.depth, greedy.depth);
  EXPECT_EQ(cosine.layers, greedy.layers);
}

TEST(Calibration, RefusesSamplesThatDoNotDivide) {
  if (world().size() == 1) {
    testing::expect_error([] { scores_of({.samples = 0}, world()); }, {"samples 0"});
    testing::expect_error([] { scores_of({.samples = 4, .depth_samples = 5}, world()); },
                          {"depth_samples 5 of 4"});
    return;
  }
  testing::expect_error([] { scores_of({.samples = 4 * world().size() + 1}, world()); },
                        {"sequences on", "the nearest that divides is"});
}

}  // namespace
}  // namespace nestling
