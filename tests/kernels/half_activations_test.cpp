// Operators on bf16 activations on CUDA. Each runs twice, on f32 and on bf16 operands that hold the same numbers:
// what it puts out in bf16 is what it puts out in f32, rounded once; what stays f32 is the same.
#include <gtest/gtest.h>

#include "kernels/ops/activation.h"
#include "kernels/ops/conv1d.h"
#include "kernels/ops/experts.h"
#include "kernels/ops/gated_norm.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/loss.h"
#include "kernels/ops/mask.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// The two runs differ by the operands' type alone; a compiler may contract their products differently.
constexpr double kSlack = 0x1.0p-18;

struct Extent {
  int64_t rows, cols, gap;  // gap 3: rows start anywhere; 8: in whole pieces of 16 bytes
  int odd = -1;             // but for those of this operand, counted as they are made
};

// The operands of a run, inputs and outputs, as one type of activations.
template <class Act>
class Operands {
 public:
  explicit Operands(const Extent& e) : extent_(e), rng_(17, static_cast<uint64_t>(e.cols)) {}
  Act& in(int64_t rows, int64_t cols) {
    acts_.push_back(
        std::make_unique<Act>(Device::kCuda, rounded(random_mat(rng_, rows, cols)), gap()));
    return *acts_.back();
  }
  Act& in() { return in(extent_.rows, extent_.cols); }
  Act& out(int64_t rows, int64_t cols) {
    outs_.push_back(std::make_unique<Act>(Device::kCuda, rows, cols, gap()));
    return *outs_.back();
  }
  Act& out() { return out(extent_.rows, extent_.cols); }
  Guarded& f32_in(int64_t rows, int64_t cols) {
    floats_.push_back(
        std::make_unique<Guarded>(Device::kCuda, random_mat(rng_, rows, cols), gap()));
    return *floats_.back();
  }
  Guarded& f32_out(int64_t rows, int64_t cols) {
    float_outs_.push_back(std::make_unique<Guarded>(Device::kCuda, rows, cols, gap()));
    float_outs_.back()->fill(2.0f);  // gradients of parameters accumulate
    return *float_outs_.back();
  }
  int64_t rows() const { return extent_.rows; }
  int64_t cols() const { return extent_.cols; }
  int64_t gap() { return made_++ == extent_.odd ? 3 : extent_.gap; }

  std::vector<Mat<double>> read(bool activations) {
    std::vector<Mat<double>> all;
    if (activations)
      for (auto& g : outs_) all.push_back(g->read()), g->expect_guards_intact("output");
    else
      for (auto& g : float_outs_) all.push_back(g->read()), g->expect_guards_intact("f32 output");
    return all;
  }

 private:
  Extent extent_;
  int made_ = 0;
  Rng rng_;
  std::vector<std::unique_ptr<Act>> acts_, outs_;
  std::vector<std::unique_ptr<Guarded>> floats_, float_outs_;
};

void expect_rounded(const std::vector<Mat<double>>& half, const std::vector<Mat<double>>& whole,
                    double rounding) {
  ASSERT_EQ(half.size(), whole.size());
  for (size_t o = 0; o < half.size(); ++o) {
    double most = 0;
    for (const double x : whole[o].v) most = std::max(most, std::abs(x));
    EXPECT_GT(most, 0) << "output " << o;
    for (int64_t i = 0; i < half[o].size(); ++i)
      ASSERT_LE(std::abs(half[o][i] - whole[o][i]),
                rounding * std::abs(whole[o][i]) + kSlack * most)
          << "output " << o << ", element " << i;
  }
}

// run(ctx, operands) with Operands<Guarded>, then with Operands<GuardedHalf>.
template <class Run>
void expect_same_but_for_rounding(const Extent& extent, const Run& run) {
  Context ctx(Device::kCuda);
  ctx.scratch().set_poison(true);
  Operands<Guarded> whole(extent);
  Operands<GuardedHalf> half(extent);
  run(ctx, whole);
  run(ctx, half);
  ctx.synchronize();
  expect_rounded(half.read(true), whole.read(true), kEpsHalf);
  expect_rounded(half.read(false), whole.read(false), 0);
}

class HalfActivations : public ::testing::TestWithParam<Extent> {};

TEST_P(HalfActivations, RmsNormForward) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, RmsNormForward);
  expect_same_but_for_rounding(GetParam(), [](Context& ctx, auto& o) {
    rms_norm_forward(ctx, {.y = o.out().view(),
                           .rstd = o.f32_out(1, o.rows()).row(),
                           .x = o.f32_in(o.rows(), o.cols()).view(),
                           .w = o.f32_in(1, o.cols()).row(),
                           .eps = 1e-5f});
  });
}

// In f32 alone: what the rows' addresses allow is asked of each operand here too.
TEST_P(HalfActivations, RmsNormBackward) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, RmsNormBackward);
  expect_same_but_for_rounding(GetParam(), [](Context& ctx, auto& o) {
    rms_norm_backward(ctx, {.dx = o.f32_out(o.rows(), o.cols()).view(),
                            .dw = o.f32_out(1, o.cols()).row(),
                            .dy = o.f32_in(o.rows(), o.cols()).view(),
                            .x = o.f32_in(o.rows(), o.cols()).view(),
                            .w = o.f32_in(1, o.cols()).row(),
                            .rstd = o.f32_in(1, o.rows()).row()});
  });
}

TEST_P(HalfActivations, GatedNorm) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, GatedNormForward, GatedNormBackward);
  expect_same_but_for_rounding(GetParam(), [](Context& ctx, auto& o) {
    const int64_t channels = o.cols() / 2;
    const auto heads = [&](auto& g) {
      return g.view().prefix(1, 2 * channels).reshape({o.rows(), 2, channels});
    };
    const auto y = heads(o.in()), z = heads(o.in());
    const View w = o.f32_in(2, channels).view(), rstd = o.f32_out(o.rows(), 1).view();
    gated_norm_forward(ctx,
                       {.out = heads(o.out()), .rstd = rstd, .y = y, .z = z, .w = w, .eps = 1e-5f});
    gated_norm_backward(ctx, {.dy = heads(o.out()),
                              .dz = heads(o.out()),
                              .dw = o.f32_out(2, channels).view(),
                              .dout = heads(o.in()),
                              .y = y,
                              .z = z,
                              .w = w,
                              .rstd = rstd});
  });
}

TEST_P(HalfActivations, Rope) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, Rope);
  const auto inv_freq = rope_inverse_frequencies(GetParam().cols / 2 * 2, 10000.0, {});
  const auto rows = static_cast<int32_t>(GetParam().rows);
  const std::vector<int32_t> offsets = {0, rows / 3, rows}, starts = {7, 4000};
  expect_same_but_for_rounding(GetParam(), [&](Context& ctx, auto& o) {
    const View x = o.out().view();
    copy(x, o.in().view());
    rope(ctx, {.x = x.reshape({o.rows(), 1, o.cols()}),
               .inv_freq = inv_freq,
               .segments = Segments(offsets),
               .starts = starts});
  });
}

TEST_P(HalfActivations, Conv1d) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, Conv1dForward, Conv1dBackward);
  expect_same_but_for_rounding(GetParam(), [](Context& ctx, auto& o) {
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(o.rows() / 3),
                                          static_cast<int32_t>(o.rows())};
    const View x = o.in().view(), w = o.f32_in(o.cols(), 4).view();
    const View bias = o.f32_in(1, o.cols()).row();
    conv1d_forward(
        ctx, {.y = o.out().view(), .x = x, .w = w, .bias = bias, .segments = Segments(offsets)});
    conv1d_backward(ctx, {.dx = o.out().view(),
                          .dw = o.f32_out(o.cols(), 4).view(),
                          .dbias = o.f32_out(1, o.cols()).row(),
                          .dy = o.in().view(),
                          .x = x,
                          .w = w,
                          .bias = bias,
                          .segments = Segments(offsets)});
  });
}

TEST_P(HalfActivations, Activations) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, SquaredReluForward, SquaredReluBackward, GatedSiluForward,
                        GatedSiluBackward);
  expect_same_but_for_rounding(GetParam(), [](Context& ctx, auto& o) {
    const View x = o.in().view(), up = o.in().view(), dy = o.in().view();
    squared_relu_forward(ctx, {.y = o.out().view(), .x = x});
    squared_relu_backward(ctx, {.dx = o.out().view(), .dy = dy, .x = x});
    gated_silu_forward(ctx, {.y = o.out().view(), .gate = x, .up = up});
    gated_silu_backward(
        ctx, {.dgate = o.out().view(), .dup = o.out().view(), .dy = dy, .gate = x, .up = up});
  });
}

TEST_P(HalfActivations, Mask) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, MaskForward, MaskBackward);
  expect_same_but_for_rounding(GetParam(), [](Context& ctx, auto& o) {
    const View x = o.in().view(), m = o.f32_in(1, o.cols()).row();
    mask_forward(ctx, {.y = o.out().view(), .x = x, .m = m});
    mask_backward(ctx, {.dx = o.out().view(),
                        .dm = o.f32_out(1, o.cols()).row(),
                        .dy = o.in().view(),
                        .x = x,
                        .m = m});
  });
}

// A weight in bf16: the operands' own type would be f32 in the first run.
struct Weight {
  Weight(Rng& rng, int64_t rows, int64_t cols)
      : half(Device::kCuda, rounded(random_mat(rng, rows, cols)), 8) {}
  GuardedHalf half;
};

TEST_P(HalfActivations, Linear) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, LinearForward, LinearBackward);
  const int64_t outs = 24;
  Rng rng(5);
  Weight w(rng, outs, GetParam().cols);
  expect_same_but_for_rounding(GetParam(), [&](Context& ctx, auto& o) {
    const View x = o.in().view(), dy = o.in(o.rows(), outs).view();
    linear_forward(ctx, {.y = o.out(o.rows(), outs).view(), .x = x, .w = w.half.view()});
    linear_forward(
        ctx,
        {.y = o.f32_out(o.rows(), outs).view(), .x = x, .w = w.half.view(), .accumulate = true});
    linear_backward(ctx, {.dx = o.out().view(),
                          .dw = o.f32_out(outs, o.cols()).view(),
                          .dy = dy,
                          .x = x,
                          .w = w.half.view()});
    linear_backward(ctx, {.dx = o.f32_out(o.rows(), o.cols()).view(),
                          .dy = dy,
                          .x = x,
                          .w = w.half.view(),
                          .accumulate_dx = true});
  });
}

// As a gate reads its tokens: the weight, and all that is put out, is f32.
TEST_P(HalfActivations, LinearWithAWeightInF32) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, LinearForward, LinearBackward);
  const int64_t outs = 6;
  expect_same_but_for_rounding(GetParam(), [&](Context& ctx, auto& o) {
    const View x = o.in().view(), w = o.f32_in(outs, o.cols()).view();
    linear_forward(ctx, {.y = o.f32_out(o.rows(), outs).view(), .x = x, .w = w});
    linear_backward(ctx, {.dx = o.f32_out(o.rows(), o.cols()).view(),
                          .dw = o.f32_out(outs, o.cols()).view(),
                          .dy = o.f32_in(o.rows(), outs).view(),
                          .x = x,
                          .w = w,
                          .accumulate_dx = true});
  });
}

TEST_P(HalfActivations, HeadLoss) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, LossRows);
  const int64_t vocabulary = 40;
  Rng rng(5);
  Weight w(rng, vocabulary, GetParam().cols);
  expect_same_but_for_rounding(GetParam(), [&](Context& ctx, auto& o) {
    head_loss(ctx, {.kl = o.f32_out(1, o.rows()).row(),
                    .dx = o.f32_out(o.rows(), o.cols()).view(),
                    .dw = o.f32_out(vocabulary, o.cols()).view(),
                    .x = o.in().view(),
                    .w = w.half.view(),
                    .teacher_x = o.in().view(),
                    .teacher_w = w.half.view(),
                    .kl_weight = 1.0f,
                    .temperature = 10.0f,
                    .chunk = 16});
  });
}

TEST_P(HalfActivations, Experts) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, ExpertSort, ExpertGather, ExpertCombine,
                        ExpertCombineBackward, ExpertGatherBackward, ExpertLinearForward,
                        ExpertLinearBackward);
  const int64_t experts = 3, k = 2, outs = 24, width = GetParam().cols, tokens = GetParam().rows;
  Rng rng(5);
  Weight all(rng, experts * outs, width);
  const View w = all.half.view();
  const View stacked(w.data(), w.dtype(), w.device(), {experts, outs, w.pitch()});
  std::vector<int32_t> choice;
  for (int64_t t = 0; t < tokens; ++t) {
    choice.push_back(static_cast<int32_t>(t % experts));
    choice.push_back(static_cast<int32_t>((t + 1 + t % 2) % experts));
  }
  expect_same_but_for_rounding(GetParam(), [&](Context& ctx, auto& o) {
    Tensor index(Device::kCuda, DType::kI32, {tokens, k}),
        offsets(Device::kCuda, DType::kI32, {experts + 1});
    Tensor order(Device::kCuda, DType::kI32, {tokens * k});
    copy(index.view(),
         View(reinterpret_cast<std::byte*>(choice.data()), DType::kI32, Device::kCpu, {tokens, k}));
    expert_sort(ctx, {.offsets = offsets.view(), .order = order.view(), .index = index.view()});
    const int64_t pairs = tokens * k;
    const View rows = o.out(pairs, width).view(), dy = o.in(pairs, outs).view();
    const View weights = stacked.prefix(2, width), dtokens = o.f32_in(tokens, width).view();
    const View share = o.f32_in(tokens, k).view();
    Tensor dw(Device::kCuda, DType::kF32, {experts, outs, width});
    fill_zero(dw.view());
    expert_gather(ctx, {.rows = rows, .x = o.in().view(), .order = order.view()});
    expert_linear_forward(
        ctx, {.y = o.out(pairs, outs).view(), .x = rows, .w = weights, .offsets = offsets.view()});
    expert_linear_backward(ctx, {.dx = o.out(pairs, width).view(),
                                 .dw = dw.view(),
                                 .dy = dy,
                                 .x = rows,
                                 .w = weights,
                                 .offsets = offsets.view()});
    expert_combine(ctx, {.y = o.f32_out(tokens, width).view(),
                         .rows = rows,
                         .weight = share,
                         .order = order.view()});
    expert_combine_backward(ctx, {.drows = o.out(pairs, width).view(),
                                  .dweight = o.f32_out(tokens, k).view(),
                                  .dy = dtokens,
                                  .rows = rows,
                                  .weight = share,
                                  .order = order.view()});
    expert_gather_backward(
        ctx, {.dx = o.f32_out(tokens, width).view(), .drows = rows, .order = order.view()});
    copy(o.f32_out(experts * outs, width).view(), dw.view().reshape({experts * outs, width}));
    ctx.synchronize();
  });
}

std::string extent_name(const ::testing::TestParamInfo<Extent>& test) {
  const Extent& e = test.param;
  return str(e.rows, "x", e.cols, "_gap", e.gap, e.odd < 0 ? "" : str("_odd", e.odd));
}
std::vector<Extent> odd_extents() {
  constexpr int kMostOperands = 16;
  std::vector<Extent> all;
  for (int odd = 0; odd < kMostOperands; ++odd) all.push_back({9, 48, 8, odd});
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, HalfActivations,
                         ::testing::Values(Extent{3, 2, 3}, Extent{9, 38, 3}, Extent{70, 48, 8},
                                           Extent{33, 4104, 8}, Extent{5, 4110, 3}),
                         extent_name);
// Who reads 16 bytes at a time asks for the rows of all that it touches.
INSTANTIATE_TEST_SUITE_P(Odd, HalfActivations, ::testing::ValuesIn(odd_extents()), extent_name);

TEST(HalfActivationsContract, TheCpuKeepsThemInF32) {
  Context ctx(Device::kCpu);
  const View x(nullptr, DType::kBF16, Device::kCpu, {4, 8});
  try {
    squared_relu_forward(ctx, {.y = x, .x = x});
    FAIL() << "accepted bf16 on the CPU";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("[4,8] bf16 cpu, needs f32, or off the CPU bf16"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace nestling
