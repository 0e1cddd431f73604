#include "kernels/ops/rms_norm.h"

#include <gtest/gtest.h>

#include "kernels/reference/rms_norm.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

constexpr double kNormEps = 1e-5;

template <class T>
T weighted_sum(const Mat<T>& y, const Mat<double>& weight) {
  T s = T(0);
  for (int64_t i = 0; i < y.size(); ++i) s += y[i] * weight[i];
  return s;
}

TEST(RmsNormReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const auto x = random_mat(rng, 3, 5);
  const auto w = random_mat(rng, 1, 5);
  const auto dy = random_mat(rng, 3, 5);
  Mat<double> active(1, 1);
  active[0] = 3.7;
  const auto g = reference::rms_norm_backward(x, w, active[0], kNormEps, dy);
  const auto wc = reference::cast<Complex>(w);
  const auto xc = reference::cast<Complex>(x);
  expect_gradient("dx", g.dx, complex_step_gradient(x, [&](const Mat<Complex>& z) {
                    return weighted_sum(
                        reference::rms_norm_forward(z, wc, Complex(active[0]), kNormEps), dy);
                  }));
  expect_gradient("dw", g.dw, complex_step_gradient(w, [&](const Mat<Complex>& z) {
                    return weighted_sum(
                        reference::rms_norm_forward(xc, z, Complex(active[0]), kNormEps), dy);
                  }));
  Mat<double> dactive(1, 1);
  dactive[0] = g.dactive;
  expect_gradient("dactive", dactive, complex_step_gradient(active, [&](const Mat<Complex>& z) {
                    return weighted_sum(reference::rms_norm_forward(xc, wc, z[0], kNormEps), dy);
                  }));
}

struct Shape {
  int64_t rows, cols;
  bool soft;        // pass `active`
  int64_t gap = 3;  // behind every row; a multiple of 4 may keep rows aligned
};

class RmsNorm : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(RmsNorm, MatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, RmsNormForward, RmsNormBackward);
  Rng rng(7, static_cast<uint64_t>(shape.cols));
  const auto x = random_mat(rng, shape.rows, shape.cols);
  const auto w = random_mat(rng, 1, shape.cols);
  const auto dy = random_mat(rng, shape.rows, shape.cols);
  Mat<double> width(1, 1);
  width[0] = shape.soft ? static_cast<float>(0.6 * static_cast<double>(shape.cols))
                        : static_cast<double>(shape.cols);

  Context ctx(device);
  ctx.scratch().set_poison(true);
  const int64_t gap = shape.gap;
  Guarded gx(device, x, gap), gw(device, w, gap), gdy(device, dy, gap), gactive(device, width);
  Guarded y(device, shape.rows, shape.cols, gap), rstd(device, 1, shape.rows);
  Guarded dx(device, shape.rows, shape.cols, gap), dw(device, 1, shape.cols, gap);
  Guarded dactive(device, 1, 1);
  dw.fill(2.0f);  // gradients of parameters accumulate
  dactive.fill(3.0f);
  const ConstView active = shape.soft ? ConstView(gactive.row()) : ConstView();
  rms_norm_forward(ctx, {.y = y.view(),
                         .rstd = rstd.row(),
                         .x = gx.view(),
                         .w = gw.row(),
                         .active = active,
                         .eps = static_cast<float>(kNormEps)});
  rms_norm_backward(ctx, {.dx = dx.view(),
                          .dw = dw.row(),
                          .dactive = shape.soft ? dactive.row() : View(),
                          .dy = gdy.view(),
                          .x = gx.view(),
                          .w = gw.row(),
                          .rstd = rstd.row(),
                          .active = active});
  ctx.synchronize();

  const double eps = static_cast<float>(kNormEps);
  auto want = reference::rms_norm_backward(x, w, width[0], eps, dy);
  for (auto& g : want.dw.v) g += 2.0;
  // A row is one sum of D terms and a handful of products: 8 + sqrt(D) roundings. dw sums T rows.
  const double row_bound = (8 + std::sqrt(static_cast<double>(shape.cols))) * kEps32;
  const double dw_bound = row_bound + std::sqrt(static_cast<double>(shape.rows)) * kEps32;
  expect_close("y", y.read(), reference::rms_norm_forward(x, w, width[0], eps), row_bound);
  // dx is a difference: its roundings are relative to the first term, |dy w| rstd.
  Mat<double> term(shape.rows, shape.cols);
  const Mat<double> scale = rstd.read();
  for (int64_t i = 0; i < term.size(); ++i)
    term[i] = dy[i] * w[i % shape.cols] * scale[i / shape.cols];
  expect_close("dx", dx.read(), want.dx, row_bound, row_bound * norm(term));
  expect_close("dw", dw.read(), want.dw, dw_bound);
  if (shape.soft) {
    Mat<double> d(1, 1);
    d[0] = want.dactive + 3.0;
    // Signs cancel across rows: the bound is on the terms, each at most |x||dy w| rstd / width.
    const double terms = norm(x) * norm(dy) * 3.0 / width[0];
    expect_close("dactive", dactive.read(), d, 0.0, dw_bound * (terms + 3.0));
  }
  for (auto* g : {&y, &rstd, &dx, &dw, &dactive}) g->expect_guards_intact("output");
}

TEST_P(RmsNorm, RepeatsBitForBit) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, RmsNormBackward);
  Rng rng(8);
  Context ctx(device);
  Guarded x(device, random_mat(rng, shape.rows, shape.cols)),
      w(device, random_mat(rng, 1, shape.cols)), rstd(device, random_mat(rng, 1, shape.rows));
  Mat<double> first;
  for (int run = 0; run < 2; ++run) {
    Guarded dx(device, shape.rows, shape.cols), dw(device, 1, shape.cols);
    dw.fill(0.0f);
    rms_norm_backward(ctx, {.dx = dx.view(),
                            .dw = dw.row(),
                            .dy = x.view(),
                            .x = x.view(),
                            .w = w.row(),
                            .rstd = rstd.row()});
    ctx.synchronize();
    if (run == 0)
      first = dw.read();
    else
      EXPECT_EQ(first.v, dw.read().v);
  }
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, shape] = test.param;
  return str(device_name(device), "_", shape.rows, "x", shape.cols, shape.soft ? "_soft" : "",
             "_gap", shape.gap);
}

INSTANTIATE_TEST_SUITE_P(
    All, RmsNorm,
    ::testing::Combine(
        ::testing::Values(Device::kCpu, Device::kCuda),
        ::testing::Values(Shape{1, 1, false}, Shape{5, 7, true}, Shape{33, 64, false},
                          Shape{70, 149, true}, Shape{200, 384, false}, Shape{9, 4101, true},
                          Shape{33, 64, true, 8}, Shape{9, 66, true, 6}, Shape{21, 1028, false, 4},
                          Shape{5, 4096, true, 8}, Shape{5, 4100, true, 4}, Shape{1100, 8, true, 8},
                          // Who takes a row changes behind 128 and 512 columns.
                          Shape{300, 128, true, 8}, Shape{300, 129, false}, Shape{70, 512, true, 8},
                          Shape{9, 516, true, 4}, Shape{17000, 8, false, 4},
                          Shape{3, 12288, true})),  // just below 48 KB of shared memory
    case_name);

TEST(RmsNormContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {4, 8});
  const View w(nullptr, DType::kF32, Device::kNull, {7});
  const View rstd(nullptr, DType::kF32, Device::kNull, {4});
  try {
    rms_norm_forward(ctx, {.y = x, .rstd = rstd, .x = x, .w = w, .eps = 1e-5f});
    FAIL() << "accepted w [7] for x [4,8]";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("w is [7] f32 null, needs [8]"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace nestling
