#include "kernels/ops/attention.h"

#include <algorithm>

#include "kernels/ops/dispatch.h"

namespace nestling {

namespace {

// Pairs (t, s) that the mask lets through in a segment of n tokens, for one head.
double visible_pairs(int64_t n, int64_t window) {
  const int64_t ramp = window > 0 ? std::min(n, window) : n;  // token t < ramp sees t + 1 tokens
  const auto r = static_cast<double>(ramp);
  return r * (r + 1) / 2 + static_cast<double>(n - ramp) * r;
}

double visible_pairs(const Segments& segments, std::span<const int32_t> starts, int64_t window) {
  double pairs = 0;
  for (int64_t i = 0; i < segments.count(); ++i) {
    const int64_t before = starts.empty() ? 0 : starts[static_cast<size_t>(i)];
    pairs += visible_pairs(before + segments.length(i), window) - visible_pairs(before, window);
  }
  return pairs;
}

// Of the keys or values that forward reads.
double bytes_read(ConstView k, const Segments& segments, std::span<const int32_t> starts) {
  if (starts.empty()) return static_cast<double>(k.bytes());
  int64_t rows = segments.tokens();
  for (const int32_t start : starts) rows += start;
  return static_cast<double>(rows * k.dim(2) * k.dim(3) * dtype_bytes(k.dtype()));
}

double bytes_of(std::initializer_list<ConstView> views) {
  double bytes = 0;
  for (const ConstView& v : views) bytes += static_cast<double>(v.bytes());
  return bytes;
}

void check_operands(Context& ctx, const char* op, std::initializer_list<ConstView> views) {
  check_activations(ctx, op, views);
  check_device(ctx, op, views);
}
void check_lse(Context& ctx, const char* op, ConstView lse) {
  check_dtype(op, "lse", lse, DType::kF32);
  check_device(ctx, op, {lse});
}

void check_common(const char* op, ConstView q, ConstView k, ConstView y, ConstView lse,
                  const Segments& segments, float scale, int64_t window) {
  NESTLING_CHECK(q.rank() == 3, op, ": q is ", q.describe(), ", needs [T, Q, h]");
  const int64_t kv_heads = k.rank() < 2 ? 0 : k.dim(k.rank() - 2);
  NESTLING_CHECK(kv_heads > 0 && q.dim(1) % kv_heads == 0, op, ": ", q.dim(1),
                 " query heads are not a multiple of ", kv_heads, " KV heads");
  check_shape(op, "y", y, {q.dim(0), q.dim(1), q.dim(2)});
  check_shape(op, "lse", lse, {q.dim(0), q.dim(1)});
  NESTLING_CHECK(segments.tokens() == q.dim(0), op, ": segments end at token ", segments.tokens(),
                 ", q is ", q.describe());
  NESTLING_CHECK(window >= 0, op, ": window ", window, " is negative");
  NESTLING_CHECK(scale > 0, op, ": scale ", scale, " is not positive");
}
// Keys and values of the batch's own tokens.
void check_own(const char* op, ConstView q, ConstView k, ConstView v) {
  NESTLING_CHECK(k.rank() == 3 && k.dim(0) == q.dim(0) && k.dim(2) == q.dim(2), op, ": k is ",
                 k.describe(), ", needs [T, K, h] to go with q ", q.describe());
  check_shape(op, "v", v, {k.dim(0), k.dim(1), k.dim(2)});
}
void check_caches(const char* op, const AttentionForward& a) {
  NESTLING_CHECK(std::ssize(a.starts) == a.segments.count(), op, ": ", a.starts.size(),
                 " starts for ", a.segments.count(), " segments");
  NESTLING_CHECK(a.k.rank() == 4 && a.k.dim(0) == a.segments.count() && a.k.dim(3) == a.q.dim(2),
                 op, ": k is ", a.k.describe(), ", needs [segments, capacity, K, h] to go with q ",
                 a.q.describe());
  check_shape(op, "v", a.v, {a.k.dim(0), a.k.dim(1), a.k.dim(2), a.k.dim(3)});
  for (const ConstView& c : {a.k, a.v})
    NESTLING_CHECK(c.dim(0) == 1 || c.stride(0) == c.dim(1) * c.stride(1), op, ": caches ",
                   c.describe(), " lie apart");
  for (int64_t i = 0; i < a.segments.count(); ++i) {
    const int64_t start = a.starts[static_cast<size_t>(i)];
    NESTLING_CHECK(start >= 0 && start + a.segments.length(i) <= a.k.dim(1), op, ": ", start,
                   " tokens and ", a.segments.length(i), " more of segment ", i, " are outside 0..",
                   a.k.dim(1), ", the capacity of the cache");
  }
}

ConstView rows_of(ConstView caches) {
  return caches.reshape({caches.dim(0) * caches.dim(1), caches.dim(2), caches.dim(3)});
}

}  // namespace

void attention_forward(Context& ctx, const AttentionForward& a) {
  constexpr const char* kOp = "attention_forward";
  check_common(kOp, a.q, a.k, a.y, a.lse, a.segments, a.scale, a.window);
  if (a.starts.empty())
    check_own(kOp, a.q, a.k, a.v);
  else
    check_caches(kOp, a);
  check_operands(ctx, kOp, {a.y, a.q, a.k, a.v});
  check_lse(ctx, kOp, a.lse);
  const auto per_pair = static_cast<double>(a.q.dim(1) * a.q.dim(2));
  ctx.count(kOp, 4 * per_pair * visible_pairs(a.segments, a.starts, a.window),
            bytes_of({a.y, a.lse, a.q}) + 2 * bytes_read(a.k, a.segments, a.starts));
  AttentionForward rows = a;
  if (!a.starts.empty()) {
    rows.k = rows_of(a.k);
    rows.v = rows_of(a.v);
  }
  if (ctx.code() == Device::kNull) return cpu::run(ctx, rows);  // which takes the same scratch
  dispatch(ctx, rows, cpu::run, cuda::run);
}

void attention_backward(Context& ctx, const AttentionBackward& a) {
  constexpr const char* kOp = "attention_backward";
  check_common(kOp, a.q, a.k, a.y, a.lse, a.segments, a.scale, a.window);
  check_own(kOp, a.q, a.k, a.v);
  check_shape(kOp, "dy", a.dy, {a.q.dim(0), a.q.dim(1), a.q.dim(2)});
  check_shape(kOp, "dq", a.dq, {a.q.dim(0), a.q.dim(1), a.q.dim(2)});
  check_shape(kOp, "dk", a.dk, {a.k.dim(0), a.k.dim(1), a.k.dim(2)});
  check_shape(kOp, "dv", a.dv, {a.k.dim(0), a.k.dim(1), a.k.dim(2)});
  check_operands(ctx, kOp, {a.dq, a.dk, a.dv, a.dy, a.q, a.k, a.v, a.y});
  check_lse(ctx, kOp, a.lse);
  const auto per_pair = static_cast<double>(a.q.dim(1) * a.q.dim(2));
  ctx.count(kOp, 10 * per_pair * visible_pairs(a.segments, {}, a.window),
            bytes_of({a.dq, a.dk, a.dv, a.dy, a.q, a.k, a.v, a.y, a.lse}));
  if (ctx.code() == Device::kNull) return cpu::run(ctx, a);  // which takes the same scratch
  dispatch(ctx, a, cpu::run, cuda::run);
}

void attention_step(Context& ctx, const AttentionStep& a) {
  constexpr const char* kOp = "attention_step";
  NESTLING_CHECK(a.q.rank() == 3, kOp, ": q is ", a.q.describe(), ", needs [B, Q, h]");
  const int64_t batch = a.q.dim(0);
  const int64_t width = a.q.dim(2);
  NESTLING_CHECK(a.k.rank() == 3 && a.k.dim(0) == batch && width > 0 && a.k.dim(2) % width == 0,
                 kOp, ": k is ", a.k.describe(), ", needs [B, capacity, K * h] to go with q ",
                 a.q.describe());
  const int64_t kv_heads = a.k.dim(2) / width;
  NESTLING_CHECK(kv_heads > 0 && a.q.dim(1) % kv_heads == 0, kOp, ": ", a.q.dim(1),
                 " query heads are not a multiple of ", kv_heads, " KV heads");
  check_shape(kOp, "v", a.v, {batch, a.k.dim(1), a.k.dim(2)});
  check_shape(kOp, "new_k", a.new_k, {batch, a.k.dim(2)});
  check_shape(kOp, "new_v", a.new_v, {batch, a.k.dim(2)});
  check_shape(kOp, "y", a.y, {batch, a.q.dim(1), width});
  NESTLING_CHECK(a.window >= 0, kOp, ": window ", a.window, " is negative");
  NESTLING_CHECK(static_cast<int64_t>(a.lengths.size()) == batch, kOp, ": ", a.lengths.size(),
                 " lengths for ", batch, " sequences");
  check_operands(ctx, kOp, {a.y, a.q, a.new_k, a.new_v, a.k, a.v});
  double seen = 0;
  for (const int32_t length : a.lengths) {
    NESTLING_CHECK(length >= 1 && length <= a.k.dim(1), kOp, ": length ", length, " is outside 1..",
                   a.k.dim(1), ", the capacity of the cache");
    seen += static_cast<double>(a.window > 0 ? std::min<int64_t>(length, a.window) : length);
  }
  ctx.count(kOp, 4 * seen * static_cast<double>(a.q.dim(1) * width),
            bytes_of({a.y, a.q}) +
                2 * seen * static_cast<double>(dtype_bytes(a.k.dtype()) * kv_heads * width));
  dispatch(ctx, a, cpu::run, cuda::run);
}

}  // namespace nestling
