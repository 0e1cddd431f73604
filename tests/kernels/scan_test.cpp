#include "kernels/ops/scan.h"

#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/reference/scan.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"
#include "tests/support/window.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;
using reference::ScanInputs;
using reference::ScanShape;

// Inputs of the size trained models have: a decays by A in [1, 16] times dt, whose scale `dt` sets.
ScanInputs<double> random_inputs(Rng& rng, const ScanShape& s, int64_t tokens, int64_t segments,
                                 double dt_shift) {
  ScanInputs<double> in;
  in.x = random_mat(rng, tokens, s.heads * s.channels);
  in.dt_raw = random_mat(rng, tokens, s.heads);
  in.B = random_mat(rng, tokens, s.state * s.groups);
  in.C = random_mat(rng, tokens, s.state * s.groups);
  in.A_log = random_mat(rng, 1, s.heads);
  in.D = random_mat(rng, 1, s.heads);
  in.dt_bias = random_mat(rng, 1, s.heads);
  for (auto& b : in.dt_bias.v) b = static_cast<float>(b + dt_shift);
  if (segments > 0) in.initial = random_mat(rng, segments, s.size());
  return in;
}

ScanInputs<double> absolute(ScanInputs<double> in) {
  for (auto* m : {&in.x, &in.B, &in.C, &in.D, &in.initial})
    for (auto& v : m->v) v = std::abs(v);
  return in;
}

TEST(ScanReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const ScanShape s{4, 3, 2, 2};
  const std::vector<int32_t> offsets = {0, 3, 5};
  const Segments segments(offsets);
  const auto in = random_inputs(rng, s, 5, 2, 0.0);
  const auto dy = random_mat(rng, 5, s.heads * s.channels);
  const auto g = reference::scan_backward(in, s, segments, dy);
  using Field = Mat<Complex> ScanInputs<Complex>::*;
  const auto derivative = [&](const Mat<double>& at, Field field) {
    return complex_step_gradient(at, [&](const Mat<Complex>& z) {
      ScanInputs<Complex> c{
          reference::cast<Complex>(in.x),       reference::cast<Complex>(in.dt_raw),
          reference::cast<Complex>(in.B),       reference::cast<Complex>(in.C),
          reference::cast<Complex>(in.A_log),   reference::cast<Complex>(in.D),
          reference::cast<Complex>(in.dt_bias), reference::cast<Complex>(in.initial)};
      c.*field = z;
      const auto out = reference::scan_forward(c, s, segments, 1);
      Complex loss = 0;
      for (int64_t i = 0; i < dy.size(); ++i) loss += out.y[i] * dy[i];
      return loss;
    });
  };
  expect_gradient("dx", g.dx, derivative(in.x, &ScanInputs<Complex>::x));
  expect_gradient("ddt_raw", g.ddt_raw, derivative(in.dt_raw, &ScanInputs<Complex>::dt_raw));
  expect_gradient("dB", g.dB, derivative(in.B, &ScanInputs<Complex>::B));
  expect_gradient("dC", g.dC, derivative(in.C, &ScanInputs<Complex>::C));
  expect_gradient("dA_log", g.dA_log, derivative(in.A_log, &ScanInputs<Complex>::A_log));
  expect_gradient("dD", g.dD, derivative(in.D, &ScanInputs<Complex>::D));
  expect_gradient("ddt_bias", g.ddt_bias, derivative(in.dt_bias, &ScanInputs<Complex>::dt_bias));
}

struct Case {
  ScanShape s;
  std::vector<int32_t> offsets;
  int64_t chunk;
  bool initial;
  double dt_shift;  // of dt_bias: 0 gives dt near 1, -4 slow decays, 6 decays far below roundoff
  int64_t gap;      // of heads, channels and state: prefix views
  DType dtype = DType::kF32;  // of x, B, C and dy
  int odd = -1;  // the operand whose rows leave the grid of 16 bytes, by its place below
};

// The numbers that the operands of a case hold.
Mat<double> typed(const Case& c, Mat<double> m) {
  return c.dtype == DType::kBF16 ? rounded(std::move(m)) : m;
}
ScanInputs<double> case_inputs(Rng& rng, const Case& c) {
  const int64_t segments = c.initial ? static_cast<int64_t>(c.offsets.size()) - 1 : 0;
  auto in = random_inputs(rng, c.s, c.offsets.back(), segments, c.dt_shift);
  for (auto* m : {&in.x, &in.B, &in.C}) *m = typed(c, *m);
  return in;
}

// All operands of one case, in windows; no two of one shape have one pitch, where there are gaps.
struct Operands {
  Operands(Device device, const Case& c, const ScanInputs<double>& in, const Mat<double>& grad)
      : segments(c.offsets),
        chunks(scan_chunks(segments, c.chunk)),
        x(device, tokens(c), {0, c.gap, c.gap + one_of(c, 0)}, in.x, c.dtype),
        dt_raw(device, {c.offsets.back(), c.s.heads}, {0, c.gap}, in.dt_raw),
        B(device, group_shape(c), {0, c.gap, one_of(c, 1)}, in.B, c.dtype),
        C(device, group_shape(c), {0, 2 * c.gap, one_of(c, 2)}, in.C, c.dtype),
        A_log(device, {c.s.heads}, {c.gap}, in.A_log),
        D(device, {c.s.heads}, {c.gap}, in.D),
        dt_bias(device, {c.s.heads}, {c.gap}, in.dt_bias),
        dy(device, tokens(c), {0, 2, c.gap + one_of(c, 3)}, grad, c.dtype),
        y(device, tokens(c), {0, 2 * c.gap, c.gap + one_of(c, 4)}, c.dtype),
        chunk_states(device, state_shape(c, chunks), {0, c.gap, c.gap, c.gap + one_of(c, 5)}),
        final_state(device, state_shape(c, segments.count()), {0, c.gap, 0, c.gap + one_of(c, 6)}),
        initial(device, state_shape(c, segments.count()), {0, c.gap, c.gap, one_of(c, 7)}),
        dx(device, tokens(c), {0, 3 * c.gap, c.gap + one_of(c, 8)}, c.dtype),
        ddt_raw(device, {c.offsets.back(), c.s.heads}, {0, 2 * c.gap}),
        dB(device, group_shape(c), {0, c.gap, one_of(c, 9)}, c.dtype),
        dC(device, group_shape(c), {0, 3 * c.gap, one_of(c, 10)}, c.dtype),
        dA_log(device, {c.s.heads}, {c.gap}),
        dD(device, {c.s.heads}, {c.gap}),
        ddt_bias(device, {c.s.heads}, {c.gap}) {
    if (c.initial) initial.set(in.initial);
    dA_log.fill(2.0f);  // gradients of parameters accumulate
    dD.fill(3.0f);
    ddt_bias.fill(4.0f);
  }
  static int64_t one_of(const Case& c, int operand) { return c.odd == operand ? 1 : 0; }
  static std::vector<int64_t> tokens(const Case& c) {
    return {c.offsets.back(), c.s.heads, c.s.channels};
  }
  static std::vector<int64_t> group_shape(const Case& c) {
    return {c.offsets.back(), c.s.state, c.s.groups};
  }
  static std::vector<int64_t> state_shape(const Case& c, int64_t n) {
    return {n, c.s.heads, c.s.channels, c.s.state};
  }
  void forward(Context& ctx, const Case& c) {
    scan_forward(ctx, {.y = y.view(),
                       .chunk_states = chunk_states.view(),
                       .final_state = final_state.view(),
                       .x = x.view(),
                       .dt_raw = dt_raw.view(),
                       .B = B.view(),
                       .C = C.view(),
                       .A_log = A_log.view(),
                       .D = D.view(),
                       .dt_bias = dt_bias.view(),
                       .initial = c.initial ? ConstView(initial.view()) : ConstView(),
                       .segments = segments,
                       .chunk = c.chunk});
  }
  void backward(Context& ctx, const Case& c) {
    scan_backward(ctx, {.dx = dx.view(),
                        .ddt_raw = ddt_raw.view(),
                        .dB = dB.view(),
                        .dC = dC.view(),
                        .dA_log = dA_log.view(),
                        .dD = dD.view(),
                        .ddt_bias = ddt_bias.view(),
                        .dy = dy.view(),
                        .x = x.view(),
                        .dt_raw = dt_raw.view(),
                        .B = B.view(),
                        .C = C.view(),
                        .A_log = A_log.view(),
                        .D = D.view(),
                        .dt_bias = dt_bias.view(),
                        .chunk_states = chunk_states.view(),
                        .segments = segments,
                        .chunk = c.chunk});
  }
  Segments segments;
  int64_t chunks;
  Window x, dt_raw, B, C, A_log, D, dt_bias, dy, y, chunk_states, final_state, initial;
  Window dx, ddt_raw, dB, dC, dA_log, dD, ddt_bias;
};

// Every output is a sum of products; its error is bounded relative to the same sum over absolute
// values (the reference run on |x|, |B|, |C|, |D|, |dy|). A product carries a decay, good to some
// 8 roundings times the argument's size, which counts up to ln(2^24) = 17 (a smaller decay leaves
// nothing above the roundoff of its neighbours); sums of n terms add sqrt(n) roundings.
double bound(const Case& c) {
  const auto root = [](int64_t n) { return std::sqrt(static_cast<double>(n)); };
  return (8 + 17 + root(c.s.state) + root(c.s.channels) + root(c.s.heads) +
          root(c.offsets.back())) *
         kEps32;
}

// Of bf16 operands, `count` factors and results of every term are rounded to bf16 besides. The
// operands' signs are independent, so the squares of an output's terms sum to its own, and roundings
// of each term by a share of it err by that share of the output's norm.
double half_bound(const Case& c, int count) {
  return c.dtype == DType::kBF16 ? count * kEpsHalf : 0.0;
}
// A state's terms hold x or dy with its decay. A product with a state rounds the state too, and the
// other operand with its decay (y, dx) or as it is (dB, dC); then the result is rounded. A pair's
// term rounds one factor. dt and A_log see products with states, and that of a state with the gradient of
// one, which is rounded too; dD no rounding.
constexpr int kHalvesOfState = 1;
constexpr int kHalvesOfY = 4;
constexpr int kHalvesOfB = 3;
constexpr int kHalvesOfDt = 3;

class Scan : public ::testing::TestWithParam<std::tuple<Device, Case>> {};

TEST_P(Scan, ForwardMatchesTheReference) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, ScanForward);
  Rng rng(7, static_cast<uint64_t>(c.chunk));
  const Segments segments(c.offsets);
  const auto in = case_inputs(rng, c);
  Operands o(device, c, in, in.x);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.forward(ctx, c);
  ctx.synchronize();
  const auto want = reference::scan_forward(in, c.s, segments, c.chunk);
  const auto terms = reference::scan_forward(absolute(in), c.s, segments, c.chunk);
  expect_close("y", o.y.read(), want.y, half_bound(c, kHalvesOfY), bound(c) * norm(terms.y));
  expect_close("final_state", o.final_state.read(), want.final_state, half_bound(c, kHalvesOfState),
               bound(c) * norm(terms.final_state));
  expect_close("chunk_states", o.chunk_states.read(), want.chunk_states,
               half_bound(c, kHalvesOfState), bound(c) * norm(terms.chunk_states));
  for (auto* w : {&o.y, &o.final_state, &o.chunk_states}) w->expect_guards_intact("output");

  // Without what a backward needs: the same bits.
  const Mat<double> y = o.y.read();
  o.y.fill(std::numeric_limits<float>::quiet_NaN());
  scan_forward(ctx, {.y = o.y.view(),
                     .x = o.x.view(),
                     .dt_raw = o.dt_raw.view(),
                     .B = o.B.view(),
                     .C = o.C.view(),
                     .A_log = o.A_log.view(),
                     .D = o.D.view(),
                     .dt_bias = o.dt_bias.view(),
                     .initial = c.initial ? ConstView(o.initial.view()) : ConstView(),
                     .segments = segments,
                     .chunk = c.chunk});
  ctx.synchronize();
  EXPECT_EQ(y.v, o.y.read().v);
}

TEST_P(Scan, BackwardMatchesTheReference) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, ScanForward, ScanBackward);
  Rng rng(8, static_cast<uint64_t>(c.chunk));
  const Segments segments(c.offsets);
  const auto in = case_inputs(rng, c);
  const auto dy = typed(c, random_mat(rng, c.offsets.back(), c.s.heads * c.s.channels));
  Operands o(device, c, in, dy);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.forward(ctx, c);
  o.backward(ctx, c);
  ctx.synchronize();

  auto want = reference::scan_backward(in, c.s, segments, dy);
  for (auto& g : want.dA_log.v) g += 2.0;
  for (auto& g : want.dD.v) g += 3.0;
  for (auto& g : want.ddt_bias.v) g += 4.0;
  auto dy_size = dy;
  for (auto& g : dy_size.v) g = std::abs(g);
  const auto terms = reference::scan_backward(absolute(in), c.s, segments, dy_size, 1);
  expect_close("dx", o.dx.read(), want.dx, half_bound(c, kHalvesOfY), bound(c) * norm(terms.dx));
  expect_close("dB", o.dB.read(), want.dB, half_bound(c, kHalvesOfB), bound(c) * norm(terms.dB));
  expect_close("dC", o.dC.read(), want.dC, half_bound(c, kHalvesOfB), bound(c) * norm(terms.dC));
  expect_close("dD", o.dD.read(), want.dD, 0.0, bound(c) * (norm(terms.dD) + 3.0));
  // d log a_t is a running sum over a chunk of rows less columns that cancel: the roundings of up
  // to `chunk` sums, each of the size of what crosses the token, come together.
  const double running = std::sqrt(static_cast<double>(std::min<int64_t>(c.chunk, in.x.rows)));
  const double dt_bound = bound(c) * running;
  const double dt_half = half_bound(c, kHalvesOfDt);
  expect_close("ddt_raw", o.ddt_raw.read(), want.ddt_raw, dt_half, dt_bound * norm(terms.ddt_raw));
  expect_close("dA_log", o.dA_log.read(), want.dA_log, dt_half,
               dt_bound * (norm(terms.dA_log) + 2.0));
  expect_close("ddt_bias", o.ddt_bias.read(), want.ddt_bias, dt_half,
               dt_bound * (norm(terms.ddt_bias) + 4.0));
  for (auto* w : {&o.dx, &o.ddt_raw, &o.dB, &o.dC, &o.dA_log, &o.dD, &o.ddt_bias})
    w->expect_guards_intact("gradient");
}

TEST_P(Scan, RepeatsBitForBit) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, ScanForward, ScanBackward);
  Rng rng(9);
  const auto in = case_inputs(rng, c);
  Context ctx(device);
  std::vector<Mat<double>> first;
  for (int pass = 0; pass < 2; ++pass) {
    Operands o(device, c, in, in.x);
    o.forward(ctx, c);
    o.backward(ctx, c);
    ctx.synchronize();
    std::vector<Mat<double>> all;
    for (auto* w : {&o.y, &o.final_state, &o.dx, &o.ddt_raw, &o.dB, &o.dC, &o.dA_log, &o.dD})
      all.push_back(w->read());
    if (pass == 0)
      first = std::move(all);
    else
      for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(first[i].v, all[i].v) << "output " << i;
  }
}

// Token by token from the initial state: the outputs and the state of the forward.
TEST_P(Scan, StepsEqualTheForward) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, ScanForward, ScanStep);
  Rng rng(10);
  const Segments segments(c.offsets);
  const auto in = case_inputs(rng, c);
  Operands o(device, c, in, in.x);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  o.forward(ctx, c);
  const Mat<double> y = o.y.read();
  const Mat<double> final_state = o.final_state.read();
  if (!c.initial) o.initial.fill(0.0f);
  for (int64_t s = 0; s < segments.count(); ++s)
    for (int64_t t = segments.begin(s); t < segments.end(s); ++t)
      scan_step(ctx, {.y = o.y.view().slice(0, t, 1),
                      .state = o.initial.view().slice(0, s, 1),
                      .x = o.x.view().slice(0, t, 1),
                      .dt_raw = o.dt_raw.view().slice(0, t, 1),
                      .B = o.B.view().slice(0, t, 1),
                      .C = o.C.view().slice(0, t, 1),
                      .A_log = o.A_log.view(),
                      .D = o.D.view(),
                      .dt_bias = o.dt_bias.view()});
  ctx.synchronize();
  // Both err by the bound. Token by token, every step adds a rounding to the state it carries.
  const double limit = 2 * bound(c) + static_cast<double>(c.offsets.back()) * kEps32;
  const auto terms = reference::scan_forward(absolute(in), c.s, segments, c.chunk);
  expect_close("y", o.y.read(), y, half_bound(c, kHalvesOfY + 1), limit * norm(terms.y));
  expect_close("state", o.initial.read(), final_state, half_bound(c, kHalvesOfState),
               limit * norm(terms.final_state));
  o.y.expect_guards_intact("y");
  o.initial.expect_guards_intact("state");
}

// Tokens go on where the state is: it is advanced in place, to the same bits.
TEST_P(Scan, AdvancesTheInitialState) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, ScanForward);
  if (!c.initial) return;  // there is none to advance
  Rng rng(12);
  const auto in = case_inputs(rng, c);
  Operands apart(device, c, in, in.x), place(device, c, in, in.x);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  apart.forward(ctx, c);
  scan_forward(ctx, {.y = place.y.view(),
                     .final_state = place.initial.view(),
                     .x = place.x.view(),
                     .dt_raw = place.dt_raw.view(),
                     .B = place.B.view(),
                     .C = place.C.view(),
                     .A_log = place.A_log.view(),
                     .D = place.D.view(),
                     .dt_bias = place.dt_bias.view(),
                     .initial = place.initial.view(),
                     .segments = Segments(c.offsets),
                     .chunk = c.chunk});
  ctx.synchronize();
  EXPECT_EQ(apart.y.read().v, place.y.read().v);
  EXPECT_EQ(apart.final_state.read().v, place.initial.read().v);
  place.initial.expect_guards_intact("state");
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Case>>& test) {
  const auto& [device, c] = test.param;
  return str(device_name(device), "_", test.index, "_H", c.s.heads, "P", c.s.channels, "N",
             c.s.state, "G", c.s.groups, "_chunk", c.chunk);
}

INSTANTIATE_TEST_SUITE_P(
    All, Scan,
    ::testing::Combine(
        ::testing::Values(Device::kCpu, Device::kCuda),
        ::testing::Values(Case{{1, 1, 1, 1}, {0, 1}, 1, false, 0, 0},
                          Case{{4, 5, 3, 2}, {0, 1, 4, 20}, 1, true, 0, 3},
                          Case{{6, 7, 19, 3}, {0, 9, 40}, 7, false, -3, 2},
                          Case{{4, 16, 16, 2}, {0, 64, 65, 200}, 64, true, -4, 0},
                          Case{{2, 33, 24, 1}, {0, 150}, 64, false, -4, 5},
                          Case{{1, 64, 32, 1}, {0, 140}, 64, true, -2, 0},  // one head, cut in two
                          Case{{3, 40, 65, 1}, {0, 300}, 128, true, -5, 1},
                          Case{{8, 16, 32, 4}, {0, 40, 64}, 32, true, -1, 0},  // groups without
                          Case{{16, 4, 17, 8}, {0, 33, 50}, 24, true, -2, 0},  // gaps: by vectors
                          Case{{8, 24, 48, 4}, {0, 31, 32, 100}, 1000, true, 6, 8},
                          Case{{2, 64, 128, 2}, {0, 130, 170}, 96, true, -3, 0})),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    Bf16, Scan,
    ::testing::Combine(
        ::testing::Values(Device::kCuda),
        ::testing::Values(
            Case{{1, 1, 1, 1}, {0, 1}, 1, false, 0, 0, DType::kBF16},
            Case{{6, 7, 19, 3}, {0, 9, 40}, 7, true, -3, 2, DType::kBF16},
            Case{{3, 40, 65, 1}, {0, 150}, 100, true, -5, 1, DType::kBF16},
            Case{{4, 64, 128, 2}, {0, 200, 230}, 128, false, -4, 0, DType::kBF16},
            Case{{4, 80, 48, 2}, {0, 31, 100}, 1000, true, 6, 8, DType::kBF16},
            Case{{16, 4, 17, 8}, {0, 33, 50}, 24, true, -2, 0, DType::kBF16},
            Case{{16, 4, 5, 16}, {0, 9, 20}, 8, true, -2, 0, DType::kBF16},
            Case{{2, 8, 130, 1}, {0, 9, 20}, 8, true, -3, 0, DType::kBF16},
            // Chunks of several tiles, and no gaps; walks in several runs.
            Case{{4, 64, 40, 2}, {0, 300, 420}, 256, true, -4, 0, DType::kBF16},
            Case{{1, 20, 16, 1}, {0, 1100, 1164}, 128, true, -8, 4, DType::kBF16},
            // The last of an odd number of states, by pairs; a block of heads and one.
            Case{{9, 9, 7, 3}, {0, 20}, 8, true, -2, 1, DType::kBF16})),
    case_name);

// Who reads 16 bytes at a time asks for the rows of all that it touches: B and dB by 8 groups, the rest by channels
// and states.
std::vector<Case> odd_cases() {
  std::vector<Case> all;
  for (const int odd : {1, 9})
    all.push_back({{8, 4, 8, 8}, {0, 5}, 8, true, -2, 8, DType::kBF16, odd});
  for (const int odd : {0, 3, 4, 5, 6, 7, 8})
    all.push_back({{4, 8, 8, 2}, {0, 9}, 8, true, -2, 8, DType::kBF16, odd});
  for (const int odd : {0, 3, 5})
    all.push_back({{1, 64, 64, 1}, {0, 9}, 8, true, -2, 8, DType::kF32, odd});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Odd, Scan,
                         ::testing::Combine(::testing::Values(Device::kCuda),
                                            ::testing::ValuesIn(odd_cases())),
                         case_name);

class ScanOn : public ::testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(All, ScanOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return device_name(test.param); });

TEST_P(ScanOn, NoDecayOverflows) {
  NESTLING_SKIP_WITHOUT(GetParam(), ScanForward, ScanBackward);
  // dt of 200 and of e^-200: every decay is 0 or 1, and every output finite.
  const Case c{{2, 8, 8, 1}, {0, 50}, 16, true, 0, 0};
  Rng rng(11);
  for (const double shift : {200.0, -200.0}) {
    auto in = random_inputs(rng, c.s, 50, 1, shift);
    for (auto& a : in.A_log.v) a = 5.0;
    Operands o(GetParam(), c, in, in.x);
    Context ctx(GetParam());
    o.forward(ctx, c);
    o.backward(ctx, c);
    ctx.synchronize();
    for (auto* w : {&o.y, &o.final_state, &o.dx, &o.ddt_raw, &o.dB, &o.dC, &o.dA_log})
      for (double v : w->read().v) ASSERT_TRUE(std::isfinite(v)) << shift;
  }
}

// One token of dt 3000, and all that follow decay by a hundredth each: the sums of logs are thousands, whose f32
// neighbours lie 2^-12 apart, and their differences are good all the same.
TEST_P(ScanOn, DecaysBehindATokenThatForgetsAllArePrecise) {
  NESTLING_SKIP_WITHOUT(GetParam(), ScanForward);
  const Case c{{2, 8, 8, 1}, {0, 100}, 100, false, -4, 0};
  Rng rng(14);
  auto in = case_inputs(rng, c);
  for (int64_t head = 0; head < c.s.heads; ++head) in.dt_raw(10, head) = 3000;
  Operands o(GetParam(), c, in, in.x);
  Context ctx(GetParam());
  o.forward(ctx, c);
  ctx.synchronize();
  const auto want = reference::scan_forward(in, c.s, o.segments, c.chunk);
  const auto terms = reference::scan_forward(absolute(in), c.s, o.segments, c.chunk);
  expect_close("y", o.y.read(), want.y, 0.0, bound(c) * norm(terms.y));
  expect_close("final_state", o.final_state.read(), want.final_state, 0.0,
               bound(c) * norm(terms.final_state));
}

// Sequences of one token: every operand has a row for each, at its own pitch.
TEST_P(ScanOn, StepOfABatchMatchesTheReference) {
  NESTLING_SKIP_WITHOUT(GetParam(), ScanStep);
  const Case c{{6, 20, 7, 2}, {0, 1, 2, 3, 4, 5}, 1, true, 0, 3};
  Rng rng(13);
  const auto in = case_inputs(rng, c);
  Operands o(GetParam(), c, in, in.x);
  Context ctx(GetParam());
  scan_step(ctx, {.y = o.y.view(),
                  .state = o.initial.view(),
                  .x = o.x.view(),
                  .dt_raw = o.dt_raw.view(),
                  .B = o.B.view(),
                  .C = o.C.view(),
                  .A_log = o.A_log.view(),
                  .D = o.D.view(),
                  .dt_bias = o.dt_bias.view()});
  ctx.synchronize();
  const auto want = reference::scan_forward(in, c.s, o.segments, c.chunk);
  const auto terms = reference::scan_forward(absolute(in), c.s, o.segments, c.chunk);
  expect_close("y", o.y.read(), want.y, 0.0, bound(c) * norm(terms.y));
  expect_close("state", o.initial.read(), want.final_state, 0.0,
               bound(c) * norm(terms.final_state));
  o.y.expect_guards_intact("y");
  o.initial.expect_guards_intact("state");
}

TEST(ScanCpu, ScratchGrowsWithTheTokensAlone) {
  // Forward: tiles only. Backward: a row of d dt for every head (or slice of one), and dB and dC
  // [T, N] for each group that two threads share, which is at most two a thread.
  const ScanShape s{4, 32, 32, 2};
  const auto peak = [&](int32_t tokens) {
    const Case c{s, {0, tokens}, 64, false, -4, 0};
    Rng rng(12);
    const auto in = random_inputs(rng, s, tokens, 0, -4);
    Operands o(Device::kCpu, c, in, in.x);
    Context ctx(Device::kCpu);
    o.forward(ctx, c);
    o.backward(ctx, c);
    return ctx.scratch().peak_bytes();
  };
  const int64_t growth = peak(512) - peak(256);
  EXPECT_LE(growth, 256 * 4 * thread_count() * (s.heads + 4 * s.state));
}

TEST(ScanContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const auto null = [](std::initializer_list<int64_t> shape) {
    return View(nullptr, DType::kF32, Device::kNull, shape);
  };
  const std::vector<int32_t> offsets = {0, 8};
  ScanForward a{.y = null({8, 4, 2}),
                .x = null({8, 4, 2}),
                .dt_raw = null({8, 4}),
                .B = null({8, 6, 2}),
                .C = null({8, 6, 2}),
                .A_log = null({4}),
                .D = null({4}),
                .dt_bias = null({4}),
                .segments = Segments(offsets),
                .chunk = 3};
  scan_forward(ctx, a);
  // Chunks of 3, 3 and 2: C B^T and its product with x, 2 states read and 2 left.
  const double pairs = 12 + 12 + 6;
  EXPECT_EQ(ctx.total_work().flops, 12 * pairs + 8 * pairs + 2 * 8 * 6 * (5 + 6));
  const auto half = [](View v) {
    return View(nullptr, DType::kBF16, Device::kNull, {v.dim(0), v.dim(1), v.dim(2)});
  };
  ScanForward b = a;
  b.x = half(a.y);
  EXPECT_THROW(scan_forward(ctx, b), Error);  // B and C are f32
  b.B = b.C = half(null({8, 6, 2}));
  EXPECT_THROW(scan_forward(ctx, b), Error);  // y is f32
  b.y = half(a.y);
  scan_forward(ctx, b);
  a.chunk_states = null({2, 4, 2, 6});
  try {
    scan_forward(ctx, a);
    FAIL() << "accepted 2 chunk states for 3 chunks";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("needs [3,4,2,6]"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace nestling
