#include "kernels/ops/sample.h"

#include <cmath>

#include "kernels/ops/dispatch.h"

namespace nestling {

void sample(Context& ctx, const Sample& a) {
  constexpr const char* kOp = "sample";
  NESTLING_CHECK(a.logits.rank() == 2 && a.logits.dim(1) >= 1, kOp, ": logits is ",
                 a.logits.describe(), ", needs [B, V]");
  NESTLING_CHECK(static_cast<bool>(a.tokens), kOp, ": tokens is missing");
  check_shape(kOp, "tokens", a.tokens, {a.logits.dim(0)});
  check_dtype(kOp, "logits", a.logits, DType::kF32);
  check_dtype(kOp, "tokens", a.tokens, DType::kI32);
  check_device(ctx, kOp, {a.tokens, a.logits});
  const SamplingRule& rule = a.rule;
  NESTLING_CHECK(rule.temperature >= 0 && std::isfinite(rule.temperature), kOp, ": temperature ",
                 rule.temperature, ", needs 0 (the arg max) or above");
  NESTLING_CHECK(rule.top_k >= 0, kOp, ": top_k ", rule.top_k, ", needs 0 (all) or above");
  NESTLING_CHECK(rule.top_p > 0 && rule.top_p <= 1, kOp, ": top_p ", rule.top_p,
                 ", needs above 0 and at most 1");
  NESTLING_CHECK(rule.temperature == 0 || static_cast<int64_t>(a.streams.size()) == a.tokens.dim(0),
                 kOp, ": ", a.streams.size(), " streams for ", a.tokens.dim(0), " sequences");
  const auto n = static_cast<double>(a.logits.size());
  ctx.count(kOp, rule.temperature == 0 ? n : 4 * n, 4 * n);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
