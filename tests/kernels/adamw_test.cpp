#include "kernels/ops/adamw.h"

#include <gtest/gtest.h>

#include "kernels/core/host_view.h"
#include "kernels/core/parallel.h"
#include "kernels/reference/adamw.h"
#include "tests/support/device.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

constexpr AdamWStep kStep{
    .tensors = {}, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .step = 1, .grad_scale = 0.7f};

// One parameter with everything the optimizer holds about it, as dense vectors.
struct Parameter {
  Mat<double> w, m, v, g;
  Guarded gw, gm, gv, gg;
  int64_t low_gap;
  Tensor low;

  // gap: behind each of them, as it takes to align what follows, or not to. odd: of these, and low, is not aligned.
  Parameter(Device device, Rng& rng, int64_t rows, int64_t cols, int64_t gap = 3, int64_t odd = -1)
      : w(random_mat(rng, 1, rows * cols)),
        m(random_mat(rng, 1, rows * cols, 0.1)),
        v(squares(rng, rows * cols)),
        g(random_mat(rng, 1, rows * cols)),
        gw(device, w, gap + (odd == 0)),
        gm(device, m, gap + (odd == 1)),
        gv(device, v, gap + (odd == 2)),
        gg(device, g, gap + (odd == 3)),
        low_gap(gap % 4 == 0 && odd != 4 ? gap : 5),
        low(device, DType::kBF16, {rows, cols + low_gap}) {}
  static Mat<double> squares(Rng& rng, int64_t n) {
    auto v = random_mat(rng, 1, n);
    for (auto& x : v.v) x = static_cast<float>(x * x);
    return v;
  }
  AdamWTensor tensor(bool with_low) {
    const int64_t rows = low.view().dim(0);
    const int64_t cols = low.view().dim(1) - low_gap;
    return {.master = gw.view().reshape({rows, cols}),
            .m = gm.view().reshape({rows, cols}),
            .v = gv.view().reshape({rows, cols}),
            .grad = gg.view().reshape({rows, cols}),
            .low = with_low ? low.view().prefix(1, cols) : View(),
            .lr = 1e-2f,
            .decay = 0.1f};
  }
};

class AdamW : public ::testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(All, AdamW, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

TEST_P(AdamW, MatchesTheReferenceOverManyTensors) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, AdamWStep);
  Rng rng(5);
  std::vector<std::unique_ptr<Parameter>> parameters;
  for (auto [rows, cols, gap, odd] : std::vector<std::array<int64_t, 4>>{{1, 1, 3, -1},
                                                                         {3, 7, 3, -1},
                                                                         {1, 64, 3, -1},
                                                                         {149, 131, 3, -1},
                                                                         {1, 5, 3, -1},
                                                                         {300, 117, 3, -1},
                                                                         {1, 16388, 4, -1},
                                                                         {70, 260, 4, -1},
                                                                         {4, 64, 4, -1},
                                                                         {1, 36, 4, -1},
                                                                         {9, 6, 4, -1},
                                                                         {10, 6, 8, -1},
                                                                         {4, 64, 4, 0},
                                                                         {4, 64, 4, 1},
                                                                         {4, 64, 4, 2},
                                                                         {4, 64, 4, 4},
                                                                         {4, 64, 4, 3}})
    parameters.push_back(std::make_unique<Parameter>(device, rng, rows, cols, gap, odd));
  parameters[3]->g = Mat<double>(1, 149 * 131);  // gradient zero is stepped like any other
  parameters[3]->gg.set(parameters[3]->g);
  std::vector<AdamWTensor> tensors;
  for (auto& p : parameters) tensors.push_back(p->tensor(tensors.size() % 2 == 1));
  Context ctx(device);
  ctx.scratch().set_poison(true);
  auto step = kStep;
  step.tensors = tensors;
  step.step = 17;
  adamw_step(ctx, step);
  ctx.synchronize();

  for (size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = *parameters[i];
    auto w = p.w, m = p.m, v = p.v;
    const reference::AdamWRule rule{step.beta1, step.beta2,      step.eps, tensors[i].lr,
                                    0.1f,       step.grad_scale, step.step};
    reference::adamw_step(w, m, v, p.g, rule);
    // m is two products and a sum that may cancel: four roundings of its terms. v's are positive.
    const double m_error = 4 * kEps32 * (norm(p.m) + norm(p.g));
    expect_close("m", p.gm.read(), m, 0.0, m_error);
    expect_close("v", p.gv.read(), v, 5 * kEps32);
    // The step: m's error and eight more roundings over sqrt(v_hat), times lr; then one of w.
    Mat<double> terms(1, w.size());
    for (int64_t j = 0; j < w.size(); ++j)
      terms[j] =
          tensors[i].lr * ((std::abs(p.m[j]) + std::abs(p.g[j])) / (1 - std::pow(rule.beta1, 17)) /
                               (std::sqrt(v[j] / (1 - std::pow(rule.beta2, 17))) + 1e-8) +
                           0.1 * std::abs(p.w[j]));
    expect_close("w", p.gw.read(), w, kEps32, 12 * kEps32 * norm(terms));
    for (auto* g : {&p.gw, &p.gm, &p.gv, &p.gg}) g->expect_guards_intact("operand");
    const auto got = p.gw.read();
    const Tensor low = on_host(p.low.view().reshape({p.low.size()}));
    const int64_t cols = p.low.view().dim(1);
    for (int64_t r = 0; r < p.low.view().dim(0); ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t written = cols - p.low_gap;
        const bool copied = i % 2 == 1 && c < written;
        const bf16 want = copied ? bf16(static_cast<float>(got[r * written + c])) : bf16(0.0f);
        ASSERT_EQ(low.ptr<bf16>()[r * cols + c].bits, want.bits) << "low " << r << "," << c;
      }
  }
}

// Sharded states step like whole ones: any cut, any thread count, the same bits.
TEST(AdamW, BitsDependOnNeitherCutNorThreads) {
  const int threads = thread_count();
  const int64_t n = 40003;
  const int64_t cuts[] = {0, 37, 16384 + 5, n};
  std::vector<Mat<double>> results;
  for (int run = 0; run < 3; ++run) {
    Rng rng(6);
    Parameter p(Device::kCpu, rng, 1, n);
    set_thread_count(run + 1);
    std::vector<AdamWTensor> tensors;
    const AdamWTensor whole{.master = p.gw.row(),
                            .m = p.gm.row(),
                            .v = p.gv.row(),
                            .grad = p.gg.row(),
                            .lr = 1e-2f,
                            .decay = 0.1f};
    for (int c = 0; c < 3; ++c) {
      AdamWTensor part = whole;
      const int64_t size = cuts[c + 1] - cuts[c];
      for (View* view : {&part.master, &part.m, &part.v}) *view = view->slice(0, cuts[c], size);
      part.grad = part.grad.slice(0, cuts[c], size);
      tensors.push_back(part);
    }
    if (run == 0) tensors = {whole};
    Context ctx(Device::kCpu);
    auto step = kStep;
    step.tensors = tensors;
    for (step.step = 1; step.step <= 3; ++step.step) adamw_step(ctx, step);
    results.push_back(p.gw.read());
  }
  set_thread_count(threads);
  EXPECT_EQ(results[0].v, results[1].v);
  EXPECT_EQ(results[0].v, results[2].v);
}

TEST(AdamW, FirstStepIsTheSignOfTheGradient) {
  // At step 1 m_hat / sqrt(v_hat) = g / |g|: w moves by lr, whatever |g|.
  Rng rng(7);
  Parameter p(Device::kCpu, rng, 1, 33);
  p.gm.fill(0.0f);
  p.gv.fill(0.0f);
  auto tensor = p.tensor(false);
  tensor.decay = 0.0f;
  Context ctx(Device::kCpu);
  auto step = kStep;
  step.tensors = {&tensor, 1};
  adamw_step(ctx, step);
  const auto w = p.gw.read();
  for (int64_t i = 0; i < 33; ++i) {
    const double size = 0.7 * std::abs(p.g[i]);
    // The roundings of |g| / sqrt(g^2), what eps takes off, and the rounding of w.
    EXPECT_NEAR(w[i], p.w[i] - std::copysign(0.01, p.g[i]),
                0.01 * (12 * kEps32 + 1e-8 / size) + 2 * kEps32 * std::abs(p.w[i]) + 1e-9);
  }
}

class Norm : public ::testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(All, Norm, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const auto& test) { return std::string(device_name(test.param)); });

double norm_of(Context& ctx, std::span<const ConstView> grads) {
  Tensor norm(ctx.device(), DType::kF64, {1});
  global_norm(ctx, {.norm = norm, .grads = grads});
  return *on_host(norm).ptr<double>();
}

TEST_P(Norm, IsExactToDoubleAndRepeatsOverThreads) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, SquareSums, NormOfSums);
  const int threads = thread_count();
  Rng rng(8);
  std::vector<Guarded> held;
  double want = 0;
  for (auto [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {70, 149}, {3, 5}, {300, 384}}) {
    const auto m = random_mat(rng, rows, cols, 10.0);
    want += norm(m) * norm(m);
    held.emplace_back(device, m);  // views with gaps
  }
  std::vector<ConstView> grads;
  for (auto& g : held) grads.push_back(g.view());
  Context ctx(device);
  ctx.scratch().set_poison(true);
  const double first = norm_of(ctx, grads);
  // Sums of n positive doubles in any order: at most n roundings, here n < 2^17.
  EXPECT_NEAR(first, std::sqrt(want), std::sqrt(want) * 0x1.0p17 * 0x1.0p-53);
  for (int n : {1, 2, 3}) {
    set_thread_count(n);
    EXPECT_EQ(norm_of(ctx, grads), first);
  }
  set_thread_count(threads);
  EXPECT_EQ(norm_of(ctx, {}), 0.0);
}

// More tensors than any block has threads.
TEST_P(Norm, TakesEveryTensor) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, SquareSums, NormOfSums);
  Rng rng(9);
  const auto m = random_mat(rng, 1100, 1);
  Guarded g(device, m);
  std::vector<ConstView> grads;
  for (int64_t i = 0; i < m.rows; ++i) grads.push_back(g.view().slice(0, i, 1));
  Context ctx(device);
  EXPECT_NEAR(norm_of(ctx, grads), norm(m), norm(m) * 1100 * 0x1.0p-53);
}

// As several ranks make it: each the sums of its own part, cut between blocks.
TEST_P(Norm, IsTheSameWhereTheBlocksAreMadeApart) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, SquareSums, NormOfSums);
  Rng rng(10);
  const int64_t sizes[] = {3 * kNormBlock + 77, 5, 2 * kNormBlock};
  std::vector<Tensor> held;
  std::vector<ConstView> whole, left, right;
  for (const int64_t n : sizes) {
    Tensor host(Device::kCpu, DType::kF32, {n});
    for (int64_t i = 0; i < n; ++i) host.ptr<float>()[i] = static_cast<float>(rng.normal());
    copy(held.emplace_back(device, DType::kF32, std::initializer_list<int64_t>{n}).view(),
         host.view());
  }
  for (const Tensor& t : held) whole.push_back(t.view());
  const int64_t cut = 2 * kNormBlock;
  left = {whole[0].slice(0, 0, cut)};
  right = {whole[0].slice(0, cut, sizes[0] - cut), whole[1], whole[2]};
  ASSERT_EQ(norm_blocks(whole), 7);
  ASSERT_EQ(norm_blocks(left), 2);
  Context ctx(device);
  const double want = norm_of(ctx, whole);
  Tensor sums(device, DType::kF64, {7}), norm(device, DType::kF64, {1});
  square_sums(ctx, {.sums = sums.view().slice(0, 2, 5), .grads = right});
  square_sums(ctx, {.sums = sums.view().slice(0, 0, 2), .grads = left});
  norm_of_sums(ctx, {.norm = norm, .sums = sums});
  EXPECT_EQ(*on_host(norm).ptr<double>(), want);
  EXPECT_GT(want, 0.0);
}

TEST_P(Norm, ShowsWhatIsNotFinite) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, SquareSums, NormOfSums);
  Context ctx(device);
  const auto of = [&](Mat<double> m) {
    Guarded g(device, m);
    const ConstView view = g.row();
    return norm_of(ctx, {&view, 1});
  };
  Mat<double> m(1, 100);
  std::fill(m.v.begin(), m.v.end(), double{1e30f});  // whose square is no float
  EXPECT_NEAR(of(m), double{1e30f} * 10, 1e30 * 1e-14);
  m[97] = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isinf(of(m)));
  m[3] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(of(m)));
}

TEST(AdamWContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View w(nullptr, DType::kF32, Device::kNull, {4, 8});
  const View g(nullptr, DType::kF32, Device::kNull, {4, 7});
  AdamWTensor tensor{.master = w, .m = w, .v = w, .grad = w, .lr = 1.0f, .decay = 0.0f};
  auto step = kStep;
  step.tensors = {&tensor, 1};
  adamw_step(ctx, step);
  EXPECT_EQ(ctx.total_work().bytes, 28 * 32);
  tensor.grad = g;
  EXPECT_THROW(adamw_step(ctx, step), Error);
  tensor.grad = View(nullptr, DType::kF32, Device::kNull, {4, 9}).prefix(1, 8);
  EXPECT_THROW(adamw_step(ctx, step), Error);  // not dense
  tensor.grad = w;
  step.step = 0;
  EXPECT_THROW(adamw_step(ctx, step), Error);
}

}  // namespace
}  // namespace nestling
