#include "kernels/ops/activation.h"

#include <gtest/gtest.h>

#include "kernels/reference/activation.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

template <class T>
T weighted_sum(const Mat<T>& y, const Mat<double>& weight) {
  T s = T(0);
  for (int64_t i = 0; i < y.size(); ++i) s += y[i] * weight[i];
  return s;
}

TEST(ActivationReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const auto gate = random_mat(rng, 3, 5, 2.0);
  const auto up = random_mat(rng, 3, 5);
  const auto dy = random_mat(rng, 3, 5);
  expect_gradient("squared relu", reference::squared_relu_backward(gate, dy),
                  complex_step_gradient(gate, [&](const Mat<Complex>& z) {
                    return weighted_sum(reference::squared_relu_forward(z), dy);
                  }));
  const auto g = reference::gated_silu_backward(gate, up, dy);
  const auto gc = reference::cast<Complex>(gate);
  const auto uc = reference::cast<Complex>(up);
  expect_gradient("dgate", g.dgate, complex_step_gradient(gate, [&](const Mat<Complex>& z) {
                    return weighted_sum(reference::gated_silu_forward(z, uc), dy);
                  }));
  expect_gradient("dup", g.dup, complex_step_gradient(up, [&](const Mat<Complex>& z) {
                    return weighted_sum(reference::gated_silu_forward(gc, z), dy);
                  }));
}

struct Shape {
  int64_t rows, cols;
  int64_t gap = 3;  // behind every row: a multiple of 4 may leave packs, 0 leaves one long row
};

class Activation : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

// The sigmoid is three roundings and an exponential of error below 2e-7 (simd.h); the products
// around it are at most six more.
constexpr double kSiluBound = 2e-7 + 9 * kEps32;

TEST_P(Activation, SquaredReluMatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, SquaredReluForward, SquaredReluBackward);
  Rng rng(7, static_cast<uint64_t>(shape.cols));
  const auto x = random_mat(rng, shape.rows, shape.cols);
  const auto dy = random_mat(rng, shape.rows, shape.cols);
  Context ctx(device);
  Guarded gx(device, x, shape.gap), gdy(device, dy, shape.gap);
  Guarded y(device, x.rows, x.cols, shape.gap), dx(device, x.rows, x.cols, shape.gap);
  squared_relu_forward(ctx, {.y = y.view(), .x = gx.view()});
  squared_relu_backward(ctx, {.dx = dx.view(), .dy = gdy.view(), .x = gx.view()});
  ctx.synchronize();
  expect_close("y", y.read(), reference::squared_relu_forward(x), kEps32);
  expect_close("dx", dx.read(), reference::squared_relu_backward(x, dy), kEps32);
  y.expect_guards_intact("y");
  dx.expect_guards_intact("dx");
  // In place: the same bits.
  const auto want_y = y.read();
  const auto want_dx = dx.read();
  squared_relu_backward(ctx, {.dx = gdy.view(), .dy = gdy.view(), .x = gx.view()});
  squared_relu_forward(ctx, {.y = gx.view(), .x = gx.view()});
  ctx.synchronize();
  EXPECT_EQ(gx.read().v, want_y.v);
  EXPECT_EQ(gdy.read().v, want_dx.v);
}

TEST_P(Activation, GatedSiluMatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, GatedSiluForward, GatedSiluBackward);
  Rng rng(8, static_cast<uint64_t>(shape.cols));
  const auto gate = random_mat(rng, shape.rows, shape.cols, 3.0);
  const auto up = random_mat(rng, shape.rows, shape.cols);
  const auto dy = random_mat(rng, shape.rows, shape.cols);
  Context ctx(device);
  const int64_t gap = shape.gap;
  Guarded g(device, gate, gap), u(device, up, gap), gdy(device, dy, gap);
  Guarded y(device, gate.rows, gate.cols, gap);
  Guarded dgate(device, gate.rows, gate.cols, gap), dup(device, gate.rows, gate.cols, gap);
  gated_silu_forward(ctx, {.y = y.view(), .gate = g.view(), .up = u.view()});
  const GatedSiluBackward backward{
      .dgate = dgate.view(), .dup = dup.view(), .dy = gdy.view(), .gate = g.view(), .up = u.view()};
  gated_silu_backward(ctx, backward);
  ctx.synchronize();
  const auto want = reference::gated_silu_backward(gate, up, dy);
  expect_close("y", y.read(), reference::gated_silu_forward(gate, up), kSiluBound);
  expect_close("dup", dup.read(), want.dup, kSiluBound);
  // dgate cancels where silu' is near zero: relative to |dy up| (silu' is at most 1.1, and the
  // term g s (1 - s) it is made of at most 0.25).
  Mat<double> term(gate.rows, gate.cols);
  for (int64_t i = 0; i < term.size(); ++i) term[i] = dy[i] * up[i];
  expect_close("dgate", dgate.read(), want.dgate, kSiluBound, 2 * kSiluBound * norm(term));
  for (auto* out : {&y, &dgate, &dup}) out->expect_guards_intact("output");
  // In place: the same bits.
  const auto want_y = y.read();
  const auto want_dup = dup.read();
  const auto want_dgate = dgate.read();
  auto in_place = backward;
  in_place.dup = gdy.view();
  in_place.dgate = g.view();
  Guarded y_in_place(device, up, gap);
  gated_silu_forward(ctx, {.y = y_in_place.view(), .gate = g.view(), .up = y_in_place.view()});
  gated_silu_backward(ctx, in_place);
  ctx.synchronize();
  EXPECT_EQ(gdy.read().v, want_dup.v);
  EXPECT_EQ(g.read().v, want_dgate.v);
  EXPECT_EQ(y_in_place.read().v, want_y.v);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, shape] = test.param;
  return str(device_name(device), "_", shape.rows, "x", shape.cols, "_gap", shape.gap);
}

INSTANTIATE_TEST_SUITE_P(
    All, Activation,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                       ::testing::Values(Shape{1, 1}, Shape{5, 7}, Shape{33, 64}, Shape{70, 149},
                                         Shape{300, 384}, Shape{33, 64, 4}, Shape{9, 6, 2},
                                         Shape{70, 148, 0}, Shape{300, 384, 8})),
    case_name);

class ActivationEnds : public ::testing::TestWithParam<Device> {};

TEST_P(ActivationEnds, SaturateWithoutNaN) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GatedSiluForward, GatedSiluBackward);
  Context ctx(device);
  Mat<double> gate(1, 4), ones(1, 4);
  const double ends[] = {-1e4, -100.0, 100.0, 1e4};
  for (int i = 0; i < 4; ++i) {
    gate[i] = ends[i];
    ones[i] = 1;
  }
  Guarded g(device, gate), one(device, ones), y(device, 1, 4);
  Guarded dgate(device, 1, 4), dup(device, 1, 4);
  gated_silu_forward(ctx, {.y = y.view(), .gate = g.view(), .up = one.view()});
  gated_silu_backward(ctx, {.dgate = dgate.view(),
                            .dup = dup.view(),
                            .dy = one.view(),
                            .gate = g.view(),
                            .up = one.view()});
  ctx.synchronize();
  const double want[] = {0.0, 0.0, 100.0, 1e4};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(y.read()[i], want[i], 1e-35 + kEps32 * want[i]);
    EXPECT_NEAR(dgate.read()[i], i < 2 ? 0.0 : 1.0, kEps32);
  }
}

TEST_P(ActivationEnds, NaNIsNotHidden) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, SquaredReluForward);
  Context ctx(device);
  Guarded x(device, 2, 21), y(device, 2, 21);  // a Guarded starts as NaN
  y.fill(0.0f);
  squared_relu_forward(ctx, {.y = y.view(), .x = x.view()});
  ctx.synchronize();
  for (double v : y.read().v) EXPECT_TRUE(std::isnan(v));
}

INSTANTIATE_TEST_SUITE_P(All, ActivationEnds, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return device_name(test.param); });

TEST(ActivationContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {4, 8});
  const View y(nullptr, DType::kF32, Device::kNull, {4, 7});
  squared_relu_forward(ctx, {.y = x, .x = x});
  EXPECT_EQ(ctx.total_work().bytes, 8 * 32);
  EXPECT_THROW(squared_relu_forward(ctx, {.y = y, .x = x}), Error);
  EXPECT_THROW(gated_silu_forward(ctx, {.y = x, .gate = x, .up = y}), Error);
}

}  // namespace
}  // namespace nestling
