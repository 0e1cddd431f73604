#include "kernels/ops/gate.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

void check_common(Context& ctx, const char* op, ConstView logits, ConstView index, ConstView weight,
                  ConstView mask, const GateRule& rule) {
  NESTLING_CHECK(logits.rank() == 2, op, ": logits is ", logits.describe(), ", needs [T, E]");
  NESTLING_CHECK(weight.rank() == 2, op, ": weight is ", weight.describe(), ", needs [T, k]");
  const int64_t experts = logits.dim(1);
  const int64_t k = weight.dim(1);
  check_shape(op, "weight", weight, {logits.dim(0), k});
  NESTLING_CHECK(static_cast<bool>(index), op, ": index is missing");
  check_shape(op, "index", index, {logits.dim(0), k});
  check_shape(op, "mask", mask, {experts});
  NESTLING_CHECK(k >= 1 && k <= experts && k <= kMaxTopK, op, ": ", k, " of ", experts,
                 " experts a token; needs 1 to ", kMaxTopK, ", and no more than there are");
  NESTLING_CHECK(rule.groups >= 1 && experts % rule.groups == 0, op, ": ", rule.groups,
                 " groups do not divide ", experts, " experts");
  NESTLING_CHECK(rule.top_groups >= 1 && rule.top_groups <= rule.groups, op, ": top_groups ",
                 rule.top_groups, " of ", rule.groups, " groups");
  NESTLING_CHECK(k <= rule.top_groups * (experts / rule.groups), op, ": ", k, " experts a token, ",
                 rule.top_groups, " groups hold ", rule.top_groups * (experts / rule.groups));
  NESTLING_CHECK(rule.kind == GateKind::kSigmoid || rule.groups == 1, op, ": ", rule.groups,
                 " groups, only sigmoid gates have them");
  for (const auto& v : {logits, weight, mask})
    check_dtype(op, "logits, weight or mask", v, DType::kF32);
  check_dtype(op, "index", index, DType::kI32);
  check_device(ctx, op, {logits, index, weight, mask});
}

}  // namespace

void gate_forward(Context& ctx, const GateForward& a) {
  constexpr const char* kOp = "gate_forward";
  check_common(ctx, kOp, a.logits, a.index, a.weight, a.mask, a.rule);
  check_shape(kOp, "bias", a.bias, {a.logits.dim(1)});
  check_dtype(kOp, "bias", a.bias, DType::kF32);
  NESTLING_CHECK(!a.bias || a.rule.kind == GateKind::kSigmoid, kOp,
                 ": a bias, only sigmoid gates have one");
  check_device(ctx, kOp, {a.bias});
  const auto n = static_cast<double>(a.logits.size());
  const auto picked = static_cast<double>(a.weight.size());
  ctx.count(kOp, 5 * n + 3 * picked, 4 * n + 8 * picked);
  dispatch(ctx, a, cpu::run, cuda::run);
}

void gate_backward(Context& ctx, const GateBackward& a) {
  constexpr const char* kOp = "gate_backward";
  check_common(ctx, kOp, a.logits, a.index, a.dweight, a.mask, a.rule);
  NESTLING_CHECK(same_shape(a.dlogits, a.logits), kOp, ": dlogits is ", a.dlogits.describe(),
                 ", logits is ", a.logits.describe());
  NESTLING_CHECK(!a.dmask || a.mask, kOp, ": dmask without mask");
  check_shape(kOp, "dmask", a.dmask, {a.logits.dim(1)});
  check_dtype(kOp, "dlogits", a.dlogits, DType::kF32);
  check_dtype(kOp, "dmask", a.dmask, DType::kF32);
  check_device(ctx, kOp, {a.dlogits, a.dmask});
  const auto n = static_cast<double>(a.logits.size());
  const auto picked = static_cast<double>(a.dweight.size());
  ctx.count(kOp, n + 10 * picked, 8 * n + 8 * picked);
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
