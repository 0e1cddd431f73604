#include "kernels/ops/state_score.h"

#include "kernels/ops/dispatch.h"

namespace nestling {

void add_state_score(Context& ctx, const StateScore& a) {
  constexpr const char* kOp = "add_state_score";
  NESTLING_CHECK(a.x.rank() == 3, kOp, ": x is ", a.x.describe(), ", needs [T, H, P]");
  NESTLING_CHECK(a.B.rank() == 3 && a.B.dim(2) > 0, kOp, ": B is ", a.B.describe(),
                 ", needs [T, N, G]");
  const int64_t tokens = a.x.dim(0), heads = a.x.dim(1), states = a.B.dim(1), groups = a.B.dim(2);
  NESTLING_CHECK(heads % groups == 0, kOp, ": ", heads, " heads are not a multiple of ", groups,
                 " groups");
  for (const ConstView& v : {a.B, a.C}) check_shape(kOp, "B or C", v, {tokens, states, groups});
  check_shape(kOp, "dt_raw", a.dt_raw, {tokens, heads});
  check_shape(kOp, "score", a.score, {states, groups});
  for (const ConstView& v : {a.A_log, a.dt_bias}) check_shape(kOp, "A_log or dt_bias", v, {heads});
  for (const ConstView& v : {a.dt_raw, a.A_log, a.dt_bias})
    check_dtype(kOp, "dt_raw, A_log or dt_bias", v, DType::kF32);
  check_dtype(kOp, "score", a.score, DType::kF64);
  check_activations(ctx, kOp, {a.x, a.B, a.C});
  check_device(ctx, kOp, {a.score, a.x, a.dt_raw, a.B, a.C, a.A_log, a.dt_bias});
  NESTLING_CHECK(a.segments.tokens() == tokens, kOp, ": segments end at token ",
                 a.segments.tokens(), ", x is ", a.x.describe());
  double bytes = 0;
  for (const ConstView& v : {a.x, a.dt_raw, a.B, a.C}) bytes += static_cast<double>(v.bytes());
  ctx.count(kOp, 5 * static_cast<double>(a.x.size() * states), bytes);
  if (a.x.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
