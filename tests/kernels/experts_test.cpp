#include "kernels/ops/experts.h"

#include <gtest/gtest.h>
#include <numeric>

#include "kernels/cpu/experts.h"
#include "kernels/reference/experts.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"
#include "tests/support/ints.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

struct Shape {
  int64_t tokens, chosen, experts, width, out;
  int64_t gap = 3;  // behind every row; a multiple of 8 keeps rows aligned
  int odd = -1;     // the one operand whose rows are not: below
  int64_t gap_of(int operand) const { return operand == odd ? 3 : gap; }
};
enum Operand : int { kX, kDy, kXs, kYs, kY, kDys, kDxs, kDx, kW, kDw, kOperands };

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

// On the CPU each way to do bf16 products by name; a CUDA device has one.
struct Way {
  const char* name;
  Device device;
  bool half;
  cpu::Bf16Path path;
};
constexpr Way kWays[] = {{"f32", Device::kCpu, false, cpu::Bf16Path::kWidened},
                         {"widened", Device::kCpu, true, cpu::Bf16Path::kWidened},
                         {"native", Device::kCpu, true, cpu::Bf16Path::kNative},
                         {"cuda_f32", Device::kCuda, false, {}},
                         {"cuda_bf16", Device::kCuda, true, {}}};

std::vector<int32_t> values_of(const Mat<int>& m) {
  return {m.v.begin(), m.v.end()};
}

struct Operands {
  Mat<int> choice;
  GuardedInts offsets, order, index;
  std::vector<Mat<double>> w;  // as the products see them
  Mat<double> x, weight, dy;

  Operands(Context& ctx, const Shape& s, Rng& rng)
      : offsets(ctx.device(), 1, s.experts + 1),
        order(ctx.device(), 1, s.tokens * s.chosen),
        index(ctx.device(), s.tokens, s.chosen),
        w(random_experts(rng, s)),
        x(random_mat(rng, s.tokens, s.width)),
        weight(random_mat(rng, s.tokens, s.chosen)),
        dy(random_mat(rng, s.tokens, s.out)) {
    choice = choices(rng, s);
    index.set(values_of(choice));
    expert_sort(ctx, {.offsets = offsets.row(), .order = order.row(), .index = index.view()});
  }
  int64_t row_count() const { return choice.size(); }
};

// The experts in one matrix [E, N+1, K+gap], as when N and K are sliced: views of [E, N, K].
class ExpertMatrix {
 public:
  ExpertMatrix(Device device, DType dtype, const Shape& s, int64_t gap)
      : shape_(s),
        gap_(gap),
        host_(Device::kCpu, dtype, {s.experts, s.out + 1, s.width + gap}),
        device_(device, dtype, {s.experts, s.out + 1, s.width + gap}) {}
  // Rounds w to what is stored.
  void set(std::vector<Mat<double>>& w) {
    for (int64_t e = 0; e < shape_.experts; ++e)
      for (int64_t n = 0; n < shape_.out; ++n)
        for (int64_t k = 0; k < shape_.width; ++k) {
          double& value = w[static_cast<size_t>(e)](n, k);
          if (host_.view().dtype() == DType::kBF16) {
            host_.ptr<bf16>()[at(e, n, k)] = bf16(static_cast<float>(value));
            value = static_cast<float>(host_.ptr<bf16>()[at(e, n, k)]);
          } else {
            host_.ptr<float>()[at(e, n, k)] = static_cast<float>(value);
          }
        }
    copy(device_, host_.view());
  }
  View view() { return device_.view().prefix(1, shape_.out).prefix(2, shape_.width); }
  // One f32 expert; what surrounds it must still be zero.
  Mat<double> read(int64_t e) {
    copy(host_, device_.view());
    Mat<double> m(shape_.out, shape_.width);
    for (int64_t n = 0; n <= shape_.out; ++n)
      for (int64_t k = 0; k < shape_.width + gap_; ++k) {
        const float value = host_.ptr<float>()[at(e, n, k)];
        if (n < shape_.out && k < shape_.width)
          m(n, k) = value;
        else
          EXPECT_EQ(value, 0.0f) << "written outside its view";
      }
    return m;
  }

 private:
  int64_t at(int64_t e, int64_t n, int64_t k) const {
    return (e * (shape_.out + 1) + n) * (shape_.width + gap_) + k;
  }
  Shape shape_;
  int64_t gap_;
  Tensor host_, device_;
};

void forward(Context& ctx, const ExpertLinearForward& a, const Way& way) {
  if (way.device == Device::kCpu) return cpu::expert_linear_forward(ctx, a, way.path);
  expert_linear_forward(ctx, a);
}
void backward(Context& ctx, const ExpertLinearBackward& a, const Way& way) {
  if (way.device == Device::kCpu) return cpu::expert_linear_backward(ctx, a, way.path);
  expert_linear_backward(ctx, a);
}

class ExpertsOn : public ::testing::TestWithParam<Device> {};
class Experts : public ::testing::TestWithParam<std::tuple<Way, Shape>> {};

// The whole way there and back: gather, product, combine, and their gradients.
TEST_P(Experts, MatchTheReference) {
  const auto [way, s] = GetParam();
  const bool native = way.half && way.path == cpu::Bf16Path::kNative;
  if (way.device == Device::kCpu && native && cpu_isa() < CpuIsa::kAvx512)
    GTEST_SKIP() << "oneDNN has no bf16 below AVX-512";
  const Device device = way.device;
  const bool half = way.half;
  NESTLING_SKIP_WITHOUT(device, ExpertSort, ExpertGather, ExpertCombine, ExpertCombineBackward,
                        ExpertGatherBackward, ExpertLinearForward, ExpertLinearBackward);
  Rng rng(5, static_cast<uint64_t>(s.width));
  Context ctx(device);
  ctx.scratch().set_poison(true);
  Operands o(ctx, s, rng);
  const int64_t rows = o.row_count();
  ExpertMatrix w(device, half ? DType::kBF16 : DType::kF32, s, s.gap_of(kW));
  ExpertMatrix dw(device, DType::kF32, s, s.gap_of(kDw));
  w.set(o.w);
  std::vector<Mat<double>> twos(static_cast<size_t>(s.experts), Mat<double>(s.out, s.width));
  for (auto& m : twos) std::fill(m.v.begin(), m.v.end(), 2.0);
  dw.set(twos);

  const View order = o.order.row();
  const View offsets = o.offsets.row();
  Guarded x(device, o.x, s.gap_of(kX)), weight(device, o.weight), dy(device, o.dy, s.gap_of(kDy));
  Guarded xs(device, rows, s.width, s.gap_of(kXs)), ys(device, rows, s.out, s.gap_of(kYs));
  Guarded y(device, s.tokens, s.out, s.gap_of(kY)), dys(device, rows, s.out, s.gap_of(kDys));
  Guarded dweight(device, s.tokens, s.chosen), dxs(device, rows, s.width, s.gap_of(kDxs));
  Guarded dx(device, s.tokens, s.width, s.gap_of(kDx));
  expert_gather(ctx, {.rows = xs.view(), .x = x.view(), .order = order});
  forward(ctx, {.y = ys.view(), .x = xs.view(), .w = w.view(), .offsets = offsets}, way);
  expert_combine(ctx, {.y = y.view(), .rows = ys.view(), .weight = weight.view(), .order = order});
  expert_combine_backward(ctx, {.drows = dys.view(),
                                .dweight = dweight.view(),
                                .dy = dy.view(),
                                .rows = ys.view(),
                                .weight = weight.view(),
                                .order = order});
  backward(ctx,
           {.dx = dxs.view(),
            .dw = dw.view(),
            .dy = dys.view(),
            .x = xs.view(),
            .w = w.view(),
            .offsets = offsets},
           way);
  expert_gather_backward(ctx, {.dx = dx.view(), .drows = dxs.view(), .order = order});
  // The same sums in the same order, whether 16 bytes are read at a time or not.
  Guarded in_place(device, ys.read(), std::min(s.gap_of(kYs), s.gap_of(kDys)));
  Guarded dweight_again(device, s.tokens, s.chosen);
  expert_combine_backward(ctx, {.drows = in_place.view(),
                                .dweight = dweight_again.view(),
                                .dy = dy.view(),
                                .rows = in_place.view(),
                                .weight = weight.view(),
                                .order = order});
  ctx.synchronize();
  EXPECT_EQ(in_place.read().v, dys.read().v);
  EXPECT_EQ(dweight_again.read().v, dweight.read().v);

  auto want_y = reference::experts_forward(o.x, o.w, o.choice, o.weight);
  const auto want = reference::experts_backward(o.x, o.w, o.choice, o.weight, o.dy);
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
  const double dw_bound = bound(rows) * size_dys * norm(xs.read());
  for (int64_t e = 0; e < s.experts; ++e) {
    auto got = dw.read(e);
    for (double& v : got.v) v -= 2.0;
    expect_close("dw", got, want.dw[static_cast<size_t>(e)], kEps32,
                 dw_bound + 2 * kEps32 * std::sqrt(static_cast<double>(got.size())));
  }
  // Told to overwrite, it forgets what it held, of an expert without rows too.
  for (auto& m : twos) std::fill(m.v.begin(), m.v.end(), NAN);
  dw.set(twos);
  backward(ctx,
           {.dx = dxs.view(),
            .dw = dw.view(),
            .dy = dys.view(),
            .x = xs.view(),
            .w = w.view(),
            .offsets = offsets,
            .accumulate_dw = false},
           way);
  ctx.synchronize();
  for (int64_t e = 0; e < s.experts; ++e)
    expect_close("dw =", dw.read(e), want.dw[static_cast<size_t>(e)], kEps32, dw_bound);
  for (auto* g : {&xs, &ys, &y, &dys, &dweight, &dxs, &dx}) g->expect_guards_intact("output");
  o.order.expect_guards_intact("order");
  o.offsets.expect_guards_intact("offsets");

  // Accumulating doubles what is there.
  expert_combine(ctx, {.y = y.view(),
                       .rows = ys.view(),
                       .weight = weight.view(),
                       .order = order,
                       .accumulate = true});
  ctx.synchronize();
  for (auto& v : want_y.v) v *= 2;
  expect_close("y +=", y.read(), want_y, 2 * kEps32,
               2 * bound(s.width) * norm(xs.read()) * size_w * std::abs(most_weight));
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Way, Shape>>& test) {
  const auto& [way, s] = test.param;
  return str(way.name, "_", s.tokens, "x", s.chosen, "_of", s.experts, "_", s.width, "to", s.out,
             s.odd < 0 ? "" : str("_odd", s.odd));
}
// With few rows an expert and with many, in rows that start anywhere and in aligned ones; one with several tiles of
// 128 in every extent, three of as many tiles as their rows can make, of these one of more experts than two warps have
// lanes.
INSTANTIATE_TEST_SUITE_P(
    All, Experts,
    ::testing::Combine(::testing::ValuesIn(kWays),
                       ::testing::Values(Shape{1, 1, 1, 1, 1}, Shape{5, 2, 4, 7, 3},
                                         Shape{37, 3, 8, 33, 50}, Shape{9, 2, 6, 72, 136, 8},
                                         Shape{200, 2, 3, 64, 40, 8}, Shape{90, 4, 16, 149, 130},
                                         Shape{90, 3, 4, 40, 136, 8}, Shape{330, 2, 3, 264, 200, 8},
                                         Shape{20, 7, 9, 40, 396, 8}, Shape{9, 4, 6, 776, 390, 8},
                                         Shape{6, 35, 40, 8, 12, 8}, Shape{20, 2, 2, 40, 24, 8},
                                         Shape{20, 2, 2, 24, 10}, Shape{1, 100, 100, 8, 12})),
    case_name);
// All rows aligned but those of one operand: who reads 16 bytes at a time asks for all that it touches.
std::vector<Shape> odd_shapes() {
  std::vector<Shape> all;
  for (int odd = 0; odd < kOperands; ++odd) all.push_back({60, 2, 3, 40, 24, 8, odd});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Odd, Experts,
                         ::testing::Combine(::testing::ValuesIn(kWays),
                                            ::testing::ValuesIn(odd_shapes())),
                         case_name);

// The contract in the plainest words, on more pairs than a block of any device takes at once.
TEST_P(ExpertsOn, SortIsAStableSort) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, ExpertSort);
  Rng rng(8);
  for (const auto& [tokens, k, experts] : std::vector<std::array<int64_t, 3>>{
           {0, 2, 5}, {1, 1, 1}, {3, 2, 4}, {900, 5, 130}, {700, 6, 512}, {2100, 1, 2}}) {
    Context ctx(device);
    ctx.scratch().set_poison(true);
    std::vector<int32_t> chosen, want_order, want_offsets(static_cast<size_t>(experts) + 1);
    for (int64_t i = 0; i < tokens * k; ++i) {
      // Half of all pairs to one expert.
      const auto e = rng.below(2) == 0 ? experts / 2 : static_cast<int64_t>(rng.below(experts));
      chosen.push_back(static_cast<int32_t>(e));
      want_order.push_back(static_cast<int32_t>(i));
      ++want_offsets[static_cast<size_t>(e) + 1];
    }
    std::stable_sort(want_order.begin(), want_order.end(), [&](int32_t a, int32_t b) {
      return chosen[static_cast<size_t>(a)] < chosen[static_cast<size_t>(b)];
    });
    std::partial_sum(want_offsets.begin(), want_offsets.end(), want_offsets.begin());
    GuardedInts index(device, tokens, k), offsets(device, 1, experts + 1);
    GuardedInts order(device, 1, tokens * k);
    index.set(chosen);
    expert_sort(ctx, {.offsets = offsets.row(), .order = order.row(), .index = index.view()});
    ctx.synchronize();
    EXPECT_EQ(offsets.read(), want_offsets) << experts << " experts";
    EXPECT_EQ(order.read(), want_order) << experts << " experts";
    offsets.expect_guards_intact("offsets");
    order.expect_guards_intact("order");
  }
}

TEST_P(ExpertsOn, SortIsStableAndCountsEveryExpert) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, ExpertSort);
  Context ctx(device);
  GuardedInts index(device, 4, 2), offsets(device, 1, 5), order(device, 1, 8);
  const ExpertSort sort{.offsets = offsets.row(), .order = order.row(), .index = index.view()};
  index.set({2, 0, 0, 3, 3, 2, 0, 2});
  expert_sort(ctx, sort);
  ctx.synchronize();
  EXPECT_EQ(offsets.read(), (std::vector<int32_t>{0, 3, 3, 6, 8}));
  EXPECT_EQ(order.read(), (std::vector<int32_t>{1, 2, 6, 0, 5, 7, 3, 4}));
  for (const int32_t outside : {4, -1}) {
    index.set({2, 0, 0, 3, 3, outside, 0, 2});
    try {
      expert_sort(ctx, sort);
      ctx.synchronize();
      FAIL() << "accepted expert " << outside << " of 4";
    } catch (const Error& e) {
      const std::string want = device == Device::kCpu ? str("index[2,1] is ", outside) : "token 2";
      EXPECT_NE(std::string(e.what()).find(want), std::string::npos) << e.what();
    }
  }
}

TEST_P(ExpertsOn, ProductsRepeatBitForBit) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, ExpertSort, ExpertLinearForward, ExpertLinearBackward);
  const Shape s{100, 3, 7, 130, 70};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Context ctx(device);
    ctx.scratch().set_poison(true);
    Rng rng(6);
    Operands o(ctx, s, rng);
    const int64_t rows = o.row_count();
    Guarded xs(device, random_mat(rng, rows, s.width)), dys(device, random_mat(rng, rows, s.out));
    ExpertMatrix w(device, dtype, s, s.gap);
    w.set(o.w);
    std::vector<std::vector<double>> first;
    for (int run = 0; run < 2; ++run) {
      Guarded ys(device, rows, s.out), dxs(device, rows, s.width);
      ExpertMatrix dw(device, DType::kF32, s, s.gap);
      expert_linear_forward(
          ctx, {.y = ys.view(), .x = xs.view(), .w = w.view(), .offsets = o.offsets.row()});
      expert_linear_backward(ctx, {.dx = dxs.view(),
                                   .dw = dw.view(),
                                   .dy = dys.view(),
                                   .x = xs.view(),
                                   .w = w.view(),
                                   .offsets = o.offsets.row()});
      ctx.synchronize();
      std::vector<std::vector<double>> got = {ys.read().v, dxs.read().v};
      for (int64_t e = 0; e < s.experts; ++e) got.push_back(dw.read(e).v);
      if (run == 0) first = got;
      EXPECT_EQ(first, got);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpertsOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

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
