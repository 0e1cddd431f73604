#include "kernels/ops/scan.h"

#include <algorithm>

#include "kernels/ops/dispatch.h"

namespace nestling {

int64_t scan_chunks(const Segments& segments, int64_t chunk) {
  NESTLING_CHECK(chunk >= 1, "scan: chunk is ", chunk, ", needs at least 1");
  int64_t chunks = 0;
  for (int64_t i = 0; i < segments.count(); ++i) chunks += (segments.length(i) + chunk - 1) / chunk;
  return chunks;
}

namespace {

struct Common {
  ConstView x, dt_raw, B, C, A_log, D, dt_bias;
};

void check_common(Context& ctx, const char* op, const Common& c) {
  NESTLING_CHECK(c.x.rank() == 3, op, ": x is ", c.x.describe(), ", needs [T, H, P]");
  const int64_t tokens = c.x.dim(0);
  const int64_t heads = c.x.dim(1);
  NESTLING_CHECK(c.B.rank() == 3 && c.B.dim(0) == tokens && c.B.dim(2) >= 1 &&
                     heads % std::max<int64_t>(c.B.dim(2), 1) == 0,
                 op, ": B is ", c.B.describe(), ", needs [", tokens, ", N, G] with G dividing ",
                 heads, " heads");
  NESTLING_CHECK(same_shape(c.B, c.C), op, ": C is ", c.C.describe(), ", B is ", c.B.describe());
  NESTLING_CHECK(static_cast<bool>(c.dt_raw), op, ": needs dt_raw");
  check_shape(op, "dt_raw", c.dt_raw, {tokens, heads});
  NESTLING_CHECK(c.A_log && c.D && c.dt_bias, op, ": needs A_log, D and dt_bias");
  check_shape(op, "A_log", c.A_log, {heads});
  check_shape(op, "D", c.D, {heads});
  check_shape(op, "dt_bias", c.dt_bias, {heads});
  for (const ConstView& v : {c.dt_raw, c.A_log, c.D, c.dt_bias})
    check_dtype(op, "operand", v, DType::kF32);
  check_activations(ctx, op, {c.x, c.B, c.C});
  check_device(ctx, op, {c.x, c.dt_raw, c.B, c.C, c.A_log, c.D, c.dt_bias});
}

// Optional operands pass where absent; `like` gives the shape of the others.
void check_operand(Context& ctx, const char* op, const char* name, ConstView view,
                   std::initializer_list<int64_t> shape, DType dtype = DType::kF32) {
  check_shape(op, name, view, shape);
  check_dtype(op, name, view, dtype);
  check_device(ctx, op, {view});
}

void check_segments(const char* op, const Segments& segments, ConstView x) {
  NESTLING_CHECK(segments.tokens() == x.dim(0), op, ": the segments hold ", segments.tokens(),
                 " tokens, x is ", x.describe());
}

// The products of the chunked form, causal ones counted once: with q tokens in a chunk,
// C B^T is G N q(q+1), its product with x is H P q(q+1), and each product between a chunk and a
// state is 2 H P N q. Exponentials, scaling and what backward recomputes of the decays are not
// counted.
struct Products {
  double within_group = 0;  // sum over chunks of G N q(q+1)
  double within_head = 0;   // sum of H P q(q+1)
  double state = 0;         // sum of 2 H P N q, all chunks
  double state_first = 0;   // the part of `state` in the first chunk of each segment
  double state_last = 0;    // and in the last
};

Products products(const Segments& segments, int64_t chunk, ConstView x, ConstView B) {
  Products sum;
  const auto heads = static_cast<double>(x.dim(1) * x.dim(2));
  const auto groups = static_cast<double>(B.dim(1) * B.dim(2));
  const double per_token = 2 * heads * static_cast<double>(B.dim(1));
  for (int64_t i = 0; i < segments.count(); ++i) {
    const int64_t length = segments.length(i);
    for (int64_t at = 0; at < length; at += chunk) {
      const auto q = static_cast<double>(std::min(chunk, length - at));
      sum.within_group += groups * q * (q + 1);
      sum.within_head += heads * q * (q + 1);
      sum.state += per_token * q;
      if (at == 0) sum.state_first += per_token * q;
      if (at + chunk >= length) sum.state_last += per_token * q;
    }
  }
  return sum;
}

double bytes_of(std::initializer_list<ConstView> views) {
  double bytes = 0;
  for (const ConstView& v : views) bytes += static_cast<double>(v.bytes());
  return bytes;
}

}  // namespace

void scan_forward(Context& ctx, const ScanForward& a) {
  constexpr const char* kOp = "scan_forward";
  check_common(ctx, kOp, {a.x, a.dt_raw, a.B, a.C, a.A_log, a.D, a.dt_bias});
  check_segments(kOp, a.segments, a.x);
  const int64_t heads = a.x.dim(1);
  const int64_t channels = a.x.dim(2);
  const int64_t state = a.B.dim(1);
  const int64_t chunks = scan_chunks(a.segments, a.chunk);
  NESTLING_CHECK(static_cast<bool>(a.y), kOp, ": needs y");
  check_operand(ctx, kOp, "y", a.y, {a.x.dim(0), heads, channels}, a.x.dtype());
  check_operand(ctx, kOp, "chunk_states", a.chunk_states, {chunks, heads, channels, state});
  check_operand(ctx, kOp, "initial", a.initial, {a.segments.count(), heads, channels, state});
  check_operand(ctx, kOp, "final_state", a.final_state,
                {a.segments.count(), heads, channels, state});
  // y takes C B^T, its product with x and C S; the state takes x B^T. The first chunk has no state
  // to read, the last none to leave, unless they are operands.
  const Products p = products(a.segments, a.chunk, a.x, a.B);
  const double flops = p.within_group + p.within_head + 2 * p.state -
                       (a.initial ? 0 : p.state_first) - (a.final_state ? 0 : p.state_last);
  ctx.count(kOp, flops,
            bytes_of({a.y, a.x, a.dt_raw, a.B, a.C, a.chunk_states, a.initial, a.final_state}));
  if (ctx.code() == Device::kNull && a.x.dtype() == DType::kF32)
    return cpu::run(ctx, a);  // which takes the same scratch
  dispatch(ctx, a, cpu::run, cuda::run);
}

void scan_backward(Context& ctx, const ScanBackward& a) {
  constexpr const char* kOp = "scan_backward";
  check_common(ctx, kOp, {a.x, a.dt_raw, a.B, a.C, a.A_log, a.D, a.dt_bias});
  check_segments(kOp, a.segments, a.x);
  const int64_t tokens = a.x.dim(0);
  const int64_t heads = a.x.dim(1);
  const int64_t channels = a.x.dim(2);
  const int64_t state = a.B.dim(1);
  NESTLING_CHECK(
      a.dx && a.ddt_raw && a.dB && a.dC && a.dA_log && a.dD && a.ddt_bias && a.dy && a.chunk_states,
      kOp, ": every gradient, dy and chunk_states are needed");
  check_operand(ctx, kOp, "dx", a.dx, {tokens, heads, channels}, a.x.dtype());
  check_operand(ctx, kOp, "dy", a.dy, {tokens, heads, channels}, a.x.dtype());
  check_operand(ctx, kOp, "ddt_raw", a.ddt_raw, {tokens, heads});
  check_operand(ctx, kOp, "dB", a.dB, {tokens, state, a.B.dim(2)}, a.x.dtype());
  check_operand(ctx, kOp, "dC", a.dC, {tokens, state, a.B.dim(2)}, a.x.dtype());
  check_operand(ctx, kOp, "dA_log", a.dA_log, {heads});
  check_operand(ctx, kOp, "dD", a.dD, {heads});
  check_operand(ctx, kOp, "ddt_bias", a.ddt_bias, {heads});
  check_operand(ctx, kOp, "chunk_states", a.chunk_states,
                {scan_chunks(a.segments, a.chunk), heads, channels, state});
  // Within a chunk: C B^T again, then dC and dB from its gradient; dM and dx. Between chunks: dC
  // from the state before, dx and dB from the gradient of the state after (zero after the last
  // chunk), and that gradient itself (not needed before the first).
  const Products p = products(a.segments, a.chunk, a.x, a.B);
  const double flops = 3 * p.within_group + 2 * p.within_head + p.state +
                       2 * (p.state - p.state_last) + (p.state - p.state_first);
  ctx.count(kOp, flops,
            bytes_of({a.dx, a.ddt_raw, a.dB, a.dC, a.dy, a.x, a.dt_raw, a.B, a.C, a.chunk_states}));
  if (ctx.code() == Device::kNull && a.x.dtype() == DType::kF32)
    return cpu::run(ctx, a);  // which takes the same scratch
  dispatch(ctx, a, cpu::run, cuda::run);
}

void scan_step(Context& ctx, const ScanStep& a) {
  constexpr const char* kOp = "scan_step";
  check_common(ctx, kOp, {a.x, a.dt_raw, a.B, a.C, a.A_log, a.D, a.dt_bias});
  NESTLING_CHECK(a.y && a.state, kOp, ": needs y and state");
  check_operand(ctx, kOp, "y", a.y, {a.x.dim(0), a.x.dim(1), a.x.dim(2)}, a.x.dtype());
  check_operand(ctx, kOp, "state", a.state, {a.x.dim(0), a.x.dim(1), a.x.dim(2), a.B.dim(1)});
  ctx.count(kOp, 5 * static_cast<double>(a.state.size()),
            bytes_of({a.state, a.state, a.x, a.y, a.B, a.C, a.dt_raw}));
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
