#include "kernels/ops/loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/span.h"
#include "kernels/ops/dispatch.h"
#include "kernels/ops/linear.h"

namespace nestling {

namespace {

constexpr const char* kOp = "head_loss";

void check_tokens(Context& ctx, const HeadLoss& a, int64_t tokens) {
  struct Column {
    const char* name;
    ConstView view;
    DType dtype;
  };
  for (const Column& c :
       {Column{"nll", a.nll, DType::kF32}, Column{"kl", a.kl, DType::kF32},
        Column{"correct", a.correct, DType::kI32}, Column{"targets", a.targets, DType::kI32},
        Column{"kl_tokens", a.kl_tokens, DType::kI32}}) {
    check_shape(kOp, c.name, c.view, {tokens});
    check_dtype(kOp, c.name, c.view, c.dtype);
    check_device(ctx, kOp, {c.view});
  }
}

void check_operands(Context& ctx, const HeadLoss& a) {
  NESTLING_CHECK(a.x.rank() == 2 && a.w.rank() == 2 && a.x.dim(1) == a.w.dim(1), kOp, ": x is ",
                 a.x.describe(), ", w is ", a.w.describe(), ", needs [T, D] and [V, D]");
  const int64_t tokens = a.x.dim(0);
  check_tokens(ctx, a, tokens);
  NESTLING_CHECK(!a.dx || same_shape(a.dx, a.x), kOp, ": dx is ", a.dx.describe(), ", x is ",
                 a.x.describe());
  NESTLING_CHECK(!a.dw || (a.dx && same_shape(a.dw, a.w)), kOp, ": dw is ", a.dw.describe(),
                 ", w is ", a.w.describe(), ", and dw needs dx");
  NESTLING_CHECK(static_cast<bool>(a.teacher_x) == static_cast<bool>(a.teacher_w), kOp,
                 ": teacher_x and teacher_w come together");
  if (a.teacher_x) {
    NESTLING_CHECK(a.teacher_x.rank() == 2 && a.teacher_w.rank() == 2 &&
                       a.teacher_x.dim(0) == tokens && a.teacher_w.dim(0) == a.w.dim(0) &&
                       a.teacher_x.dim(1) == a.teacher_w.dim(1),
                   kOp, ": teacher_x is ", a.teacher_x.describe(), ", teacher_w is ",
                   a.teacher_w.describe(), ", needs [", tokens, ", Dt] and [", a.w.dim(0), ", Dt]");
  }
  check_shape(kOp, "teacher_logits", a.teacher_logits, {tokens, a.w.dim(0)});
  check_dtype(kOp, "teacher_logits", a.teacher_logits, DType::kF32);
  check_device(ctx, kOp, {a.teacher_logits});
  NESTLING_CHECK(!a.teacher_x || !a.teacher_logits, kOp,
                 ": teacher_x and teacher_logits are two teachers");
  NESTLING_CHECK(a.targets || !(a.nll || a.correct || a.ce_weight != 0), kOp,
                 ": nll, correct and ce_weight need targets");
  NESTLING_CHECK(a.teacher_x || a.teacher_logits || !(a.kl || a.kl_weight != 0), kOp,
                 ": kl and kl_weight need a teacher");
  for (const float positive : {a.temperature, a.logit_scale, a.teacher_logit_scale})
    NESTLING_CHECK(positive > 0 && std::isfinite(positive), kOp,
                   ": a temperature or logit scale of ", positive, ", needs above 0");
  NESTLING_CHECK(a.chunk >= 1, kOp, ": chunks of ", a.chunk, " tokens");
}

// Rows start on 64-byte boundaries.
View alloc_logits(Context& ctx, int64_t rows, int64_t vocabulary) {
  const int64_t pitch = (vocabulary + 15) / 16 * 16;
  return ctx.scratch().alloc(DType::kF32, {rows, pitch}).prefix(1, vocabulary);
}

// The rows of `all` [rows, pitch] f32 as bf16 rows that begin where they do: LossRows::half.
View half_of(View all, int64_t rows, int64_t vocabulary) {
  const int64_t pitch = all.stride(0) * dtype_bytes(DType::kF32) / dtype_bytes(DType::kBF16);
  return View(all.data(), DType::kBF16, all.device(), {rows, pitch}).prefix(1, vocabulary);
}

template <class AnyView>
AnyView tokens_of(const AnyView& v, int64_t begin, int64_t n) {
  return v ? v.slice(0, begin, n) : v;
}

void run_rows(Context& ctx, const LossRows& rows) {
  const auto n = static_cast<double>(rows.logits.size());
  const double passes = (rows.teacher ? 2 : 1) * (rows.gradient ? 2 : 1);
  ctx.count(kOp, 5 * n * passes, 4 * n * passes);
  dispatch(ctx, rows, cpu::run, cuda::run);
}

}  // namespace

int64_t loss_chunk(Device code) {
  return code == Device::kCuda ? 2048 : 256;
}

void head_loss(Context& ctx, const HeadLoss& a) {
  const Span span(ctx, "head and loss");
  check_operands(ctx, a);
  const Arena::Mark mark(ctx.scratch());
  const int64_t tokens = a.x.dim(0);
  const int64_t vocabulary = a.w.dim(0);
  const int64_t chunk = std::min(a.chunk, tokens);
  if (tokens == 0 && a.dw && !a.accumulate_dw) fill_zero(ctx, a.dw);
  const bool teach = a.kl || a.kl_weight != 0;
  const View all_logits = alloc_logits(ctx, chunk, vocabulary);
  const bool multiply = teach && !a.teacher_logits;
  const bool half = a.w.dtype() == DType::kBF16 && ctx.code() == Device::kCuda;
  const View all_teacher = multiply ? alloc_logits(ctx, chunk, vocabulary) : View();
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    const int64_t n = std::min(chunk, tokens - begin);
    const View logits = all_logits.prefix(0, n);
    const View product = multiply ? all_teacher.prefix(0, n) : View();
    const ConstView teacher = teach && !multiply ? a.teacher_logits.slice(0, begin, n) : product;
    const ConstView x = a.x.slice(0, begin, n);
    linear_forward(ctx, {.y = logits, .x = x, .w = a.w});
    if (multiply)
      linear_forward(ctx, {.y = product, .x = a.teacher_x.slice(0, begin, n), .w = a.teacher_w});
    run_rows(ctx, {.logits = logits,
                   .teacher = teacher,
                   .targets = tokens_of(a.targets, begin, n),
                   .kl_tokens = tokens_of(a.kl_tokens, begin, n),
                   .nll = tokens_of(a.nll, begin, n),
                   .kl = tokens_of(a.kl, begin, n),
                   .correct = tokens_of(a.correct, begin, n),
                   .ce_weight = a.ce_weight,
                   .kl_weight = a.kl_weight,
                   .temperature = a.temperature,
                   .logit_scale = a.logit_scale,
                   .teacher_logit_scale = a.teacher_logit_scale,
                   .first_token = begin,
                   .gradient = static_cast<bool>(a.dx),
                   .half = half});
    if (a.dx)
      linear_backward(ctx, {.dx = a.dx.slice(0, begin, n),
                            .dw = a.dw,
                            .dy = half ? half_of(all_logits, n, vocabulary) : logits,
                            .x = x,
                            .w = a.w,
                            .accumulate_dw = a.accumulate_dw || begin > 0});
  }
}

}  // namespace nestling
