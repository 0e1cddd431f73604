#include "kernels/ops/gated_norm.h"

#include <gtest/gtest.h>

#include "kernels/reference/gated_norm.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/window.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;
using reference::GatedNormShape;

constexpr double kNormEps = 1e-5;

TEST(GatedNormReference, BackwardIsTheComplexStepDerivative) {
  Rng rng(1);
  const GatedNormShape s{4, 3, 2, kNormEps};
  const auto y = random_mat(rng, 3, 12);
  const auto z = random_mat(rng, 3, 12);
  const auto w = random_mat(rng, 1, 12);
  const auto dout = random_mat(rng, 3, 12);
  Mat<double> active(1, 1);
  active[0] = 4.3;
  const auto g = reference::gated_norm_backward(s, y, z, w, active[0], dout);
  const auto loss = [&](const Mat<Complex>& yc, const Mat<Complex>& zc, const Mat<Complex>& wc,
                        Complex a) {
    const auto out = reference::gated_norm_forward(s, yc, zc, wc, a);
    Complex sum = 0;
    for (int64_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
    return sum;
  };
  const auto yc = reference::cast<Complex>(y);
  const auto zc = reference::cast<Complex>(z);
  const auto wc = reference::cast<Complex>(w);
  const Complex ac = active[0];
  expect_gradient("dy", g.dy, complex_step_gradient(y, [&](const Mat<Complex>& v) {
                    return loss(v, zc, wc, ac);
                  }));
  expect_gradient("dz", g.dz, complex_step_gradient(z, [&](const Mat<Complex>& v) {
                    return loss(yc, v, wc, ac);
                  }));
  expect_gradient("dw", g.dw, complex_step_gradient(w, [&](const Mat<Complex>& v) {
                    return loss(yc, zc, v, ac);
                  }));
  Mat<double> dactive(1, 1);
  dactive[0] = g.dactive;
  expect_gradient("dactive", dactive, complex_step_gradient(active, [&](const Mat<Complex>& v) {
                    return loss(yc, zc, wc, v[0]);
                  }));
}

struct Case {
  int64_t tokens, heads, channels, groups;
  bool soft;
  int64_t gap;
};

class GatedNorm : public ::testing::TestWithParam<std::tuple<Device, Case>> {};

TEST_P(GatedNorm, MatchesTheReferenceAndRepeats) {
  const auto [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, GatedNormForward, GatedNormBackward);
  Rng rng(2, static_cast<uint64_t>(c.heads));
  const double eps = static_cast<float>(kNormEps);
  const GatedNormShape s{c.heads, c.channels, c.groups, eps};
  const int64_t width = c.heads * c.channels;
  const auto y = random_mat(rng, c.tokens, width);
  const auto z = random_mat(rng, c.tokens, width);
  const auto w = random_mat(rng, 1, width);
  const auto dout = random_mat(rng, c.tokens, width);
  const auto per_group = static_cast<double>(width / c.groups);
  const double active = c.soft ? static_cast<float>(0.7 * per_group) : per_group;
  const std::vector<int64_t> rows = {c.tokens, c.heads, c.channels};
  const std::vector<int64_t> gaps = {0, c.gap, c.gap};
  const std::vector<int64_t> weight = {c.heads, c.channels};

  Context ctx(device);
  ctx.scratch().set_poison(true);
  Window wy(device, rows, gaps, y), wz(device, rows, gaps, z), ww(device, weight, {0, c.gap}, w);
  Window wdout(device, rows, gaps, dout), wactive(device, {1}, {2});
  wactive.fill(static_cast<float>(active));
  const ConstView active_view = c.soft ? ConstView(wactive.view()) : ConstView();
  auto want = reference::gated_norm_backward(s, y, z, w, active, dout);
  const auto want_out = reference::gated_norm_forward(s, y, z, w, active);
  const auto rstd = reference::gated_norm_rstd(s, y, z, active);
  for (auto& g : want.dw.v) g += 2.0;
  // Some 16 roundings in the gate, its product and the norm, and a sum over a group.
  const double row_bound = (16 + std::sqrt(per_group)) * kEps32;
  const double dw_bound = row_bound + std::sqrt(static_cast<double>(c.tokens)) * kEps32;
  // dy and dz are differences of a gradient and its projection on u, each at most |dout w| rstd
  // times the other factor of the gate.
  Mat<double> y_terms(c.tokens, width);
  Mat<double> z_terms(c.tokens, width);
  double dots = 0;  // what dactive sums
  for (int64_t i = 0; i < y.size(); ++i) {
    const double r = rstd(i / width, s.group_of(i % width));
    const double term = std::abs(dout[i] * w[i % width]) * r;
    const double gate = 1 / (1 + std::exp(-z[i]));
    y_terms[i] = term * std::abs(z[i]) * gate;
    z_terms[i] = term * std::abs(y[i]) * (gate + std::abs(z[i]) * gate * (1 - gate));
    dots += term * std::abs(y[i] * z[i]) * gate / active;
  }
  Mat<double> first;
  for (int pass = 0; pass < 2; ++pass) {
    Window out(device, rows, gaps), r(device, {c.tokens, c.groups}, {0, 1});
    Window dy(device, rows, gaps), dz(device, rows, {0, 1, 4}), dw(device, weight, {0, c.gap});
    Window dactive(device, {1}, {1});
    dw.fill(2.0f);  // gradients of parameters accumulate
    dactive.fill(3.0f);
    gated_norm_forward(ctx, {.out = out.view(),
                             .rstd = r.view(),
                             .y = wy.view(),
                             .z = wz.view(),
                             .w = ww.view(),
                             .active = active_view,
                             .eps = static_cast<float>(kNormEps)});
    gated_norm_backward(ctx, {.dy = dy.view(),
                              .dz = dz.view(),
                              .dw = dw.view(),
                              .dactive = c.soft ? dactive.view() : View(),
                              .dout = wdout.view(),
                              .y = wy.view(),
                              .z = wz.view(),
                              .w = ww.view(),
                              .rstd = r.view(),
                              .active = active_view});
    ctx.synchronize();
    expect_close("out", out.read(), want_out, row_bound);
    expect_close("rstd", r.read(), rstd, row_bound);
    expect_close("dy", dy.read(), want.dy, row_bound, row_bound * norm(y_terms));
    expect_close("dz", dz.read(), want.dz, row_bound, row_bound * norm(z_terms));
    Mat<double> want_dw = want.dw;
    want_dw.rows = c.heads;
    want_dw.cols = c.channels;
    expect_close("dw", dw.read(), want_dw, dw_bound);
    if (c.soft) {
      Mat<double> d(1, 1);
      d[0] = want.dactive + 3.0;
      expect_close("dactive", dactive.read(), d, 0.0, dw_bound * (dots + 3.0));
    }
    for (auto* g : {&out, &r, &dy, &dz, &dw, &dactive}) g->expect_guards_intact("output");
    const Mat<double> all = dw.read();
    if (pass == 0) first = all;
    EXPECT_EQ(first.v, all.v);
  }
}

TEST_P(GatedNorm, MayOverwriteItsInput) {
  const auto [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, GatedNormForward, GatedNormBackward);
  Rng rng(3);
  const int64_t width = c.heads * c.channels;
  const auto y = random_mat(rng, c.tokens, width);
  const std::vector<int64_t> rows = {c.tokens, c.heads, c.channels};
  Context ctx(device);
  Window in_place(device, rows, {0, 0, 0}, y), wy(device, rows, {0, 0, 0}, y);
  Window z(device, rows, {0, 0, 0}, random_mat(rng, c.tokens, width));
  Window w(device, {c.heads, c.channels}, {0, 0}, random_mat(rng, 1, width));
  Window out(device, rows, {0, 0, 0}), rstd(device, {c.tokens, c.groups}, {0, 0});
  Window dy(device, rows, {0, 0, 0}), dz(device, rows, {0, 0, 0});
  Window dw(device, {c.heads, c.channels}, {0, 0});
  dw.fill(0.0f);
  for (Window* to : {&out, &in_place})
    gated_norm_forward(ctx, {.out = to->view(),
                             .rstd = rstd.view(),
                             .y = to == &out ? wy.view() : to->view(),
                             .z = z.view(),
                             .w = w.view(),
                             .eps = 1e-5f});
  ctx.synchronize();
  EXPECT_EQ(out.read().v, in_place.read().v);
  in_place.set(y);  // now dout, which dy may overwrite
  for (Window* to : {&dy, &in_place})
    gated_norm_backward(ctx, {.dy = to->view(),
                              .dz = dz.view(),
                              .dw = dw.view(),
                              .dout = in_place.view(),
                              .y = wy.view(),
                              .z = z.view(),
                              .w = w.view(),
                              .rstd = rstd.view()});
  ctx.synchronize();
  EXPECT_EQ(dy.read().v, in_place.read().v);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Case>>& test) {
  const auto& [device, c] = test.param;
  return str(device_name(device), "_", test.index, "_T", c.tokens, "_H", c.heads, "_P", c.channels,
             "_G", c.groups, c.soft ? "_soft" : "");
}

INSTANTIATE_TEST_SUITE_P(
    All, GatedNorm,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                       ::testing::Values(Case{1, 1, 1, 1, false, 0}, Case{5, 6, 7, 3, true, 2},
                                         Case{33, 4, 64, 2, false, 0}, Case{20, 8, 33, 4, true, 5},
                                         Case{70, 12, 16, 1, true, 1}, Case{9, 4, 302, 2, true, 2},
                                         Case{3, 3, 1500, 1, true, 4}, Case{20, 6, 48, 2, true, 4},
                                         Case{19, 10, 64, 2, true, 4}, Case{9, 40, 64, 2, false, 4},
                                         Case{3, 65, 64, 1, true, 8}, Case{7, 4, 66, 2, true, 2},
                                         Case{2, 5, 1001, 1, false, 1})),
    case_name);

TEST(GatedNormContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const auto null = [](std::initializer_list<int64_t> shape) {
    return View(nullptr, DType::kF32, Device::kNull, shape);
  };
  try {
    gated_norm_forward(ctx, {.out = null({4, 6, 2}),
                             .rstd = null({4, 4}),
                             .y = null({4, 6, 2}),
                             .z = null({4, 6, 2}),
                             .w = null({6, 2}),
                             .eps = 1e-5f});
    FAIL() << "accepted 4 groups for 6 heads";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("with G dividing 6 heads"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace nestling
