#include "kernels/ops/conv1d.h"

#include <gtest/gtest.h>

#include "kernels/reference/conv1d.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/window.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;
using reference::Conv1dInputs;

TEST(Conv1dReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const std::vector<int32_t> offsets = {0, 2, 7};
  const Segments segments(offsets);
  const Conv1dInputs<double> in{
      random_mat(rng, 7, 3), random_mat(rng, 3, 4), random_mat(rng, 1, 3), {}};
  const auto dy = random_mat(rng, 7, 3);
  const auto g = reference::conv1d_backward(in, segments, dy);
  using Field = Mat<Complex> Conv1dInputs<Complex>::*;
  const auto derivative = [&](const Mat<double>& at, Field field) {
    return complex_step_gradient(at, [&](const Mat<Complex>& z) {
      Conv1dInputs<Complex> c{reference::cast<Complex>(in.x),
                              reference::cast<Complex>(in.w),
                              reference::cast<Complex>(in.bias),
                              {}};
      c.*field = z;
      const auto out = reference::conv1d_forward(c, segments);
      Complex loss = 0;
      for (int64_t i = 0; i < dy.size(); ++i) loss += out.y[i] * dy[i];
      return loss;
    });
  };
  expect_gradient("dx", g.dx, derivative(in.x, &Conv1dInputs<Complex>::x));
  expect_gradient("dw", g.dw, derivative(in.w, &Conv1dInputs<Complex>::w));
  expect_gradient("dbias", g.dbias, derivative(in.bias, &Conv1dInputs<Complex>::bias));
}

struct Case {
  std::vector<int32_t> offsets;
  int64_t channels, taps;
  bool bias, initial;
  int64_t gap;
  int64_t tokens() const { return offsets.back(); }
  int64_t segments() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

Conv1dInputs<double> random_inputs(Rng& rng, const Case& c) {
  Conv1dInputs<double> in;
  in.x = random_mat(rng, c.tokens(), c.channels);
  in.w = random_mat(rng, c.channels, c.taps);
  if (c.bias) in.bias = random_mat(rng, 1, c.channels);
  if (c.initial) in.initial = random_mat(rng, c.segments() * c.channels, c.taps - 1);
  return in;
}

// The sum has K products and a bias; silu' is at most 1.1 in size and multiplies their error; the
// activation itself (exp, division, product) adds some 8 roundings.
double element_bound(const Case& c) {
  return (8 + static_cast<double>(c.taps)) * kEps32;
}
// |bias| + sum |w| |x|, summed over everything: what the sums' roundings are relative to.
double term_norm(const Case& c, Conv1dInputs<double> in) {
  for (auto* m : {&in.x, &in.w, &in.bias, &in.initial})
    for (auto& v : m->v) v = std::abs(v);
  double squares = 0;
  const Segments segments(c.offsets);
  for (int64_t s = 0; s < c.segments(); ++s)
    for (int64_t t = segments.begin(s); t < segments.end(s); ++t)
      for (int64_t i = 0; i < c.channels; ++i) {
        const double v = reference::detail::conv1d_sum(in, segments, s, t, i);
        squares += v * v;
      }
  return std::sqrt(squares);
}

class Conv1d : public ::testing::TestWithParam<std::tuple<Device, Case>> {};

TEST_P(Conv1d, ForwardAndStepsMatchTheReference) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Conv1dForward, Conv1dStep);
  Rng rng(2, static_cast<uint64_t>(c.channels));
  const auto in = random_inputs(rng, c);
  const Segments segments(c.offsets);
  const std::vector<int64_t> rows = {c.tokens(), c.channels};
  const std::vector<int64_t> states = {c.segments(), c.channels, c.taps - 1};
  Window x(device, rows, {0, c.gap}, in.x), w(device, {c.channels, c.taps}, {c.gap, 1}, in.w);
  Window bias(device, {c.channels}, {c.gap}), initial(device, states, {0, c.gap, 0});
  Window y(device, rows, {0, c.gap}), state(device, states, {0, c.gap, 1});
  if (c.bias) bias.set(in.bias);
  if (c.initial) initial.set(in.initial);
  const ConstView bias_view = c.bias ? ConstView(bias.view()) : ConstView();
  Context ctx(device);
  ctx.scratch().set_poison(true);
  conv1d_forward(ctx, {.y = y.view(),
                       .final_state = state.view(),
                       .x = x.view(),
                       .w = w.view(),
                       .bias = bias_view,
                       .initial = c.initial ? ConstView(initial.view()) : ConstView(),
                       .segments = segments});
  ctx.synchronize();
  auto want = reference::conv1d_forward(in, segments);
  want.final_state.cols *= want.final_state.rows / c.segments();
  want.final_state.rows = c.segments();
  const double limit = element_bound(c) * term_norm(c, in);
  expect_close("y", y.read(), want.y, 0.0, limit);
  EXPECT_EQ(state.read().v, want.final_state.v);  // copies of inputs
  y.expect_guards_intact("y");
  state.expect_guards_intact("final_state");

  // Step by step from the initial state: the same outputs, the same state.
  const Mat<double> forward = y.read();
  if (!c.initial) initial.fill(0.0f);
  for (int64_t s = 0; s < c.segments(); ++s)
    for (int64_t t = segments.begin(s); t < segments.end(s); ++t)
      conv1d_step(ctx, {.y = y.view().slice(0, t, 1),
                        .state = initial.view().slice(0, s, 1),
                        .x = x.view().slice(0, t, 1),
                        .w = w.view(),
                        .bias = bias_view});
  ctx.synchronize();
  expect_close("stepped y", y.read(), forward, 0.0, 2 * limit);
  EXPECT_EQ(initial.read().v, want.final_state.v);
  y.expect_guards_intact("stepped y");
  initial.expect_guards_intact("state");
}

// A state of segments taken on from where it is, and by one more token of each segment at once.
TEST_P(Conv1d, StatesAreAdvancedInPlaceAndTogether) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Conv1dForward, Conv1dStep);
  if (c.taps == 1) return;  // no state
  Rng rng(4, static_cast<uint64_t>(c.channels));
  Case with_initial = c;
  with_initial.initial = true;
  const auto in = random_inputs(rng, with_initial);
  const Segments segments(c.offsets);
  const std::vector<int64_t> rows = {c.tokens(), c.channels}, batch = {c.segments(), c.channels};
  const std::vector<int64_t> states = {c.segments(), c.channels, c.taps - 1};
  const auto more = random_mat(rng, c.segments(), c.channels);
  Window x(device, rows, {0, c.gap}, in.x), w(device, {c.channels, c.taps}, {c.gap, 1}, in.w);
  Window y(device, rows, {0, c.gap}), y_apart(device, rows, {0, c.gap});
  Window next(device, batch, {0, c.gap + 1}, more);
  Window apart(device, states, {0, c.gap, 0}), state(device, states, {0, c.gap, 1}, in.initial);
  Window from(device, states, {0, 0, 1}, in.initial), stepped(device, batch, {0, c.gap});
  Context ctx(device);
  for (Window* to : {&apart, &state})
    conv1d_forward(ctx, {.y = to == &state ? y.view() : y_apart.view(),
                         .final_state = to->view(),
                         .x = x.view(),
                         .w = w.view(),
                         .initial = to == &state ? state.view() : from.view(),
                         .segments = segments});
  ctx.synchronize();
  EXPECT_EQ(y.read().v, y_apart.read().v);
  EXPECT_EQ(state.read().v, apart.read().v);
  conv1d_step(ctx, {.y = stepped.view(), .state = state.view(), .x = next.view(), .w = w.view()});
  Window alone(device, batch, {0, c.gap});
  for (int64_t s = 0; s < c.segments(); ++s)
    conv1d_step(ctx, {.y = alone.view().slice(0, s, 1),
                      .state = apart.view().slice(0, s, 1),
                      .x = next.view().slice(0, s, 1),
                      .w = w.view()});
  ctx.synchronize();
  EXPECT_EQ(stepped.read().v, alone.read().v);
  EXPECT_EQ(state.read().v, apart.read().v);
  for (Window* to : {&stepped, &state}) to->expect_guards_intact("of all segments");
}

// As many sequences as the case has tokens, of one token each: every operand has a row for each, at its own pitch.
TEST_P(Conv1d, StepOfABatchMatchesTheReference) {
  const auto& [device, whole] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Conv1dStep);
  Case c = whole;
  c.initial = true;
  c.offsets.clear();
  for (int32_t t = 0; t <= whole.tokens(); ++t) c.offsets.push_back(t);
  Rng rng(4, static_cast<uint64_t>(c.channels));
  const auto in = random_inputs(rng, c);
  Window x(device, {c.tokens(), c.channels}, {0, c.gap}, in.x);
  Window y(device, {c.tokens(), c.channels}, {0, c.gap + 2});
  Window w(device, {c.channels, c.taps}, {c.gap, 1}, in.w), bias(device, {c.channels}, {c.gap});
  Window state(device, {c.tokens(), c.channels, c.taps - 1}, {0, c.gap + 1, 1}, in.initial);
  if (c.bias) bias.set(in.bias);
  Context ctx(device);
  conv1d_step(ctx, {.y = y.view(),
                    .state = state.view(),
                    .x = x.view(),
                    .w = w.view(),
                    .bias = c.bias ? ConstView(bias.view()) : ConstView()});
  ctx.synchronize();
  const auto want = reference::conv1d_forward(in, Segments(c.offsets));
  expect_close("y", y.read(), want.y, 0.0, element_bound(c) * term_norm(c, in));
  EXPECT_EQ(state.read().v, want.final_state.v);
  y.expect_guards_intact("y");
  state.expect_guards_intact("state");
}

TEST_P(Conv1d, BackwardMatchesTheReferenceAndRepeats) {
  const auto& [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Conv1dBackward);
  Rng rng(3, static_cast<uint64_t>(c.channels));
  auto in = random_inputs(rng, c);
  in.initial = {};
  const auto grad = random_mat(rng, c.tokens(), c.channels);
  const Segments segments(c.offsets);
  const std::vector<int64_t> rows = {c.tokens(), c.channels};
  Window x(device, rows, {0, c.gap}, in.x), w(device, {c.channels, c.taps}, {c.gap, 1}, in.w);
  Window bias(device, {c.channels}, {c.gap}), dy(device, rows, {0, c.gap + 2}, grad);
  if (c.bias) bias.set(in.bias);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  Mat<double> first;
  for (int pass = 0; pass < 2; ++pass) {
    Window dx(device, rows, {0, c.gap}), dw(device, {c.channels, c.taps}, {c.gap, 2});
    Window dbias(device, {c.channels}, {c.gap});
    dw.fill(2.0f);  // gradients of parameters accumulate
    dbias.fill(3.0f);
    conv1d_backward(ctx, {.dx = dx.view(),
                          .dw = dw.view(),
                          .dbias = c.bias ? dbias.view() : View(),
                          .dy = dy.view(),
                          .x = x.view(),
                          .w = w.view(),
                          .bias = c.bias ? ConstView(bias.view()) : ConstView(),
                          .segments = segments});
    ctx.synchronize();
    auto want = reference::conv1d_backward(in, segments, grad);
    for (auto& v : want.dw.v) v += 2.0;
    for (auto& v : want.dbias.v) v += 3.0;
    // du errs by the element bound times |dy| (1 + the size of the sum's terms); dx sums K of
    // them, dw and dbias T.
    const double du = element_bound(c) *
                      (norm(grad) + norm(grad) * term_norm(c, in) /
                                        std::sqrt(static_cast<double>(c.tokens() * c.channels)));
    const double root = std::sqrt(static_cast<double>(c.tokens()));
    const double taps = static_cast<double>(c.taps);
    expect_close("dx", dx.read(), want.dx, 0.0, 4.0 * taps * du);  // |w| stays below 4
    expect_close("dw", dw.read(), want.dw, root * kEps32, 4.0 * taps * du);
    if (c.bias) expect_close("dbias", dbias.read(), want.dbias, root * kEps32, root * du);
    for (auto* g : {&dx, &dw}) g->expect_guards_intact("gradient");
    const Mat<double> all = dw.read();
    if (pass == 0) first = all;
    EXPECT_EQ(first.v, all.v);
  }
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Case>>& test) {
  const auto& [device, c] = test.param;
  return str(device_name(device), "_", test.index, "_T", c.tokens(), "_C", c.channels, "_K",
             c.taps);
}

// `count` segments of 1, 2, 3, 1, ... tokens: more of them than a kernel sums gradients in parts.
std::vector<int32_t> many_segments(int count) {
  std::vector<int32_t> offsets = {0};
  for (int i = 0; i < count; ++i) offsets.push_back(offsets.back() + 1 + i % 3);
  return offsets;
}

INSTANTIATE_TEST_SUITE_P(
    All, Conv1d,
    ::testing::Combine(
        ::testing::Values(Device::kCpu, Device::kCuda),
        ::testing::Values(
            Case{{0, 1}, 1, 1, false, false, 0}, Case{{0, 1, 3, 40}, 7, 4, true, true, 3},
            Case{{0, 1, 2, 3, 4, 5}, 33, 4, true, true, 1}, Case{{0, 70}, 64, 4, true, false, 0},
            Case{{0, 17, 64, 131}, 600, 3, false, true, 5}, Case{{0, 100}, 20, 8, true, true, 12},
            Case{{0, 4, 90}, 37, 2, true, false, 1}, Case{{0, 68, 77}, 5, 7, false, true, 2},
            Case{{0, 29, 61, 90, 200}, 260, 4, true, true, 2},
            Case{{0, 70, 140, 210}, 258, 4, true, true, 2},
            Case{{0, 8, 16, 49}, 258, 1, true, false, 0}, Case{{0, 130}, 6, 8, false, true, 4},
            Case{many_segments(600), 5, 4, true, true, 1})),
    case_name);

int64_t forward_scratch(Context& ctx, const std::vector<int32_t>& offsets) {
  constexpr int64_t kChannels = 6, kTaps = 4;
  const Tensor x(ctx.device(), DType::kF32, {offsets.back(), kChannels});
  const Tensor w(ctx.device(), DType::kF32, {kChannels, kTaps});
  Tensor y(ctx.device(), DType::kF32, {offsets.back(), kChannels});
  conv1d_forward(ctx, {.y = y, .x = x, .w = w, .segments = Segments(offsets)});
  ctx.synchronize();
  return ctx.scratch().peak_bytes();
}

// What is reserved by segments alike is enough for others, whose runs are looked up.
TEST(Conv1dScratch, OfARehearsalHoldsForUnevenSegments) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Context real(Device::kCuda), twin = Context::rehearsal_of(real);
  const int64_t rehearsed = forward_scratch(twin, {0, 1, 2, 3, 4});
  EXPECT_GT(forward_scratch(real, {0, 1, 4}), 0);
  EXPECT_GE(rehearsed, real.scratch().peak_bytes());
}

// Of the channels that one more token makes runs twice as long for.
int64_t backward_scratch(Context& ctx, int64_t tokens) {
  constexpr int64_t kChannels = 8192, kTaps = 4;
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens)};
  const Tensor x(ctx.device(), DType::kF32, {tokens, kChannels});
  const Tensor w(ctx.device(), DType::kF32, {kChannels, kTaps});
  Tensor dx(ctx.device(), DType::kF32, {tokens, kChannels});
  Tensor dw(ctx.device(), DType::kF32, {kChannels, kTaps});
  conv1d_backward(ctx,
                  {.dx = dx, .dw = dw, .dy = x, .x = x, .w = w, .segments = Segments(offsets)});
  return ctx.scratch().peak_bytes();
}

TEST(Conv1dScratch, OfARehearsalHoldsForFewerTokens) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Context real(Device::kCuda), many = Context::rehearsal_of(real);
  Context few = Context::rehearsal_of(real);
  EXPECT_GT(backward_scratch(few, 4095), 0);
  EXPECT_GE(backward_scratch(many, 4096), few.scratch().peak_bytes());
}

TEST(Conv1dContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const auto null = [](std::initializer_list<int64_t> shape) {
    return View(nullptr, DType::kF32, Device::kNull, shape);
  };
  const std::vector<int32_t> offsets = {0, 8};
  try {
    conv1d_forward(ctx, {.y = null({8, 6}),
                         .final_state = null({1, 6, 4}),
                         .x = null({8, 6}),
                         .w = null({6, 4}),
                         .segments = Segments(offsets)});
    FAIL() << "accepted a state of 4 for 4 taps";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("needs [1,6,3]"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace nestling
