#include "kernels/ops/experts.h"

#include <gtest/gtest.h>

#include "kernels/cpu/experts.h"
#include "kernels/reference/experts.h"
#include "tests/support/complex_step.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

struct Shape {
  int64_t tokens, chosen, experts, width, out;
};

// Choices without repetition within a token; the last expert gets none, the first most.
Mat<int> choices(Rng& rng, const Shape& s) {
  Mat<int> index(s.tokens, s.chosen);
  const int64_t open = std::max(s.chosen, s.experts - 1);
  for (int64_t t = 0; t < s.tokens; ++t) {
    const auto first = rng.below(3) == 0 ? static_cast<int64_t>(rng.below(open)) : 0;
    for (int64_t j = 0; j < s.chosen; ++j) index(t, j) = static_cast<int>((first + j) % open);
  }
  return index;
}

std::vector<Mat<double>> random_experts(Rng& rng, const Shape& s) {
  std::vector<Mat<double>> w;
  for (int64_t e = 0; e < s.experts; ++e) w.push_back(random_mat(rng, s.out, s.width));
  return w;
}

TEST(ExpertsReference, BackwardIsTheComplexStepDerivative) {
  const Shape s{4, 2, 3, 5, 3};
  Rng rng(1);
  const auto x = random_mat(rng, s.tokens, s.width);
  const auto weight = random_mat(rng, s.tokens, s.chosen);
  const auto dy = random_mat(rng, s.tokens, s.out);
  const auto w = random_experts(rng, s);
  const auto index = choices(rng, s);
  const auto g = reference::experts_backward(x, w, index, weight, dy);
  std::vector<Mat<Complex>> wc;
  for (const auto& m : w) wc.push_back(reference::cast<Complex>(m));
  const auto xc = reference::cast<Complex>(x);
  const auto weightc = reference::cast<Complex>(weight);
  const auto loss = [&](const Mat<Complex>& xz, const std::vector<Mat<Complex>>& wz,
                        const Mat<Complex>& weightz) {
    const auto y = reference::experts_forward(xz, wz, index, weightz);
    Complex sum = 0;
    for (int64_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  };
  expect_gradient("dx", g.dx, complex_step_gradient(x, [&](const Mat<Complex>& z) {
                    return loss(z, wc, weightc);
                  }));
  expect_gradient("dweight", g.dweight, complex_step_gradient(weight, [&](const Mat<Complex>& z) {
                    return loss(xc, wc, z);
                  }));
  for (size_t e = 0; e < w.size(); ++e)
    expect_gradient("dw", g.dw[e], complex_step_gradient(w[e], [&](const Mat<Complex>& z) {
                      auto changed = wc;
                      changed[e] = z;
                      return loss(xc, changed, weightc);
                    }));
}

enum class Kind : uint8_t { kF32, kWidened, kNative };

struct Operands {
  Tensor offsets, order, index;
  std::vector<Mat<double>> w;  // as the products see them
  Mat<double> x, weight, dy;

  Operands(Context& ctx, const Shape& s, Rng& rng)
      : offsets(Device::kCpu, DType::kI32, {s.experts + 1}),
        order(Device::kCpu, DType::kI32, {s.tokens * s.chosen}),
        index(Device::kCpu, DType::kI32, {s.tokens, s.chosen}),
        w(random_experts(rng, s)),
        x(random_mat(rng, s.tokens, s.width)),
        weight(random_mat(rng, s.tokens, s.chosen)),
        dy(random_mat(rng, s.tokens, s.out)) {
    const auto chosen = choices(rng, s);
    for (int64_t i = 0; i < chosen.size(); ++i) index.ptr<int32_t>()[i] = chosen[i];
    expert_sort(ctx, {.offsets = offsets, .order = order, .index = index});
  }
  Mat<int> choice() const {
    Mat<int> m(index.view().dim(0), index.view().dim(1));
    for (int64_t i = 0; i < m.size(); ++i) m[i] = index.ptr<int32_t>()[i];
    return m;
  }
  int64_t row_count() const { return order.size(); }
};

class Experts : public ::testing::TestWithParam<std::tuple<Kind, Shape>> {};

// The whole way there and back: gather, product, combine, and their gradients.
TEST_P(Experts, MatchTheReference) {
  const auto [kind, s] = GetParam();
  if (kind == Kind::kNative && cpu_isa() < CpuIsa::kAvx512)
    GTEST_SKIP() << "oneDNN has no bf16 below AVX-512";
  Rng rng(5, static_cast<uint64_t>(s.width));
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  Operands o(ctx, s, rng);
  const bool half = kind != Kind::kF32;
  const auto path = kind == Kind::kNative ? cpu::Bf16Path::kNative : cpu::Bf16Path::kWidened;
  const int64_t rows = o.row_count();
  // One pitched matrix [E * (N+1), K+3] holds the experts: N and K are prefixes, as when sliced.
  const DType dtype = half ? DType::kBF16 : DType::kF32;
  Tensor all(Device::kCpu, dtype, {s.experts, s.out + 1, s.width + 3});
  Tensor dall(Device::kCpu, DType::kF32, {s.experts, s.out + 1, s.width + 3});
  for (int64_t e = 0; e < s.experts; ++e)
    for (int64_t n = 0; n < s.out; ++n)
      for (int64_t k = 0; k < s.width; ++k) {
        auto& value = o.w[static_cast<size_t>(e)](n, k);
        const int64_t at = (e * (s.out + 1) + n) * (s.width + 3) + k;
        if (half) {
          all.ptr<bf16>()[at] = bf16(static_cast<float>(value));
          value = static_cast<float>(all.ptr<bf16>()[at]);
        } else {
          all.ptr<float>()[at] = static_cast<float>(value);
        }
        dall.ptr<float>()[at] = 2.0f;
      }
  const View w = all.view().prefix(1, s.out).prefix(2, s.width);
  const View dw = dall.view().prefix(1, s.out).prefix(2, s.width);

  Guarded x(Device::kCpu, o.x), weight(Device::kCpu, o.weight), dy(Device::kCpu, o.dy);
  Guarded xs(Device::kCpu, rows, s.width), ys(Device::kCpu, rows, s.out);
  Guarded y(Device::kCpu, s.tokens, s.out), dys(Device::kCpu, rows, s.out);
  Guarded dweight(Device::kCpu, s.tokens, s.chosen), dxs(Device::kCpu, rows, s.width);
  Guarded dx(Device::kCpu, s.tokens, s.width);
  expert_gather(ctx, {.rows = xs.view(), .x = x.view(), .order = o.order});
  cpu::expert_linear_forward(ctx, {.y = ys.view(), .x = xs.view(), .w = w, .offsets = o.offsets},
                             path);
  expert_combine(ctx,
                 {.y = y.view(), .rows = ys.view(), .weight = weight.view(), .order = o.order});
  expert_combine_backward(ctx, {.drows = dys.view(),
                                .dweight = dweight.view(),
                                .dy = dy.view(),
                                .rows = ys.view(),
                                .weight = weight.view(),
                                .order = o.order});
  cpu::expert_linear_backward(
      ctx,
      {.dx = dxs.view(), .dw = dw, .dy = dys.view(), .x = xs.view(), .w = w, .offsets = o.offsets},
      path);
  expert_gather_backward(ctx, {.dx = dx.view(), .drows = dxs.view(), .order = o.order});

  const auto choice = o.choice();
  auto want_y = reference::experts_forward(o.x, o.w, choice, o.weight);
  const auto want = reference::experts_backward(o.x, o.w, choice, o.weight, o.dy);
  // Two sums in a row, of `inner` products and of a token's experts; in bf16 both activations of a
  // product are rounded first, each by at most 2^-8 of its size.
  const auto bound = [&](int64_t inner) {
    const auto terms = static_cast<double>(inner + s.chosen);
    return std::sqrt(terms) * kEps32 + (half ? 2 * kEpsHalf : 0.0);
  };
  double size_w = 0;  // Frobenius norm over all experts
  for (const auto& m : o.w) size_w += norm(m) * norm(m);
  size_w = std::sqrt(size_w);
  const double size_dys = norm(dys.read());
  const double most_weight =
      *std::max_element(o.weight.v.begin(), o.weight.v.end(),
                        [](double a, double b) { return std::abs(a) < std::abs(b); });
  expect_close("y", y.read(), want_y, kEps32,
               bound(s.width) * norm(xs.read()) * size_w * std::abs(most_weight));
  expect_close("dweight", dweight.read(), want.dweight, kEps32,
               bound(s.width + s.out) * norm(xs.read()) * size_w * norm(o.dy));
  expect_close("dx", dx.read(), want.dx, kEps32, bound(s.out) * size_dys * size_w);
  for (int64_t e = 0; e < s.experts; ++e) {
    Mat<double> got(s.out, s.width);
    for (int64_t n = 0; n <= s.out; ++n)
      for (int64_t k = 0; k < s.width + 3; ++k) {
        const float value = dall.ptr<float>()[(e * (s.out + 1) + n) * (s.width + 3) + k];
        if (n < s.out && k < s.width)
          got(n, k) = value - 2.0;
        else
          ASSERT_EQ(value, 0.0f) << "dw was written outside its view";
      }
    expect_close("dw", got, want.dw[static_cast<size_t>(e)], kEps32,
                 bound(rows) * size_dys * norm(xs.read()) +
                     2 * kEps32 * std::sqrt(static_cast<double>(got.size())));
  }
  for (auto* g : {&xs, &ys, &y, &dys, &dweight, &dxs, &dx}) g->expect_guards_intact("output");

  // Accumulating doubles what is there.
  expert_combine(ctx, {.y = y.view(),
                       .rows = ys.view(),
                       .weight = weight.view(),
                       .order = o.order,
                       .accumulate = true});
  for (auto& v : want_y.v) v *= 2;
  expect_close("y +=", y.read(), want_y, 2 * kEps32,
               2 * bound(s.width) * norm(xs.read()) * size_w * std::abs(most_weight));
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Kind, Shape>>& test) {
  const auto& [kind, s] = test.param;
  const char* names[] = {"f32", "widened", "native"};
  return str(names[static_cast<int>(kind)], "_", s.tokens, "x", s.chosen, "_of", s.experts, "_",
             s.width, "to", s.out);
}
INSTANTIATE_TEST_SUITE_P(
    All, Experts,
    ::testing::Combine(::testing::Values(Kind::kF32, Kind::kWidened, Kind::kNative),
                       ::testing::Values(Shape{1, 1, 1, 1, 1}, Shape{5, 2, 4, 7, 3},
                                         Shape{37, 3, 8, 33, 50}, Shape{200, 2, 3, 64, 40},
                                         Shape{90, 4, 16, 149, 130})),
    case_name);

TEST(ExpertSort, IsStableAndCountsEveryExpert) {
  Context ctx(Device::kCpu);
  Tensor index(Device::kCpu, DType::kI32, {4, 2}), offsets(Device::kCpu, DType::kI32, {5});
  Tensor order(Device::kCpu, DType::kI32, {8});
  const int32_t chosen[] = {2, 0, 0, 3, 3, 2, 0, 2};
  std::copy_n(chosen, 8, index.ptr<int32_t>());
  expert_sort(ctx, {.offsets = offsets, .order = order, .index = index});
  EXPECT_EQ(std::vector<int32_t>(offsets.ptr<int32_t>(), offsets.ptr<int32_t>() + 5),
            (std::vector<int32_t>{0, 3, 3, 6, 8}));
  EXPECT_EQ(std::vector<int32_t>(order.ptr<int32_t>(), order.ptr<int32_t>() + 8),
            (std::vector<int32_t>{1, 2, 6, 0, 5, 7, 3, 4}));
  index.ptr<int32_t>()[5] = 4;
  try {
    expert_sort(ctx, {.offsets = offsets, .order = order, .index = index});
    FAIL() << "accepted expert 4 of 4";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("index[2,1] is 4, needs [0, 4)"), std::string::npos)
        << e.what();
  }
}

TEST(ExpertProducts, RepeatBitForBit) {
  const Shape s{150, 3, 7, 130, 70};
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  Rng rng(6);
  Operands o(ctx, s, rng);
  const int64_t rows = o.row_count();
  Guarded xs(Device::kCpu, random_mat(rng, rows, s.width));
  Guarded dys(Device::kCpu, random_mat(rng, rows, s.out));
  Tensor w(Device::kCpu, DType::kF32, {s.experts, s.out, s.width});
  for (int64_t i = 0; i < w.size(); ++i) w.ptr<float>()[i] = static_cast<float>(rng.normal());
  std::vector<std::vector<double>> first;
  for (int run = 0; run < 2; ++run) {
    Guarded ys(Device::kCpu, rows, s.out), dxs(Device::kCpu, rows, s.width);
    Tensor dw(Device::kCpu, DType::kF32, {s.experts, s.out, s.width});
    expert_linear_forward(ctx, {.y = ys.view(), .x = xs.view(), .w = w, .offsets = o.offsets});
    expert_linear_backward(ctx, {.dx = dxs.view(),
                                 .dw = dw,
                                 .dy = dys.view(),
                                 .x = xs.view(),
                                 .w = w,
                                 .offsets = o.offsets});
    const std::vector<std::vector<double>> got = {
        ys.read().v, dxs.read().v,
        std::vector<double>(dw.ptr<float>(), dw.ptr<float>() + dw.size())};
    if (run == 0) first = got;
    EXPECT_EQ(first, got);
  }
}

TEST(ExpertsContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return View(nullptr, dtype, Device::kNull, shape);
  };
  const View w = view(DType::kF32, {4, 6, 5});
  EXPECT_THROW(expert_linear_forward(ctx, {.y = view(DType::kF32, {8, 6}),
                                           .x = view(DType::kF32, {8, 5}),
                                           .w = w,
                                           .offsets = view(DType::kI32, {4})}),
               Error);
  EXPECT_THROW(expert_gather(ctx, {.rows = view(DType::kF32, {7, 5}),
                                   .x = view(DType::kF32, {4, 5}),
                                   .order = view(DType::kI32, {7})}),
               Error);
  expert_linear_forward(ctx, {.y = view(DType::kF32, {8, 6}),
                              .x = view(DType::kF32, {8, 5}),
                              .w = w,
                              .offsets = view(DType::kI32, {5})});
  EXPECT_EQ(ctx.work().at("expert_linear_forward").flops, 2.0 * 8 * 6 * 5);
}

}  // namespace
}  // namespace nestling
