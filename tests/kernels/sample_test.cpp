#include "kernels/ops/sample.h"

#include <gtest/gtest.h>

#include "kernels/reference/sample.h"
#include "tests/support/device.h"
#include "tests/support/ints.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

std::vector<int32_t> draw(Device device, View logits, const SamplingRule& rule,
                          const std::vector<uint64_t>& streams, uint64_t position = 0,
                          uint64_t seed = 11) {
  Context ctx(device);
  ctx.scratch().set_poison(true);
  GuardedInts tokens(device, 1, logits.dim(0));
  sample(ctx, {.tokens = tokens.row(),
               .logits = logits,
               .rule = rule,
               .seed = seed,
               .streams = streams,
               .position = position});
  ctx.synchronize();
  tokens.expect_guards_intact("tokens");
  return tokens.read();
}
std::vector<int32_t> draw(Device device, const Mat<double>& logits, const SamplingRule& rule,
                          const std::vector<uint64_t>& streams, uint64_t position = 0,
                          uint64_t seed = 11) {
  return draw(device, Guarded(device, logits).view(), rule, streams, position, seed);
}

std::vector<uint64_t> streams(int64_t n) {
  std::vector<uint64_t> s;
  for (int64_t i = 0; i < n; ++i) s.push_back(static_cast<uint64_t>(i));
  return s;
}

class Sampling : public ::testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(All, Sampling, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

TEST_P(Sampling, TemperatureZeroIsTheFirstArgMax) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  Rng rng(1);
  for (int64_t width : {1, 7, 16, 149, 1000}) {
    auto logits = random_mat(rng, 5, width);
    std::vector<int32_t> want;
    for (int64_t b = 0; b < 5; ++b) {
      const auto at = static_cast<int64_t>(rng.below(static_cast<uint64_t>(width)));
      logits(b, at) = logits(b, width - 1) = 9.0;  // a tie with the last
      want.push_back(static_cast<int32_t>(at));
    }
    EXPECT_EQ(draw(device, logits, {}, {}), want);
  }
}

struct Case {
  int64_t width;
  SamplingRule rule;
  uint64_t positions = 25;
};

// Draws are independent Bernoulli trials for each id. By Bernstein's inequality, |count - n p| is
// above sqrt(2 n p z) + 2 z / 3 with probability below 2 e^-z. z = 25 leaves less than 1e-7 for
// all ids of all cases together.
TEST_P(Sampling, DrawsTheReferenceDistribution) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  constexpr double kZ = 25;
  constexpr int64_t kBatch = 300;
  const Case cases[] = {{6, {.temperature = 1.0f}},
                        {40, {.temperature = 0.5f}},
                        {40, {.temperature = 1.5f, .top_k = 7}},
                        {900, {.temperature = 1.5f, .top_k = 20}, 10},
                        {40, {.temperature = 1.0f, .top_p = 0.8f}},
                        {40, {.temperature = 1.0f, .top_k = 12, .top_p = 0.6f}},
                        {1500, {.temperature = 0.8f, .top_p = 0.95f}, 10},
                        {1500, {.temperature = 0.3f}, 10}};
  for (const Case& c : cases) {
    Rng rng(3, static_cast<uint64_t>(c.width));
    const auto row = random_mat(rng, 1, c.width, 2.0);
    Mat<double> logits(kBatch, c.width);
    for (int64_t i = 0; i < logits.size(); ++i) logits[i] = row[i % c.width];
    Guarded operand(device, logits);
    const auto p = reference::sample_distribution(row, c.rule);
    std::vector<int64_t> counts(static_cast<size_t>(c.width));
    for (uint64_t position = 0; position < c.positions; ++position)
      for (int32_t id : draw(device, operand.view(), c.rule, streams(kBatch), position))
        ++counts[static_cast<size_t>(id)];
    const auto n = static_cast<double>(kBatch * c.positions);
    for (int64_t id = 0; id < c.width; ++id) {
      const auto count = static_cast<double>(counts[static_cast<size_t>(id)]);
      if (p[id] == 0) {
        EXPECT_EQ(count, 0) << "id " << id << " is cut off";
        continue;
      }
      EXPECT_LE(std::abs(count - n * p[id]), std::sqrt(2 * n * p[id] * kZ) + 2 * kZ / 3)
          << "id " << id << " of " << c.width << ", p " << p[id] << ", top_k " << c.rule.top_k
          << ", top_p " << c.rule.top_p;
    }
  }
}

TEST_P(Sampling, TiesAtTheCutGoToTheLowerId) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  Mat<double> logits(200, 300);  // all alike
  const auto s = streams(200);
  for (int32_t id : draw(device, logits, {.temperature = 1.0f, .top_k = 3}, s)) EXPECT_LT(id, 3);
  // Ten of 300 equal weights hold 1/30; a hair less than ten need ten.
  for (int32_t id : draw(device, logits, {.temperature = 1.0f, .top_p = 0.0332f}, s))
    EXPECT_LT(id, 10);
  // Half of all, where no weight is above the mean.
  const std::vector<int32_t> half =
      draw(device, logits, {.temperature = 1.0f, .top_p = 0.4999f}, s);
  EXPECT_LT(*std::max_element(half.begin(), half.end()), 150);
  EXPECT_GT(*std::max_element(half.begin(), half.end()),
            130);  // none of 19 in 200 draws: (131/150)^200
}

TEST_P(Sampling, AShareThatIsMetExactlyIsEnough) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  const Mat<double> logits(200, 4);  // all alike: one, two and three of four hold these shares
  for (const int32_t held : {1, 2, 3})
    for (int32_t id :
         draw(device, logits, {.temperature = 1.0f, .top_p = 0.25f * held}, streams(200)))
      EXPECT_LT(id, held);
}

// Weights of two devices differ by a few roundings, which moves each of the V borders between ids by
// as much of the whole: a draw meets one with probability 4 V 2^-24 at most, 1 in 800 of the widest.
TEST_P(Sampling, DrawsWhatTheCpuDraws) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  Rng rng(7);
  for (int64_t width : {149, 5000}) {
    // Among the rows: one of many ties, one of ids without weight and both zeros, one far apart.
    auto logits = random_mat(rng, 12, width, 3.0);
    for (int64_t v = 0; v < width; v += 2) logits(1, v) = logits(1, 0);
    for (int64_t v = 0; v < width; ++v) logits(2, v) = v % 3 == 0 ? -HUGE_VAL : v % 2 ? -0.0 : 0.0;
    for (int64_t v = 0; v < width; ++v) logits(3, v) *= 1e6;
    for (const SamplingRule& rule :
         {SamplingRule{}, SamplingRule{.temperature = 1.0f},
          SamplingRule{.temperature = 2.0f, .top_k = 20},
          SamplingRule{.temperature = 30.0f, .top_k = 100, .top_p = 0.5f},
          SamplingRule{.temperature = 0.7f, .top_p = 0.9f},
          SamplingRule{.temperature = 1e4f, .top_p = 0.99f},
          SamplingRule{.temperature = 1.0f, .top_k = 1}}) {
      const auto got = draw(device, logits, rule, streams(12), 3);
      const auto want = draw(Device::kCpu, logits, rule, streams(12), 3);
      int different = 0;
      for (size_t b = 0; b < got.size(); ++b) different += got[b] != want[b] ? 1 : 0;
      EXPECT_LE(different, rule.temperature > 0 && rule.top_k != 1 ? 1 : 0)
          << "width " << width << ", temperature " << rule.temperature << ", top_k " << rule.top_k
          << ", top_p " << rule.top_p;
    }
  }
}

// As many ids as there may be, all of nearly the largest weight, cut where nearly all of it is reached: no sum of them
// overflows. A few roundings of a weight move borders by a part of an id.
TEST_P(Sampling, EqualWeightsOfTheWidestRowAreAllCounted) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  constexpr int64_t kWidest = int64_t{1} << 18;
  Mat<double> logits(2, kWidest);
  for (int64_t i = 0; i < logits.size(); ++i) logits[i] = i % kWidest == 7 ? 0.0 : -0.01;
  const SamplingRule rule{.temperature = 1.0f, .top_p = 0.9999f};
  const auto got = draw(device, logits, rule, streams(2)),
             want = draw(Device::kCpu, logits, rule, streams(2));
  for (size_t b = 0; b < got.size(); ++b) EXPECT_NEAR(got[b], want[b], 1);
}

TEST_P(Sampling, IsAPureFunctionOfSeedStreamAndPosition) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  Rng rng(4);
  const auto logits = random_mat(rng, 50, 200);
  for (const SamplingRule& rule : {SamplingRule{.temperature = 1.0f},
                                   SamplingRule{.temperature = 1.0f, .top_k = 50, .top_p = 0.9f}}) {
    const auto together = draw(device, logits, rule, streams(50), 7);
    for (int64_t b : {0, 17, 49}) {
      Mat<double> alone(1, 200);
      for (int64_t v = 0; v < 200; ++v) alone[v] = logits(b, v);
      EXPECT_EQ(draw(device, alone, rule, {static_cast<uint64_t>(b)}, 7)[0],
                together[static_cast<size_t>(b)]);
    }
    EXPECT_NE(draw(device, logits, rule, streams(50), 8), together);
    EXPECT_NE(draw(device, logits, rule, streams(50), 7, 12), together);
  }
}

TEST_P(Sampling, NeverDrawsWhatHasNoProbability) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  Mat<double> logits(64, 20);
  for (int64_t b = 0; b < 64; ++b)
    for (int64_t v = 0; v < 20; ++v) logits(b, v) = v == 5 || v == 19 ? 0.0 : -HUGE_VAL;
  for (const SamplingRule& rule :
       {SamplingRule{.temperature = 2.0f}, SamplingRule{.temperature = 2.0f, .top_k = 4},
        SamplingRule{.temperature = 2.0f, .top_p = 0.999f}})
    for (int32_t id : draw(device, logits, rule, streams(64)))
      EXPECT_TRUE(id == 5 || id == 19) << id;
}

TEST_P(Sampling, SaysWhatIsWrong) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Sample);
  Mat<double> logits(2, 40);
  const auto s = streams(2);
  for (const double nan : {std::nan(""), -std::nan("")})  // that of 0 / 0 has a sign
    for (float temperature : {0.0f, 1.0f}) {
      logits(1, 33) = nan;
      try {
        draw(device, logits, {.temperature = temperature}, s);
        FAIL() << "sampled from NaN";
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("row 1"), std::string::npos) << e.what();
      }
    }
  logits(1, 33) = HUGE_VAL;
  EXPECT_THROW(draw(device, logits, {}, s), Error);
  logits(1, 33) = 0;
  EXPECT_THROW(draw(device, logits, {.temperature = -1.0f}, s), Error);
  EXPECT_THROW(draw(device, logits, {.temperature = 1.0f, .top_k = -1}, s), Error);
  EXPECT_THROW(draw(device, logits, {.temperature = 1.0f, .top_p = 0.0f}, s), Error);
  EXPECT_THROW(draw(device, logits, {.temperature = 1.0f}, {1}), Error);
}

}  // namespace
}  // namespace nestling
