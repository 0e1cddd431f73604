// Lengths of what state components add, against the recurrence token by token in double.
#include "kernels/ops/state_score.h"

#include <cmath>
#include <gtest/gtest.h>

#include "kernels/reference/scan.h"
#include "tests/support/device.h"
#include "tests/support/place.h"
#include "tests/support/totals.h"
#include "tests/support/window.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

struct Case {
  reference::ScanShape s;
  std::vector<int32_t> offsets;
  int64_t gap;
  int64_t tokens() const { return offsets.back(); }
};

// One head a group; rows of several blocks, components of several, and tiles of 16 tokens not full.
const Case kCases[] = {{{2, 5, 3, 2}, {0, 1, 6}, 1},
                       {{6, 7, 17, 3}, {0, 16, 40, 41}, 3},
                       {{20, 64, 9, 1}, {0, 19}, 0},
                       {{8, 16, 16, 2}, {0, 33}, 8}};

class StateScores : public ::testing::TestWithParam<Place> {};

struct Operands {
  Window x, dt_raw, B, C, A_log, dt_bias;
  Operands(const Place& p, const Case& c, Rng& rng)
      : x(p.device, {c.tokens(), c.s.heads, c.s.channels}, {0, c.gap, c.gap},
          random_mat(rng, c.tokens(), c.s.heads * c.s.channels), p.dtype),
        dt_raw(p.device, {c.tokens(), c.s.heads}, {0, c.gap},
               random_mat(rng, c.tokens(), c.s.heads)),
        B(p.device, {c.tokens(), c.s.state, c.s.groups}, {0, c.gap, c.gap},
          random_mat(rng, c.tokens(), c.s.state * c.s.groups), p.dtype),
        C(p.device, {c.tokens(), c.s.state, c.s.groups}, {0, c.gap, c.gap},
          random_mat(rng, c.tokens(), c.s.state * c.s.groups), p.dtype),
        A_log(p.device, {c.s.heads}, {c.gap}, random_mat(rng, 1, c.s.heads)),
        dt_bias(p.device, {c.s.heads}, {c.gap}, random_mat(rng, 1, c.s.heads)) {}
  reference::ScanInputs<double> inputs() {
    return {.x = x.read(),
            .dt_raw = dt_raw.read(),
            .B = B.read(),
            .C = C.read(),
            .A_log = A_log.read(),
            .D = {},
            .dt_bias = dt_bias.read(),
            .initial = {}};
  }
};

std::vector<double> wanted(const Case& c, const reference::ScanInputs<double>& in) {
  const auto& s = c.s;
  std::vector<double> score(static_cast<size_t>(s.state * s.groups));
  for (size_t i = 0; i + 1 < c.offsets.size(); ++i) {
    std::vector<double> state(static_cast<size_t>(s.size()));
    for (int64_t t = c.offsets[i]; t < c.offsets[i + 1]; ++t) {
      reference::scan_advance(in, s, t, state.data());
      std::vector<double> squares(score.size());
      for (int64_t k = 0; k < s.size(); ++k) {
        const int64_t n = k % s.state, head = k / s.state / s.channels;
        squares[static_cast<size_t>(n * s.groups + head % s.groups)] +=
            state[static_cast<size_t>(k)] * state[static_cast<size_t>(k)];
      }
      for (size_t u = 0; u < score.size(); ++u)
        score[u] += std::abs(in.C(t, static_cast<int64_t>(u))) * std::sqrt(squares[u]);
    }
  }
  return score;
}

TEST_P(StateScores, AreTheLengthsOfTheRecurrence) {
  const Place place = GetParam();
  NESTLING_SKIP_WITHOUT(place.device, StateScore);
  for (const Case& c : kCases) {
    Context ctx(place.device);
    Rng rng(9);
    Operands o(place, c, rng);
    const Segments segments(c.offsets);
    Totals score(place.device, c.s.state * c.s.groups);
    add_state_score(ctx, {.score = score.view().reshape({c.s.state, c.s.groups}),
                          .x = o.x.view(),
                          .dt_raw = o.dt_raw.view(),
                          .B = o.B.view(),
                          .C = o.C.view(),
                          .A_log = o.A_log.view().reshape({c.s.heads}),
                          .dt_bias = o.dt_bias.view().reshape({c.s.heads}),
                          .segments = segments});
    ctx.synchronize();
    const std::vector<double> want = wanted(c, o.inputs()), got = score.added();
    // Each token multiplies the state by a decay of about 4 roundings, and adds one of 3; a sum of squares has a
    // rounding a term, halved by the root.
    const auto terms = static_cast<double>(c.s.heads / c.s.groups * c.s.channels);
    const double bound = kEps32 * (8.0 * static_cast<double>(c.tokens()) + terms / 2 + 8);
    ASSERT_EQ(got.size(), want.size());
    for (size_t u = 0; u < want.size(); ++u)
      EXPECT_NEAR(got[u], want[u], bound * want[u]) << "component " << u;
  }
}

TEST(StateScore, ScoreOfAnotherShapeIsRefused) {
  Context ctx(Device::kCpu);
  Rng rng(9);
  const Case& c = kCases[0];
  Operands o({Device::kCpu, DType::kF32}, c, rng);
  Totals score(Device::kCpu, c.s.state * c.s.groups);
  EXPECT_THROW(add_state_score(ctx, {.score = score.view().reshape({c.s.groups, c.s.state}),
                                     .x = o.x.view(),
                                     .dt_raw = o.dt_raw.view(),
                                     .B = o.B.view(),
                                     .C = o.C.view(),
                                     .A_log = o.A_log.view(),
                                     .dt_bias = o.dt_bias.view(),
                                     .segments = Segments(c.offsets)}),
               Error);
}

INSTANTIATE_TEST_SUITE_P(All, StateScores, kPlaces, place_name);

}  // namespace
}  // namespace nestling
