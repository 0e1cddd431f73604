#include "kernels/ops/mask.h"

#include <gtest/gtest.h>

#include "kernels/reference/mask.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

TEST(MaskReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const auto x = random_mat(rng, 3, 6);
  const auto m = random_mat(rng, 1, 3);
  const auto dy = random_mat(rng, 3, 6);
  const auto g = reference::mask_backward(x, m, dy, 2);
  auto loss = [&](const Mat<Complex>& xc, const Mat<Complex>& mc) {
    const auto y = reference::mask_forward(xc, mc, 2);
    Complex s = 0;
    for (int64_t i = 0; i < y.size(); ++i) s += y[i] * dy[i];
    return s;
  };
  expect_gradient("dx", g.dx, complex_step_gradient(x, [&](const Mat<Complex>& z) {
                    return loss(z, reference::cast<Complex>(m));
                  }));
  expect_gradient("dm", g.dm, complex_step_gradient(m, [&](const Mat<Complex>& z) {
                    return loss(reference::cast<Complex>(x), z);
                  }));
}

struct Shape {
  int64_t rows, entries, repeat;
  int64_t gap = 3;  // behind every row; a multiple of 4 may keep rows aligned
};

class Mask : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(Mask, MatchesTheReference) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, MaskForward, MaskBackward);
  Rng rng(7, static_cast<uint64_t>(shape.entries));
  const int64_t cols = shape.entries * shape.repeat;
  const auto x = random_mat(rng, shape.rows, cols);
  const auto dy = random_mat(rng, shape.rows, cols);
  auto m = random_mat(rng, 1, shape.entries);
  for (auto& v : m.v) v = static_cast<float>(rng.uniform());

  Context ctx(device);
  ctx.scratch().set_poison(true);
  Guarded gx(device, x, shape.gap), gm(device, m), gdy(device, dy, shape.gap);
  Guarded y(device, shape.rows, cols, shape.gap), dx(device, shape.rows, cols, shape.gap);
  Guarded dm(device, 1, shape.entries);
  dm.fill(2.0f);  // gradients of parameters accumulate
  mask_forward(ctx, {.y = y.view(), .x = gx.view(), .m = gm.row(), .repeat = shape.repeat});
  const MaskBackward backward{.dx = dx.view(),
                              .dm = dm.row(),
                              .dy = gdy.view(),
                              .x = gx.view(),
                              .m = gm.row(),
                              .repeat = shape.repeat};
  mask_backward(ctx, backward);
  ctx.synchronize();
  auto want = reference::mask_backward(x, m, dy, shape.repeat);
  // Each entry of dm is a sum of rows * repeat products; it may cancel, so the bound is on the
  // terms, plus one rounding where it meets what was there.
  const double dm_bound = (2 + std::sqrt(static_cast<double>(shape.rows * shape.repeat))) * kEps32;
  for (auto& v : want.dm.v) v += 2.0;
  expect_close("y", y.read(), reference::mask_forward(x, m, shape.repeat), kEps32);
  expect_close("dx", dx.read(), want.dx, kEps32);
  expect_close("dm", dm.read(), want.dm, dm_bound, dm_bound * norm(x) * 3.0);
  for (auto* g : {&y, &dx, &dm}) g->expect_guards_intact("output");

  // The same bits again, in place, and without dm.
  const auto first_dm = dm.read();
  const auto first_dx = dx.read();
  dm.fill(2.0f);
  auto no_dm = backward;
  no_dm.dm = View();
  mask_backward(ctx, no_dm);
  ctx.synchronize();
  EXPECT_EQ(dx.read().v, first_dx.v);
  auto in_place = backward;
  in_place.dx = gdy.view();
  mask_backward(ctx, in_place);
  mask_forward(ctx, {.y = gx.view(), .x = gx.view(), .m = gm.row(), .repeat = shape.repeat});
  ctx.synchronize();
  EXPECT_EQ(dm.read().v, first_dm.v);
  EXPECT_EQ(gdy.read().v, first_dx.v);
  EXPECT_EQ(gx.read().v, y.read().v);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, shape] = test.param;
  return str(device_name(device), "_", shape.rows, "x", shape.entries, "x", shape.repeat, "_gap",
             shape.gap);
}

INSTANTIATE_TEST_SUITE_P(
    All, Mask,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                       ::testing::Values(Shape{1, 1, 1}, Shape{5, 7, 3}, Shape{33, 64, 1},
                                         Shape{70, 149, 1}, Shape{301, 6, 64}, Shape{90, 43, 3},
                                         Shape{97, 132, 1, 4}, Shape{64, 127, 1, 5},
                                         Shape{200, 5, 40, 8})),
    case_name);

TEST(MaskContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {4, 8});
  const View m(nullptr, DType::kF32, Device::kNull, {4});
  mask_forward(ctx, {.y = x, .x = x, .m = m, .repeat = 2});
  EXPECT_THROW(mask_forward(ctx, {.y = x, .x = x, .m = m}), Error);
  try {
    mask_forward(ctx, {.y = x, .x = x, .m = m, .repeat = 3});
    FAIL() << "accepted repeat 3 for 8 channels";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("repeat 3 does not divide the 8"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace nestling
