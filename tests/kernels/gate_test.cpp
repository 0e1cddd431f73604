#include "kernels/ops/gate.h"

#include <gtest/gtest.h>

#include "kernels/reference/gate.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/ints.h"
#include "tests/support/operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

constexpr GateRule kRules[] = {
    {.kind = GateKind::kSigmoid, .renormalize = true, .scale = 2.5f},
    {.kind = GateKind::kSigmoid, .renormalize = false, .scale = 1.5f},
    {.kind = GateKind::kSigmoid, .groups = 4, .top_groups = 2, .renormalize = true, .scale = 2.5f},
    {.kind = GateKind::kSoftmaxTopK, .renormalize = false, .scale = 1.0f},
    {.kind = GateKind::kSoftmaxTopK, .renormalize = true, .scale = 1.0f},
    {.kind = GateKind::kTopKSoftmax, .renormalize = false, .scale = 0.5f},
};

Mat<double> constant(int64_t cols, double value) {
  Mat<double> m(1, cols);
  for (auto& x : m.v) x = value;
  return m;
}

// Soft: most in (0, 1), every fifth 0 and every seventh 1.
Mat<double> soft_mask(Rng& rng, int64_t experts) {
  Mat<double> m(1, experts);
  for (int64_t e = 0; e < experts; ++e)
    m[e] = e % 5 == 4 ? 0.0 : e % 7 == 6 ? 1.0 : static_cast<float>(0.05 + 0.95 * rng.uniform());
  return m;
}

TEST(GateReference, BackwardIsTheComplexStepDerivative) {
  for (const GateRule& rule : kRules) {
    Rng rng(1);
    const auto logits = random_mat(rng, 3, 8);
    const auto bias = random_mat(rng, 1, 8, 0.1);
    const auto mask = soft_mask(rng, 8);
    const auto dweight = random_mat(rng, 3, 3);
    const auto index = reference::gate_select(
        logits, rule.kind == GateKind::kSigmoid ? bias : constant(8, 0), mask, 3, rule);
    const auto g = reference::gate_backward(logits, mask, index, dweight, rule);
    const auto loss = [&](const Mat<Complex>& lc, const Mat<Complex>& mc) {
      const auto w = reference::gate_weights(lc, mc, index, 3, rule);
      Complex s = 0;
      for (int64_t i = 0; i < w.size(); ++i) s += w[i] * dweight[i];
      return s;
    };
    expect_gradient("dlogits", g.dlogits, complex_step_gradient(logits, [&](const auto& z) {
                      return loss(z, reference::cast<Complex>(mask));
                    }));
    expect_gradient("dmask", g.dmask, complex_step_gradient(mask, [&](const auto& z) {
                      return loss(reference::cast<Complex>(logits), z);
                    }));
  }
}

struct Shape {
  int64_t tokens, experts, k;
  bool soft;
};

// What a gate makes of its operands, and what comes back.
struct Outcome {
  std::vector<int32_t> index;
  Mat<double> weight, dlogits, dmask;
};

Outcome run_gate(Device device, const Mat<double>& logits, const Mat<double>* bias,
                 const Mat<double>* mask, const Mat<double>& dweight, const GateRule& rule) {
  Context ctx(device);
  ctx.scratch().set_poison(true);
  Guarded gl(device, logits), gd(device, dweight), gb(device, bias ? *bias : Mat<double>(1, 1));
  Guarded gm(device, mask ? *mask : Mat<double>(1, 1));
  Guarded weight(device, logits.rows, dweight.cols), dlogits(device, logits.rows, logits.cols);
  Guarded dmask(device, 1, logits.cols);
  GuardedInts index(device, logits.rows, dweight.cols);
  dmask.fill(2.0f);  // gradients of parameters accumulate
  gate_forward(ctx, {.index = index.view(),
                     .weight = weight.view(),
                     .logits = gl.view(),
                     .bias = bias ? ConstView(gb.row()) : ConstView(),
                     .mask = mask ? ConstView(gm.row()) : ConstView(),
                     .rule = rule});
  ctx.synchronize();  // a device says here which token has too few experts
  gate_backward(ctx, {.dlogits = dlogits.view(),
                      .dmask = mask ? dmask.row() : View(),
                      .dweight = gd.view(),
                      .index = index.view(),
                      .logits = gl.view(),
                      .mask = mask ? ConstView(gm.row()) : ConstView(),
                      .rule = rule});
  ctx.synchronize();
  for (auto* g : {&weight, &dlogits, &dmask}) g->expect_guards_intact("output");
  index.expect_guards_intact("index");
  return {index.read(), weight.read(), dlogits.read(), dmask.read()};
}

class Gate : public ::testing::TestWithParam<std::tuple<Device, int, Shape>> {};

TEST_P(Gate, MatchesTheReference) {
  const auto [device, rule_at, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  GateRule rule = kRules[rule_at];
  if (shape.experts % rule.groups != 0 || shape.k > shape.experts / 2)
    rule.groups = rule.top_groups = 1;
  Rng rng(7, static_cast<uint64_t>(shape.experts));
  const auto logits = random_mat(rng, shape.tokens, shape.experts);
  const bool biased = rule.kind == GateKind::kSigmoid;
  const auto bias = biased ? random_mat(rng, 1, shape.experts, 0.1) : constant(shape.experts, 0);
  const auto mask = shape.soft ? soft_mask(rng, shape.experts) : constant(shape.experts, 1);
  const auto dweight = random_mat(rng, shape.tokens, shape.k);
  const Outcome got = run_gate(device, logits, biased ? &bias : nullptr,
                               shape.soft ? &mask : nullptr, dweight, rule);

  // No two of the random scores lie within a float's rounding: the selection is one and the same.
  const auto index = reference::gate_select(logits, bias, mask, shape.k, rule);
  EXPECT_EQ(got.index, index);
  const auto weight = reference::gate_weights(logits, mask, index, shape.k, rule);
  auto want = reference::gate_backward(logits, mask, index, dweight, rule);
  // Sums of k (or E) positive terms, an exponential below 2e-7, and a handful of products.
  const double terms = static_cast<double>(std::max(shape.k, shape.experts));
  const double bound = 4e-7 + (8 + std::sqrt(terms)) * kEps32;
  expect_close("weight", got.weight, weight, bound);
  // Gradients are differences (dw - dot / sum) and cancel: relative to |dw| times the slopes,
  // which are at most scale / sum(u): read from the weights (renormalised: their u sums to 1).
  double largest = 0;
  for (double w : weight.v) largest = std::max(largest, w);
  const double slope = std::max(largest, double{rule.scale});
  const double dw_norm = norm(dweight);
  expect_close("dlogits", got.dlogits, want.dlogits, bound, 2 * bound * slope * dw_norm);
  if (!shape.soft) return;
  for (auto& x : want.dmask.v) x += 2.0;
  // dmask divides by the mask, which is 0.05 at least where an expert can be selected.
  expect_close("dmask", got.dmask, want.dmask, bound, 2 * bound * slope * dw_norm / 0.05);
  const Outcome again = run_gate(device, logits, biased ? &bias : nullptr,
                                 shape.soft ? &mask : nullptr, dweight, rule);
  EXPECT_EQ(got.index, again.index);
  EXPECT_EQ(got.weight.v, again.weight.v);
  EXPECT_EQ(got.dlogits.v, again.dlogits.v);
  EXPECT_EQ(got.dmask.v, again.dmask.v);
}

// The first E' experts by a 0/1 mask, and by a view.
TEST_P(Gate, AHardMaskIsThePrefix) {
  const auto [device, rule_at, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  GateRule rule = kRules[rule_at];
  rule.groups = rule.top_groups = 1;
  const int64_t alive = std::max(shape.k, shape.experts * 2 / 3);
  Rng rng(9, static_cast<uint64_t>(shape.experts));
  const auto logits = random_mat(rng, shape.tokens, shape.experts, 3.0);
  auto bias = random_mat(rng, 1, shape.experts, 0.1);
  auto mask = constant(shape.experts, 0);
  Mat<double> short_logits(shape.tokens, alive), short_bias(1, alive);
  for (int64_t e = 0; e < alive; ++e) {
    mask[e] = 1;
    short_bias[e] = bias[e];
    for (int64_t t = 0; t < shape.tokens; ++t) short_logits(t, e) = logits(t, e);
  }
  const auto dweight = random_mat(rng, shape.tokens, shape.k);
  const bool biased = rule.kind == GateKind::kSigmoid;
  const Outcome masked = run_gate(device, logits, biased ? &bias : nullptr, &mask, dweight, rule);
  const Outcome sliced =
      run_gate(device, short_logits, biased ? &short_bias : nullptr, nullptr, dweight, rule);
  EXPECT_EQ(masked.index, sliced.index);
  EXPECT_EQ(masked.weight.v, sliced.weight.v);
  for (int64_t t = 0; t < shape.tokens; ++t)
    for (int64_t e = 0; e < shape.experts; ++e)
      ASSERT_EQ(masked.dlogits(t, e), e < alive ? sliced.dlogits(t, e) : 0.0) << t << " " << e;
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, int, Shape>>& test) {
  const auto& [device, rule, shape] = test.param;
  return str(device_name(device), "_rule", rule, "_", shape.tokens, "x", shape.experts, "x",
             shape.k, shape.soft ? "_soft" : "");
}

INSTANTIATE_TEST_SUITE_P(
    All, Gate,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda), ::testing::Range(0, 6),
                       ::testing::Values(Shape{1, 1, 1, false}, Shape{5, 7, 3, true},
                                         Shape{33, 64, 6, true}, Shape{70, 128, 6, false},
                                         Shape{9, 512, 32, true}, Shape{40, 256, 8, true},
                                         // More tokens than a device takes at a time.
                                         Shape{4300, 3, 1, true})),
    case_name);

class GateOn : public ::testing::TestWithParam<Device> {};

TEST_P(GateOn, TiesGoToTheLowerIndex) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  for (const GateRule& kind : kRules) {
    GateRule rule = kind;
    const auto logits = constant(16, 0.25);
    const auto got = run_gate(device, logits, nullptr, nullptr, constant(4, 1), rule);
    EXPECT_EQ(got.index, (std::vector<int32_t>{0, 1, 2, 3}));
  }
}

TEST_P(GateOn, SelectsByScorePlusLogMaskAndWeighsByMaskTimesScore) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  // Expert 0 scores best but is half dead; expert 2 is dead though its bias is the largest.
  Mat<double> logits(1, 4), bias(1, 4), mask(1, 4);
  logits.v = {4.0, 1.0, 3.0, 0.0};
  bias.v = {0.0, 0.0, 9.0, 0.0};
  mask.v = {0.5, 1.0, 0.0, 1.0};
  const GateRule rule{.renormalize = true, .scale = 1.0f};
  const auto got = run_gate(device, logits, &bias, &mask, constant(3, 1), rule);
  const double s[] = {1 / (1 + std::exp(-4.0)), 1 / (1 + std::exp(-1.0)), 0.5};
  // Scores: 0.982 + log 0.5 = 0.289, 0.731, -infinity, 0.5.
  EXPECT_EQ(got.index, (std::vector<int32_t>{1, 3, 0}));
  const double sum = s[1] + s[2] + 0.5 * s[0];
  EXPECT_NEAR(got.weight[0], s[1] / sum, 1e-6);
  EXPECT_NEAR(got.weight[1], s[2] / sum, 1e-6);
  EXPECT_NEAR(got.weight[2], 0.5 * s[0] / sum, 1e-6);
}

// As a mask hardens, weights tend to those of the hard mask: at mask m, no further than ~m.
TEST_P(GateOn, SoftTendsToHard) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  for (const GateRule& kind : kRules) {
    GateRule rule = kind;
    rule.groups = rule.top_groups = 1;
    Rng rng(12);
    const auto logits = random_mat(rng, 20, 12);
    auto mask = constant(12, 1);
    for (int64_t e = 8; e < 12; ++e) mask[e] = 0;
    const auto dweight = random_mat(rng, 20, 3);
    const auto hard = run_gate(device, logits, nullptr, &mask, dweight, rule);
    for (double soft : {1e-3, 1e-5}) {
      for (int64_t e = 8; e < 12; ++e) mask[e] = soft;
      const auto got = run_gate(device, logits, nullptr, &mask, dweight, rule);
      EXPECT_EQ(got.index, hard.index);
      // Four experts of e^3 the weight of the mean at most, plus rounding.
      for (int64_t i = 0; i < got.weight.size(); ++i)
        EXPECT_NEAR(got.weight[i], hard.weight[i], rule.scale * (4 * 20 * soft + 1e-6));
    }
  }
}

// A sum of scores below the least float is no reason to divide by nothing.
TEST_P(GateOn, ScoresThatVanishWeighNothing) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  const auto mask = constant(4, 1);
  const auto got = run_gate(device, constant(4, -200), nullptr, &mask, constant(2, 1),
                            {.renormalize = true, .scale = 2.5f});
  for (const double w : got.weight.v) EXPECT_EQ(w, 0);
  for (const double d : got.dlogits.v) EXPECT_EQ(d, 0);
  for (const double d : got.dmask.v) EXPECT_EQ(d, 2);  // what it held
}

TEST_P(GateOn, NamesTheTokenWithTooFewExperts) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  const Mat<double> logits(100, 8);
  auto mask = constant(8, 0);
  mask[7] = 1;
  for (const GateKind kind : {GateKind::kSigmoid, GateKind::kTopKSoftmax}) {
    try {
      run_gate(device, logits, nullptr, &mask, Mat<double>(100, 3), {.kind = kind});
      FAIL() << "went on with one living expert";
    } catch (const Error& e) {
      const char* count = device == Device::kCpu ? "1 of 8 experts" : "fewer experts than it needs";
      EXPECT_NE(std::string(e.what()).find(str("token 0 can go to ", count)), std::string::npos)
          << e.what();
    }
  }
}

TEST_P(GateOn, NamesTheTokenOfAnIndexOutsideTheExperts) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  Context ctx(device);
  Guarded logits(device, constant(8, 0)), dweight(device, constant(2, 1)), dlogits(device, 1, 8);
  for (const int32_t outside : {-1, 8}) {
    GuardedInts index(device, {3, outside});
    try {
      gate_backward(ctx, {.dlogits = dlogits.view(),
                          .dweight = dweight.view(),
                          .index = index.view(),
                          .logits = logits.view(),
                          .rule = GateRule{}});
      ctx.synchronize();
      FAIL() << "took expert " << outside << " of 8";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("token 0"), std::string::npos) << e.what();
    }
    EXPECT_NO_THROW(ctx.synchronize());  // said once
    dlogits.expect_guards_intact("dlogits");
  }
}

TEST(GateErrors, NamesWhatDoesNotFit) {
  const auto logits = constant(8, 0);
  const auto run = [&](int64_t k, GateRule rule, const Mat<double>* bias = nullptr) {
    run_gate(Device::kCpu, logits, bias, nullptr, Mat<double>(1, k), rule);
  };
  EXPECT_NO_THROW(run(8, {}));
  EXPECT_THROW(run(9, {}), Error);
  EXPECT_THROW(run(2, {.groups = 3}), Error);
  EXPECT_THROW(run(2, {.groups = 2, .top_groups = 3}), Error);
  EXPECT_THROW(run(5, {.groups = 2, .top_groups = 1}), Error);
  EXPECT_THROW(run(2, {.kind = GateKind::kSoftmaxTopK, .groups = 2}), Error);
  EXPECT_THROW(run(2, {.kind = GateKind::kTopKSoftmax}, &logits), Error);
}

TEST_P(GateOn, ANanIsSelectedAndShowsInTheWeights) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Mat<double> logits(2, 4);
  logits.v = {1.0, 2.0, nan, 0.5, nan, nan, nan, nan};
  const Mat<double> dweight(2, 2);
  const auto got = run_gate(device, logits, nullptr, nullptr, dweight, GateRule{});
  EXPECT_EQ(got.index[0], 2);
  EXPECT_TRUE(std::isnan(got.weight[0]));
  EXPECT_TRUE(std::isnan(got.weight[2]));
  // But never an expert that the mask has closed.
  Mat<double> mask(1, 4);
  mask.v = {1.0, 1.0, 0.0, 1.0};
  for (const int32_t e : run_gate(device, logits, nullptr, &mask, dweight, GateRule{}).index)
    EXPECT_NE(e, 2);
}

// Few different scores, among them NaN and infinity: ties within groups and between them.
TEST_P(GateOn, SelectsAmongTiesAndNanAsTheCpu) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, GateForward, GateBackward);
  constexpr double kScores[] = {0.0, -0.0, 0.25, 2.0, HUGE_VAL, NAN};
  Rng rng(21);
  for (const int64_t experts : {16, 48, 256}) {
    Mat<double> logits(60, experts), mask(1, experts);
    for (auto& x : logits.v) x = kScores[static_cast<size_t>(rng.uniform() * 6)];
    for (auto& m : mask.v) m = rng.uniform() < 0.5 ? 0.5 : 1.0;
    const Mat<double> dweight(60, 4);
    for (const GateRule& kind : kRules)
      for (const int64_t groups : {int64_t{1}, int64_t{4}, experts}) {
        GateRule rule = kind;
        if (groups > 1 && rule.kind != GateKind::kSigmoid) continue;
        rule.groups = groups;
        rule.top_groups = std::min<int64_t>(groups, groups == 4 ? 2 : 4);
        const auto got = run_gate(device, logits, nullptr, &mask, dweight, rule);
        const auto want = run_gate(Device::kCpu, logits, nullptr, &mask, dweight, rule);
        EXPECT_EQ(got.index, want.index) << experts << " experts, " << groups << " groups";
      }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GateOn, ::testing::Values(Device::kCpu, Device::kCuda),
                         [](const ::testing::TestParamInfo<Device>& test) {
                           return std::string(device_name(test.param));
                         });

}  // namespace
}  // namespace nestling
