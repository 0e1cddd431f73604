#include "kernels/ops/linear.h"

#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/cpu/matmul.h"
#include "kernels/reference/linear.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

// A sum of K products errs by about sqrt(K) roundings of its terms: the project's bound for
// products, relative to |a| |b| (Frobenius).
double product_bound(const Mat<double>& a, const Mat<double>& b, int64_t k) {
  return std::sqrt(static_cast<double>(k)) * kEps32 * norm(a) * norm(b);
}

TEST(LinearReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const auto x = random_mat(rng, 3, 5);
  const auto w = random_mat(rng, 4, 5);
  const auto bias = random_mat(rng, 1, 4);
  const auto dy = random_mat(rng, 3, 4);
  const auto g = reference::linear_backward(x, w, dy);
  const auto loss = [&](const Mat<Complex>& xc, const Mat<Complex>& wc, const Mat<Complex>& bc) {
    const auto y = reference::linear_forward(xc, wc, bc);
    Complex s = 0;
    for (int64_t i = 0; i < y.size(); ++i) s += y[i] * dy[i];
    return s;
  };
  const auto xc = reference::cast<Complex>(x);
  const auto wc = reference::cast<Complex>(w);
  const auto bc = reference::cast<Complex>(bias);
  expect_gradient("dx", g.dx,
                  complex_step_gradient(x, [&](const Mat<Complex>& z) { return loss(z, wc, bc); }));
  expect_gradient("dw", g.dw,
                  complex_step_gradient(w, [&](const Mat<Complex>& z) { return loss(xc, z, bc); }));
  expect_gradient("dbias", g.dbias, complex_step_gradient(bias, [&](const Mat<Complex>& z) {
                    return loss(xc, wc, z);
                  }));
}

struct Shape {
  int64_t t, k, n;
};
constexpr Shape kShapes[] = {{1, 1, 1},   {1, 37, 50},    {2, 64, 33},  {3, 5, 7},
                             {4, 48, 19}, {5, 7, 3},      {17, 33, 65}, {64, 64, 64},
                             {70, 96, 1}, {129, 149, 70}, {48, 1, 40},  {33, 2100, 300}};

class LinearF32 : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(LinearF32, MatchesTheReference) {
  const auto [device, s] = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward);
  Rng rng(7, static_cast<uint64_t>(s.k));
  const auto x = random_mat(rng, s.t, s.k), w = random_mat(rng, s.n, s.k);
  const auto bias = random_mat(rng, 1, s.n), dy = random_mat(rng, s.t, s.n);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  // CUDA asks for pitches of 16 bytes: a gap of 4 floats behind multiples of 4 columns.
  Guarded gx(device, x, 3), gw(device, w, 5), gbias(device, bias), gdy(device, dy, 7);
  Guarded y(device, s.t, s.n), dx(device, s.t, s.k), dw(device, s.n, s.k), dbias(device, 1, s.n);
  dw.fill(2.0f);
  dbias.fill(3.0f);
  linear_forward(ctx, {.y = y.view(), .x = gx.view(), .w = gw.view(), .bias = gbias.row()});
  linear_backward(ctx, {.dx = dx.view(),
                        .dw = dw.view(),
                        .dbias = dbias.row(),
                        .dy = gdy.view(),
                        .x = gx.view(),
                        .w = gw.view()});
  ctx.synchronize();
  auto want_y = reference::linear_forward(x, w, bias);
  auto want = reference::linear_backward(x, w, dy);
  for (auto& g : want.dw.v) g += 2.0;
  for (auto& g : want.dbias.v) g += 3.0;
  // Adding to what is there rounds once more, to half a unit of the result.
  expect_close("y", y.read(), want_y, kEps32, product_bound(x, w, s.k));
  expect_close("dx", dx.read(), want.dx, kEps32, product_bound(dy, w, s.n));
  expect_close("dw", dw.read(), want.dw, kEps32, product_bound(dy, x, s.t));
  expect_close("dbias", dbias.read(), want.dbias, kEps32,
               std::sqrt(static_cast<double>(s.t)) * kEps32 *
                   (norm(dy) + 3.0 * std::sqrt(static_cast<double>(s.n))));

  // Told to overwrite, the gradient forgets what it held.
  for (auto& g : want.dw.v) g -= 2.0;
  dw.fill(NAN);
  linear_backward(
      ctx,
      {.dw = dw.view(), .dy = gdy.view(), .x = gx.view(), .w = gw.view(), .accumulate_dw = false});
  ctx.synchronize();
  expect_close("dw =", dw.read(), want.dw, kEps32, product_bound(dy, x, s.t));

  // The second time both accumulate: twice the sum.
  linear_forward(
      ctx,
      {.y = y.view(), .x = gx.view(), .w = gw.view(), .bias = gbias.row(), .accumulate = true});
  linear_backward(
      ctx,
      {.dx = dx.view(), .dy = gdy.view(), .x = gx.view(), .w = gw.view(), .accumulate_dx = true});
  ctx.synchronize();
  for (auto& v : want_y.v) v *= 2;
  for (auto& v : want.dx.v) v *= 2;
  expect_close("y +=", y.read(), want_y, kEps32, 2 * product_bound(x, w, s.k));
  expect_close("dx +=", dx.read(), want.dx, kEps32, 2 * product_bound(dy, w, s.n));
  for (auto* g : {&y, &dx, &dw, &dbias}) g->expect_guards_intact("output");
}

std::string f32_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, s] = test.param;
  return str(device_name(device), "_", s.t, "x", s.k, "x", s.n);
}
INSTANTIATE_TEST_SUITE_P(All, LinearF32,
                         ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                                            ::testing::ValuesIn(kShapes)),
                         f32_name);

class LinearBf16 : public ::testing::TestWithParam<std::tuple<bool, bool, Shape>> {};

// Both ways to do bf16 products, on f32 and on bf16 activations: the same answer.
TEST_P(LinearBf16, MatchesTheReferenceOnRoundedOperands) {
  const auto [native, half, s] = GetParam();
  if (native && cpu_isa() < CpuIsa::kAvx512) GTEST_SKIP() << "oneDNN has no bf16 below AVX-512";
  const auto path = native ? cpu::Bf16Path::kNative : cpu::Bf16Path::kWidened;
  Rng rng(9, static_cast<uint64_t>(s.k));
  const auto raw_x = random_mat(rng, s.t, s.k), raw_dy = random_mat(rng, s.t, s.n);
  const auto x = rounded(raw_x), dy = rounded(raw_dy), w = rounded(random_mat(rng, s.n, s.k));
  const auto bias = random_mat(rng, 1, s.n);
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  Guarded x32(Device::kCpu, raw_x), dy32(Device::kCpu, raw_dy), gbias(Device::kCpu, bias);
  Guarded y32(Device::kCpu, s.t, s.n), dx32(Device::kCpu, s.t, s.k), dw(Device::kCpu, s.n, s.k);
  GuardedHalf x16(x, 5), dy16(dy), w16(w, 1), y16(s.t, s.n), dx16(s.t, s.k);
  dw.fill(2.0f);
  const ConstView gx = half ? x16.view() : x32.view();
  const ConstView gdy = half ? dy16.view() : dy32.view();
  cpu::linear_forward(
      ctx, {.y = half ? y16.view() : y32.view(), .x = gx, .w = w16.view(), .bias = gbias.row()},
      path);
  cpu::linear_backward(ctx,
                       {.dx = half ? dx16.view() : dx32.view(),
                        .dw = dw.view(),
                        .dy = gdy,
                        .x = gx,
                        .w = w16.view()},
                       path);
  const auto want_y = reference::linear_forward(x, w, bias);
  auto want = reference::linear_backward(x, w, dy);
  for (auto& g : want.dw.v) g += 2.0;
  const double round = half ? kEpsHalf : kEps32;
  expect_close("y", half ? y16.read() : y32.read(), want_y, round, product_bound(x, w, s.k));
  expect_close("dx", half ? dx16.read() : dx32.read(), want.dx, round, product_bound(dy, w, s.n));
  expect_close("dw", dw.read(), want.dw, kEps32, product_bound(dy, x, s.t));
  for (auto& g : want.dw.v) g -= 2.0;
  dw.fill(NAN);
  cpu::linear_backward(
      ctx, {.dw = dw.view(), .dy = gdy, .x = gx, .w = w16.view(), .accumulate_dw = false}, path);
  expect_close("dw =", dw.read(), want.dw, kEps32, product_bound(dy, x, s.t));
  for (auto* g : {&y16, &dx16, &w16}) g->expect_guards_intact("bf16");
  for (auto* g : {&y32, &dx32, &dw}) g->expect_guards_intact("f32");
}

std::string bf16_name(const ::testing::TestParamInfo<std::tuple<bool, bool, Shape>>& test) {
  const auto& [native, half, s] = test.param;
  return str(native ? "native" : "widened", half ? "_half_" : "_float_", s.t, "x", s.k, "x", s.n);
}
INSTANTIATE_TEST_SUITE_P(All, LinearBf16,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(),
                                            ::testing::ValuesIn(kShapes)),
                         bf16_name);

// A prefix of a larger weight and gradient: nothing outside it is read or written.
TEST(Linear, PrefixIsTheSmallerModel) {
  Rng rng(11);
  const auto x = random_mat(rng, 20, 24), w = random_mat(rng, 40, 32);
  Mat<double> cut(16, 24);
  for (int64_t n = 0; n < 16; ++n)
    for (int64_t k = 0; k < 24; ++k) cut(n, k) = w(n, k);
  Context ctx(Device::kCpu);
  Guarded gx(Device::kCpu, x), gw(Device::kCpu, w), gcut(Device::kCpu, cut);
  Guarded y(Device::kCpu, 20, 16), alone(Device::kCpu, 20, 16), dw(Device::kCpu, 40, 32);
  dw.fill(0.0f);
  linear_forward(ctx, {.y = y.view(), .x = gx.view(), .w = gw.view().prefix(0, 16).prefix(1, 24)});
  linear_forward(ctx, {.y = alone.view(), .x = gx.view(), .w = gcut.view()});
  expect_close("prefix", y.read(), alone.read(), 0.0, product_bound(x, cut, 24));
  linear_backward(ctx, {.dw = dw.view().prefix(0, 16).prefix(1, 24),
                        .dy = y.view(),
                        .x = gx.view(),
                        .w = gw.view().prefix(0, 16).prefix(1, 24)});
  const auto got = dw.read();
  for (int64_t n = 0; n < 40; ++n)
    for (int64_t k = 0; k < 32; ++k)
      if (n >= 16 || k >= 24) {
        ASSERT_EQ(got(n, k), 0.0) << n << "," << k;
      }
}

TEST(Linear, RepeatsBitForBit) {
  Rng rng(12);
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  Guarded x(Device::kCpu, random_mat(rng, 130, 200)), w(Device::kCpu, random_mat(rng, 170, 200));
  GuardedHalf w16(random_mat(rng, 170, 200));
  Guarded dy(Device::kCpu, random_mat(rng, 130, 170));
  std::vector<Mat<double>> first;
  for (int run = 0; run < 2; ++run) {
    std::vector<Mat<double>> got;
    for (const ConstView& weight : {ConstView(w.view()), ConstView(w16.view())}) {
      Guarded y(Device::kCpu, 130, 170), dx(Device::kCpu, 130, 200), dw(Device::kCpu, 170, 200);
      dw.fill(0.0f);
      linear_forward(ctx, {.y = y.view(), .x = x.view(), .w = weight});
      linear_backward(
          ctx, {.dx = dx.view(), .dw = dw.view(), .dy = dy.view(), .x = x.view(), .w = weight});
      for (auto* g : {&y, &dx, &dw}) got.push_back(g->read());
    }
    if (run == 0) first = got;
    for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(first[i].v, got[i].v) << i;
  }
}

TEST(Linear, OneTokenAloneIsTheSameAsAmongFour) {
  Rng rng(13);
  Context ctx(Device::kCpu);
  Guarded x(Device::kCpu, random_mat(rng, 4, 210)), w(Device::kCpu, random_mat(rng, 99, 210));
  Guarded all(Device::kCpu, 4, 99);
  linear_forward(ctx, {.y = all.view(), .x = x.view(), .w = w.view()});
  for (int64_t t = 0; t < 4; ++t) {
    Guarded one(Device::kCpu, 1, 99);
    linear_forward(ctx, {.y = one.view(), .x = x.view().slice(0, t, 1), .w = w.view()});
    for (int64_t n = 0; n < 99; ++n) ASSERT_EQ(one.read()(0, n), all.read()(t, n)) << t << "," << n;
  }
}

TEST(PackedWeight, GivesTheProductsOfTheWeight) {
  Rng rng(14);
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  for (const bool half : {false, true})
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 7}, {70, 33}, {130, 257}, {64, 64}}) {
      auto w = random_mat(rng, n, k);
      if (half) w = rounded(w);
      Guarded w32(Device::kCpu, w);
      GuardedHalf w16(w);
      PackedWeight packed(ctx, half ? w16.view() : w32.view());
      w32.fill(0.0f);  // the weight may go once packed
      EXPECT_GE(packed.bytes(), n * k * (half ? 2 : 4));
      for (const int64_t t : {1, 2, 3, 4, 5, 16, 64, 100, 257}) {
        const auto raw = random_mat(rng, t, k);
        const auto x = half ? rounded(raw) : raw;
        Guarded gx(Device::kCpu, raw), y(Device::kCpu, t, n);
        packed.forward(ctx, y.view(), gx.view());
        expect_close("y", y.read(), reference::linear_forward(x, w, Mat<double>(1, n)), kEps32,
                     product_bound(x, w, k));
        y.expect_guards_intact("y");
      }
    }
}

TEST(LinearContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {5, 8});
  const View w(nullptr, DType::kF32, Device::kNull, {16, 9});
  const View w16(nullptr, DType::kBF16, Device::kNull, {16, 8});
  const View y(nullptr, DType::kF32, Device::kNull, {5, 16});
  const View y16(nullptr, DType::kBF16, Device::kNull, {5, 16});
  const auto message = [&](const LinearForward& a) -> std::string {
    try {
      linear_forward(ctx, a);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_NE(message({.y = y, .x = x, .w = w}).find("x is [5,8] f32 null, needs [5,9]"),
            std::string::npos);
  EXPECT_NE(message({.y = y16, .x = x, .w = w16, .accumulate = true}).find("needs f32"),
            std::string::npos);
  EXPECT_EQ(message({.y = y16, .x = x, .w = w16}), "accepted");
  EXPECT_EQ(ctx.work().at("linear_forward").flops, 2.0 * 5 * 16 * 8);
}

TEST(LinearContract, NoTokensIsNoWork) {
  Context ctx(Device::kCpu);
  Tensor x(Device::kCpu, DType::kF32, {0, 8}), y(Device::kCpu, DType::kF32, {0, 3});
  Tensor w(Device::kCpu, DType::kF32, {3, 8}), dw(Device::kCpu, DType::kF32, {3, 8});
  linear_forward(ctx, {.y = y, .x = x, .w = w});
  linear_backward(ctx, {.dx = x, .dw = dw, .dy = y, .x = x, .w = w});
  for (int64_t i = 0; i < dw.size(); ++i) EXPECT_EQ(dw.ptr<float>()[i], 0.0f);
  dw.ptr<float>()[5] = 7.0f;
  linear_backward(ctx, {.dw = dw, .dy = y, .x = x, .w = w, .accumulate_dw = false});
  EXPECT_EQ(dw.ptr<float>()[5], 0.0f);
}

}  // namespace
}  // namespace nestling
