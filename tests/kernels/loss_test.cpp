#include "kernels/ops/loss.h"

#include <gtest/gtest.h>

#include "kernels/core/parallel.h"
#include "kernels/cuda/memory.h"
#include "kernels/ops/linear.h"
#include "kernels/reference/loss.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/ints.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;
using reference::LossRule;

struct Case {
  int64_t tokens, vocabulary, width, teacher_width;  // teacher_width 0: no teacher
  LossRule rule;
  int64_t chunk;
};

// Operands of a case, and the tokens' targets: every fifth ignored, every fourth out of the kl.
struct Problem {
  Mat<double> x, w, teacher_x, teacher_w;
  std::vector<int32_t> targets, counts;

  explicit Problem(const Case& c) {
    Rng rng(21, static_cast<uint64_t>(c.vocabulary));
    x = random_mat(rng, c.tokens, c.width);
    w = random_mat(rng, c.vocabulary, c.width, 0.5);
    if (c.teacher_width > 0) {
      teacher_x = random_mat(rng, c.tokens, c.teacher_width);
      teacher_w = random_mat(rng, c.vocabulary, c.teacher_width, 0.5);
    }
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(c.vocabulary)));
      targets.push_back(t % 5 == 4 ? -1 : id);
      counts.push_back(t % 4 != 3);
    }
  }
  template <class T>
  reference::Loss<T> loss(const Mat<T>& xt, const Mat<T>& wt, const LossRule& rule) const {
    return reference::loss_rows(
        reference::head_logits(xt, wt),
        reference::head_logits(reference::cast<T>(teacher_x), reference::cast<T>(teacher_w)),
        targets, counts, rule);
  }
};

TEST(LossReference, BackwardIsTheComplexStepDerivative) {
  const Case c{7, 6, 3, 4, {0.7, 1.3, 1.7, 0.6, 0.9}, 7};
  const Problem p(c);
  const auto dy = p.loss(p.x, p.w, c.rule).dlogits;
  expect_gradient("dx", reference::head_dx(dy, p.w),
                  complex_step_gradient(p.x, [&](const Mat<Complex>& z) {
                    return p.loss(z, reference::cast<Complex>(p.w), c.rule).total;
                  }));
  expect_gradient("dw", reference::head_dw(dy, p.x),
                  complex_step_gradient(p.w, [&](const Mat<Complex>& z) {
                    return p.loss(reference::cast<Complex>(p.x), z, c.rule).total;
                  }));
}

double largest_row(const Mat<double>& m) {
  double largest = 0;
  for (int64_t r = 0; r < m.rows; ++r) {
    double s = 0;
    for (int64_t c = 0; c < m.cols; ++c) s += m(r, c) * m(r, c);
    largest = std::max(largest, std::sqrt(s));
  }
  return largest;
}

// How far a logit may be off: a dot product of D terms, then the scale and the maximum's
// subtraction, which are relative to it too.
double logit_error(const Mat<double>& x, const Mat<double>& w, double scale) {
  const double size = largest_row(x) * largest_row(w) * scale;
  return (std::sqrt(static_cast<double>(x.cols)) + 4) * kEps32 * size;
}

struct Outputs {
  Mat<double> nll, kl, dx, dw;
  std::vector<int32_t> correct;
  int64_t scratch;
};

Outputs run_loss(Device device, const Case& c, const Problem& p, bool accumulate = true) {
  Context ctx(device);
  ctx.scratch().set_poison(true);
  const bool teach = c.teacher_width > 0;
  const Mat<double> none(1, 1);
  Guarded x(device, p.x), w(device, p.w), tx(device, teach ? p.teacher_x : none);
  Guarded tw(device, teach ? p.teacher_w : none), nll(device, 1, c.tokens);
  Guarded kl(device, 1, c.tokens), dx(device, c.tokens, c.width);
  Guarded dw(device, c.vocabulary, c.width);
  GuardedInts targets(device, p.targets), counts(device, p.counts), correct(device, 1, c.tokens);
  dw.fill(accumulate ? 2.0f : NAN);
  head_loss(ctx, {.nll = nll.row(),
                  .kl = teach ? kl.row() : View(),
                  .correct = correct.row(),
                  .dx = dx.view(),
                  .dw = dw.view(),
                  .x = x.view(),
                  .w = w.view(),
                  .targets = targets.row(),
                  .kl_tokens = counts.row(),
                  .teacher_x = teach ? tx.view() : View(),
                  .teacher_w = teach ? tw.view() : View(),
                  .ce_weight = static_cast<float>(c.rule.ce_weight),
                  .kl_weight = static_cast<float>(c.rule.kl_weight),
                  .temperature = static_cast<float>(c.rule.temperature),
                  .logit_scale = static_cast<float>(c.rule.logit_scale),
                  .teacher_logit_scale = static_cast<float>(c.rule.teacher_logit_scale),
                  .chunk = c.chunk,
                  .accumulate_dw = accumulate});
  ctx.synchronize();
  for (auto* g : {&nll, &kl, &dx, &dw}) g->expect_guards_intact("output");
  correct.expect_guards_intact("correct");
  return {nll.read(), teach ? kl.read() : none, dx.read(),
          dw.read(),  correct.read(),           ctx.scratch().peak_bytes()};
}

class Loss : public ::testing::TestWithParam<std::tuple<Device, Case>> {};

// What is tested beside these cases, on both devices.
class LossRowsOn : public ::testing::TestWithParam<Device> {};
class HeadLossOn : public ::testing::TestWithParam<Device> {};
std::string device_case(const ::testing::TestParamInfo<Device>& test) {
  return device_name(test.param);
}
INSTANTIATE_TEST_SUITE_P(All, LossRowsOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         device_case);
INSTANTIATE_TEST_SUITE_P(All, HeadLossOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         device_case);

TEST_P(Loss, MatchesTheReference) {
  const auto [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward, LossRows);
  const Problem p(c);
  const Outputs got = run_loss(device, c, p);
  const auto want = p.loss(p.x, p.w, c.rule);

  const double tokens = static_cast<double>(c.tokens);
  const double student = logit_error(p.x, p.w, c.rule.logit_scale);
  const double teacher =
      c.teacher_width > 0 ? logit_error(p.teacher_x, p.teacher_w, c.rule.teacher_logit_scale) : 0.0;
  // nll moves by at most twice the largest logit error (itself and the log of the sum), and by the
  // exponential's 2e-7; its own rounding on top.
  const double nll_error = 2 * student + 4e-7;
  expect_close("nll", got.nll, want.nll, 2 * kEps32, nll_error * std::sqrt(tokens));
  if (c.teacher_width > 0) {
    // kl = sum p (log p - log q): errors of the logarithms, and of p times log p - log q, whose
    // mean absolute value is at most kl + 2 / e.
    double worst = 0;
    for (double kl : want.kl.v) worst = std::max(worst, kl);
    const double error = (2 * (student + teacher) / c.rule.temperature + 1e-6) * (worst + 2);
    expect_close("kl", got.kl, want.kl, 2 * kEps32, error * std::sqrt(tokens));
  }
  // A probability is off by twice the logits' error and the exponential's, relatively; a row of
  // probabilities has norm 1 at most. Then the products, sums of V (or T) terms.
  const double weights =
      (std::abs(c.rule.ce_weight) + 2 * std::abs(c.rule.kl_weight) / c.rule.temperature) *
      c.rule.logit_scale * std::sqrt(tokens);
  const double dy_error = (2 * (student + teacher) + 1e-6) * weights;
  const auto product_error = [&](const Mat<double>& other, int64_t terms) {
    return (dy_error + (2 + std::sqrt(static_cast<double>(terms))) * kEps32 * norm(want.dlogits)) *
           norm(other);
  };
  expect_close("dx", got.dx, reference::head_dx(want.dlogits, p.w), 0.0,
               product_error(p.w, c.vocabulary));
  auto dw = reference::head_dw(want.dlogits, p.x);
  expect_close("dw =", run_loss(device, c, p, false).dw, dw, 2 * kEps32,
               product_error(p.x, c.tokens));
  for (auto& v : dw.v) v += 2.0;
  expect_close("dw", got.dw, dw, 2 * kEps32, product_error(p.x, c.tokens));
  const auto logits = reference::head_logits(p.x, p.w);
  for (int64_t t = 0; t < c.tokens; ++t) {
    const auto* row = &logits.v[static_cast<size_t>(t * c.vocabulary)];
    const auto best = std::max_element(row, row + c.vocabulary) - row;
    const auto at = static_cast<size_t>(t);
    EXPECT_EQ(got.correct[at], p.targets[at] == best ? 1 : 0) << t;
    if (p.targets[at] < 0) {
      EXPECT_EQ(got.nll[t], 0.0);
    }
    if (c.teacher_width > 0 && p.counts[at] == 0) {
      EXPECT_EQ(got.kl[t], 0.0);
    }
  }
}

TEST_P(Loss, RepeatsBitForBit) {
  const auto [device, c] = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward, LossRows);
  const Problem p(c);
  const Outputs first = run_loss(device, c, p);
  const Outputs second = run_loss(device, c, p);
  EXPECT_EQ(first.nll.v, second.nll.v);
  EXPECT_EQ(first.kl.v, second.kl.v);
  EXPECT_EQ(first.dx.v, second.dx.v);
  EXPECT_EQ(first.dw.v, second.dw.v);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Case>>& test) {
  const auto& [device, c] = test.param;
  return str(device_name(device), "_", c.tokens, "x", c.vocabulary, "x", c.width, "_teacher",
             c.teacher_width, "_chunk", c.chunk, "_ce", c.rule.ce_weight != 0, "_kl",
             c.rule.kl_weight != 0);
}

// The same problem in chunks of 1, 7, 64 and all at once: each within the bounds.
INSTANTIATE_TEST_SUITE_P(
    All, Loss,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                       ::testing::Values(Case{1, 1, 1, 1, {1, 1, 1, 1, 1}, 256},
                                         Case{6, 7, 5, 3, {0.5, 2, 1, 1, 1}, 4},
                                         Case{33, 149, 24, 0, {0.25, 0, 1, 0.75, 1}, 16},
                                         Case{70, 1100, 24, 40, {0, 0.5, 2, 1, 1}, 1},
                                         Case{70, 1100, 24, 40, {0.5, 0.5, 2, 0.5, 0.75}, 7},
                                         Case{70, 1100, 24, 40, {0.5, 0.5, 1, 0.5, 0.75}, 64},
                                         Case{70, 2500, 24, 40, {0.5, 0.5, 1, 0.5, 0.75}, 256})),
    case_name);

// Rows of exact f32 logits: what softmax and sums alone lose.
struct Rows {
  Mat<double> logits, teacher;
  std::vector<int32_t> targets;
  LossRule rule{0.5, 2.0, 1.0, 1.0, 1.0};
  int64_t gap = 3, teacher_gap = 3;  // behind every row
};
struct RowsOut {
  Mat<double> nll, kl, dlogits;
  std::vector<int32_t> correct;
};
RowsOut run_rows(Device device, const Rows& r) {
  Context ctx(device);
  const int64_t n = r.logits.rows;
  Guarded logits(device, r.logits, r.gap), teacher(device, r.teacher, r.teacher_gap);
  Guarded nll(device, 1, n), kl(device, 1, n);
  GuardedInts targets(device, r.targets), correct(device, 1, n);
  const LossRows rows{.logits = logits.view(),
                      .teacher = teacher.view(),
                      .targets = targets.row(),
                      .nll = nll.row(),
                      .kl = kl.row(),
                      .correct = correct.row(),
                      .ce_weight = static_cast<float>(r.rule.ce_weight),
                      .kl_weight = static_cast<float>(r.rule.kl_weight),
                      .temperature = static_cast<float>(r.rule.temperature),
                      .logit_scale = static_cast<float>(r.rule.logit_scale),
                      .teacher_logit_scale = static_cast<float>(r.rule.teacher_logit_scale),
                      .gradient = true};
  device == Device::kCuda ? cuda::run(ctx, rows) : cpu::run(ctx, rows);
  ctx.synchronize();
  return {nll.read(), kl.read(), logits.read(), correct.read()};
}

// d = log p - log q is off by e = 4 roundings of a logarithm (below 16 here); kl = sum p f(d) with
// f(0) = f'(0) = 0, |f'(d)| <= e |d| for |d| <= 1: off by 2.72 e sqrt(sum p d^2) ~ 2.72 e sqrt(2 kl),
// plus the exponential's 2e-7 and the polynomial's roundings, relatively.
TEST_P(LossRowsOn, ASmallDivergenceKeepsItsDigits) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  Rng rng(31);
  struct {
    double distance;
    int64_t gap, teacher_gap;  // with 4, rows of whole packs of four
  } const cases[] = {{0.3, 3, 3}, {1e-2, 4, 4}, {1e-3, 4, 3}, {1e-3, 3, 4}};
  for (const auto& [distance, gap, teacher_gap] : cases) {
    Rows r;
    r.gap = gap;
    r.teacher_gap = teacher_gap;
    r.teacher = random_mat(rng, 5, 5000, 2.0);
    r.logits = r.teacher;
    for (auto& x : r.logits.v) x = static_cast<float>(x + distance * rng.normal());
    r.targets = {1, 2, 3, 4, -1};
    const auto got = run_rows(device, r);
    const auto want = reference::loss_rows(r.logits, r.teacher, r.targets, {1, 1, 1, 1, 1}, r.rule);
    for (int64_t t = 0; t < 5; ++t) {
      const double error = 4 * 16 * kEps32;
      EXPECT_NEAR(got.kl[t], want.kl[t],
                  2.72 * error * std::sqrt(2 * want.kl[t]) + 1e-6 * want.kl[t])
          << "distance " << distance;
      EXPECT_GT(got.kl[t], 0.0);
    }
  }
}

TEST_P(LossRowsOn, EqualLogitsDivergeByExactlyNothing) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  Rng rng(32);
  Rows r;
  r.logits = r.teacher = random_mat(rng, 3, 149, 4.0);
  r.targets = {-1, -1, -1};
  for (double temperature : {1.0, 3.0}) {
    r.rule.temperature = temperature;
    const auto got = run_rows(device, r);
    for (double v : got.kl.v) EXPECT_EQ(v, 0.0);
    for (double v : got.dlogits.v) EXPECT_EQ(v, 0.0);
  }
}

TEST_P(LossRowsOn, SurvivesExtremeLogits) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  Rows r;
  r.logits = r.teacher = Mat<double>(3, 40);
  for (int64_t v = 0; v < 40; ++v) {
    r.logits(0, v) = v == 7 ? 1e4 : -1e4;  // sure of 7, and right
    r.logits(1, v) = v == 7 ? 1e4 : -1e4;  // sure, and wrong
    r.logits(2, v) = -3e4;                 // no idea
    r.teacher(0, v) = v == 7 ? 1e4 : -1e4;
    r.teacher(1, v) = v == 9 ? 2e4 : -HUGE_VAL;
    r.teacher(2, v) = v == 9 ? 0.0 : -HUGE_VAL;
  }
  r.targets = {7, 9, 0};
  const auto got = run_rows(device, r);
  const double want_nll[] = {0.0, 2e4, std::log(40.0)};
  const double want_kl[] = {0.0, 2e4, std::log(40.0)};
  for (int64_t t = 0; t < 3; ++t) {
    EXPECT_NEAR(got.nll[t], want_nll[t], 4e-7 + 2 * kEps32 * want_nll[t]);
    EXPECT_NEAR(got.kl[t], want_kl[t], 1e-6 + 4 * kEps32 * want_kl[t]);
    for (int64_t v = 0; v < 40; ++v) EXPECT_TRUE(std::isfinite(got.dlogits(t, v)));
  }
  EXPECT_NEAR(got.dlogits(1, 9), -0.5 - 2.0, 1e-6);
  EXPECT_NEAR(got.dlogits(1, 7), 0.5 + 2.0, 1e-6);
}

TEST_P(LossRowsOn, NaNShowsInTheLoss) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  Rows r;
  r.logits = r.teacher = Mat<double>(2, 40);
  r.logits(0, 33) = std::nan("");
  r.teacher(1, 2) = std::nan("");
  r.targets = {1, 1};
  const auto got = run_rows(device, r);
  EXPECT_TRUE(std::isnan(got.nll[0]));
  EXPECT_TRUE(std::isnan(got.kl[0]));
  EXPECT_FALSE(std::isnan(got.nll[1]));
  EXPECT_TRUE(std::isnan(got.kl[1]));
}

// Rows of logits at the pitch that head_loss gives them; what they hold afterwards.
Tensor rows_after(Device device, const Mat<double>& logits, const Mat<double>& teacher, bool half) {
  const int64_t rows = logits.rows;
  const int64_t width = logits.cols;
  const auto padded = [&](const Mat<double>& m) {
    Tensor host(Device::kCpu, DType::kF32, {rows, (width + 15) / 16 * 16});
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t c = 0; c < width; ++c)
        host.ptr<float>()[t * host.view().pitch() + c] = static_cast<float>(m(t, c));
    Tensor tensor(device, DType::kF32, {rows, host.view().pitch()});
    copy(tensor.view(), host.view());
    return tensor;
  };
  Tensor x = padded(logits);
  Tensor other = padded(teacher);
  const std::vector<int32_t> goals(static_cast<size_t>(rows), static_cast<int32_t>(width) - 1);
  GuardedInts targets(device, goals);
  Context ctx(device);
  const LossRows r{.logits = x.view().prefix(1, width),
                   .teacher = other.view().prefix(1, width),
                   .targets = targets.row(),
                   .ce_weight = 0.5f,
                   .kl_weight = 2.0f,
                   .temperature = 1.0f,
                   .logit_scale = 1.0f,
                   .teacher_logit_scale = 1.0f,
                   .gradient = true,
                   .half = half};
  device == Device::kCuda ? cuda::run(ctx, r) : cpu::run(ctx, r);
  ctx.synchronize();
  Tensor host(Device::kCpu, DType::kF32, {rows, x.view().pitch()});
  copy(host.view(), x.view());
  return host;
}

// Widths on either side of a run of four, of what a block reads at once (2,048), and of where the
// bf16 row ends inside the f32 one.
TEST_P(LossRowsOn, ABf16GradientIsTheOtherRounded) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  Rng rng(33);
  if (device == Device::kCpu) {  // which keeps activations in f32
    const auto row = random_mat(rng, 1, 8, 2.0);
    EXPECT_THROW(rows_after(device, row, row, true), Error);
    return;
  }
  for (const int64_t width : {1, 2, 3, 4, 5, 7, 8, 1030, 2047, 2048, 2051, 6145}) {
    const auto logits = random_mat(rng, 3, width, 2.0);
    const auto teacher = random_mat(rng, 3, width, 2.0);
    const Tensor plain = rows_after(device, logits, teacher, false);
    const Tensor half = rows_after(device, logits, teacher, true);
    const int64_t pitch = plain.view().pitch();
    for (int64_t t = 0; t < 3; ++t) {
      const float* want = plain.ptr<float>() + t * pitch;
      const auto* got = reinterpret_cast<const bf16*>(half.ptr<float>() + t * pitch);
      for (int64_t c = 0; c < width; ++c)
        ASSERT_EQ(got[c].bits, bf16(want[c]).bits) << width << ", row " << t << ", column " << c;
    }
  }
}

// bf16 weights: x is rounded to bf16, and so are the logits' gradients before the last products.
TEST_P(HeadLossOn, Bf16WeightsFollowTheRulesOfLinear) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward, LossRows);
  const Case c{40, 300, 32, 0, {1.0, 0, 1, 1, 1}, 16};
  Problem p(c);
  const auto round = [](Mat<double>& m) {
    for (auto& v : m.v) v = static_cast<float>(bf16(static_cast<float>(v)));
  };
  round(p.x);
  round(p.w);
  Tensor host_w(Device::kCpu, DType::kBF16, {c.vocabulary, c.width});
  for (int64_t i = 0; i < host_w.size(); ++i)
    host_w.ptr<bf16>()[i] = bf16(static_cast<float>(p.w[i]));
  Tensor w(device, DType::kBF16, {c.vocabulary, c.width});
  copy(w.view(), host_w.view());
  Guarded x(device, p.x), nll(device, 1, c.tokens), dx(device, c.tokens, c.width);
  Guarded dw(device, c.vocabulary, c.width);
  GuardedInts targets(device, p.targets);
  dw.fill(0.0f);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  head_loss(ctx, {.nll = nll.row(),
                  .dx = dx.view(),
                  .dw = dw.view(),
                  .x = x.view(),
                  .w = w,
                  .targets = targets.row(),
                  .ce_weight = 1.0f,
                  .chunk = c.chunk});
  ctx.synchronize();
  const auto want = p.loss(p.x, p.w, c.rule);
  const double student = logit_error(p.x, p.w, 1.0);
  const double root = std::sqrt(static_cast<double>(c.tokens));
  expect_close("nll", nll.read(), want.nll, 2 * kEps32, (2 * student + 4e-7) * root);
  // Rounding to bf16 is 2^-9 of each gradient.
  const double dy = 0x1.0p-9 * norm(want.dlogits) + (2 * student + 1e-6) * root;
  const double sums = 20 * kEps32 * norm(want.dlogits);
  expect_close("dx", dx.read(), reference::head_dx(want.dlogits, p.w), 0.0,
               (dy + sums) * norm(p.w));
  expect_close("dw", dw.read(), reference::head_dw(want.dlogits, p.x), 0.0,
               (dy + sums) * norm(p.x));
}

TEST_P(HeadLossOn, ScratchIsTheChunkNotTheBatch) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward, LossRows);
  const Case small{64, 2000, 8, 8, {0.5, 0.5, 1, 1, 1}, 8};
  const int64_t logits = 2 * small.chunk * small.vocabulary * 4;  // a teacher's and a student's
  Case large = small;
  large.tokens = 256;
  const int64_t peak = run_loss(device, small, Problem(small)).scratch;
  EXPECT_EQ(run_loss(device, large, Problem(large)).scratch, peak);
  // Beside the logits: padding, and what the products take to read x and w.
  const int64_t operands = 4 * (small.vocabulary * 8 + small.chunk * 8) * 2;
  const int64_t exponentials = 4 * 3 * (small.vocabulary + 15) * thread_count();
  EXPECT_LE(peak, logits + operands + exponentials + (int64_t{1} << 16));
}

// A teacher's logits made beforehand, in the same chunks and at the pitch that head_loss gives its
// own (a multiple of 16: the library may choose another algorithm for another): the same bits.
TEST_P(HeadLossOn, TakesTheTeachersLogits) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward, LossRows);
  const Case c{30, 200, 16, 12, {0.5, 1, 2, 1, 1.5}, 8};
  const Problem p(c);
  Guarded x(device, p.x), w(device, p.w), tx(device, p.teacher_x);
  Guarded tw(device, p.teacher_w), logits(device, c.tokens, c.vocabulary, 8);
  Context ctx(device);
  for (int64_t begin = 0; begin < c.tokens; begin += c.chunk) {
    const int64_t n = std::min(c.chunk, c.tokens - begin);
    linear_forward(
        ctx,
        {.y = logits.view().slice(0, begin, n), .x = tx.view().slice(0, begin, n), .w = tw.view()});
  }
  Guarded kl(device, 1, c.tokens), dx(device, c.tokens, c.width);
  HeadLoss a{.kl = kl.row(),
             .dx = dx.view(),
             .x = x.view(),
             .w = w.view(),
             .teacher_x = tx.view(),
             .teacher_w = tw.view(),
             .kl_weight = static_cast<float>(c.rule.kl_weight),
             .temperature = static_cast<float>(c.rule.temperature),
             .teacher_logit_scale = static_cast<float>(c.rule.teacher_logit_scale),
             .chunk = c.chunk};
  head_loss(ctx, a);
  ctx.synchronize();
  const Mat<double> want_kl = kl.read(), want_dx = dx.read();
  a.teacher_x = a.teacher_w = ConstView();
  a.teacher_logits = logits.view();
  head_loss(ctx, a);
  ctx.synchronize();
  EXPECT_GT(norm(want_kl), 0.0);
  EXPECT_EQ(kl.read().v, want_kl.v);
  EXPECT_EQ(dx.read().v, want_dx.v);
}

TEST_P(HeadLossOn, EvaluatesWithoutGradients) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LinearForward, LinearBackward, LossRows);
  const Case c{30, 200, 16, 12, {1, 1, 1, 1, 1}, 8};
  const Problem p(c);
  const Outputs whole = run_loss(device, c, p);
  Guarded x(device, p.x), w(device, p.w), tx(device, p.teacher_x);
  Guarded tw(device, p.teacher_w), nll(device, 1, 30), kl(device, 1, 30);
  GuardedInts targets(device, p.targets), counts(device, p.counts);
  Context ctx(device);
  head_loss(ctx, {.nll = nll.row(),
                  .kl = kl.row(),
                  .x = x.view(),
                  .w = w.view(),
                  .targets = targets.row(),
                  .kl_tokens = counts.row(),
                  .teacher_x = tx.view(),
                  .teacher_w = tw.view(),
                  .chunk = c.chunk});
  ctx.synchronize();
  EXPECT_EQ(nll.read().v, whole.nll.v);
  EXPECT_EQ(kl.read().v, whole.kl.v);
}

TEST(HeadLossContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const auto view = [](std::initializer_list<int64_t> shape, DType dtype = DType::kF32) {
    return View(nullptr, dtype, Device::kNull, shape);
  };
  const View targets = view({5}, DType::kI32);
  HeadLoss a{.nll = view({5}), .x = view({5, 4}), .w = view({9, 4}), .targets = targets};
  EXPECT_NO_THROW(head_loss(ctx, a));
  EXPECT_GE(ctx.total_work().flops, 2 * 5 * 9 * 4);
  const auto refused = [&](auto change) {
    HeadLoss bad = a;
    change(bad);
    EXPECT_THROW(head_loss(ctx, bad), Error);
  };
  refused([&](HeadLoss& b) { b.targets = ConstView(); });
  refused([&](HeadLoss& b) { b.kl = view({5}); });
  refused([&](HeadLoss& b) { b.kl_weight = 1; });
  refused([&](HeadLoss& b) { b.dw = view({9, 4}); });
  refused([&](HeadLoss& b) { b.teacher_x = view({5, 3}); });
  refused([&](HeadLoss& b) { b.teacher_logits = view({5, 8}); });
  refused([&](HeadLoss& b) {
    b.teacher_logits = view({5, 9});
    b.teacher_x = view({5, 3});
    b.teacher_w = view({9, 3});
  });
  refused([&](HeadLoss& b) { b.temperature = 0; });
  refused([&](HeadLoss& b) { b.w = view({9, 3}); });
  refused([&](HeadLoss& b) { b.chunk = 0; });
}

TEST_P(LossRowsOn, NamesTheTargetOutsideTheVocabulary) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  constexpr int64_t kTokens = 8, kChunk = 3, kBad = 4;  // the second row of the second chunk
  GuardedInts targets(device, {0, 1, 2, 3, 40, 5, 6, 7});
  Guarded x(device, kTokens, 4), w(device, 40, 4), nll(device, 1, kTokens);
  x.fill(0.5f);
  w.fill(0.5f);
  Context ctx(device);
  try {
    head_loss(ctx, {.nll = nll.row(),
                    .x = x.view(),
                    .w = w.view(),
                    .targets = targets.row(),
                    .chunk = kChunk});
    ctx.synchronize();
    FAIL() << "accepted target 40 of 40";
  } catch (const Error& e) {
    const char* what = device == Device::kCuda ? "the target of token " : "target 40 of token ";
    EXPECT_NE(std::string(e.what()).find(str(what, kBad)), std::string::npos) << e.what();
  }
}

// Of equal logits the first is the arg max.
TEST_P(LossRowsOn, TheFirstOfEqualLogitsIsCorrect) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, LossRows);
  Rows r;
  r.logits = r.teacher = Mat<double>(5, 1300);
  for (int64_t t = 0; t < 5; ++t)
    r.logits(t, 700) = r.logits(t, 1297) = t == 3 ? -1.0 : 2.0;  // row 3: all others are 0
  r.targets = {700, 1297, 5, 0, -1};
  EXPECT_EQ(run_rows(device, r).correct, (std::vector<int32_t>{1, 0, 0, 1, 0}));
}

}  // namespace
}  // namespace nestling
