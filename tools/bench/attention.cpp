#include "kernels/ops/attention.h"

#include <cmath>

#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t s, q, kv, h;
};

struct Operands {
  Tensor q, k, v, dy, y, dq, dk, dv, lse;
  float scale;

  Operands(Bench& b, const Shape& s, DType act)
      : q(b.random({s.s, s.q, s.h}, act)),
        k(b.random({s.s, s.kv, s.h}, act)),
        v(b.random({s.s, s.kv, s.h}, act)),
        dy(b.random({s.s, s.q, s.h}, act)),
        y(b.zeros({s.s, s.q, s.h}, act)),
        dq(b.zeros({s.s, s.q, s.h}, act)),
        dk(b.zeros({s.s, s.kv, s.h}, act)),
        dv(b.zeros({s.s, s.kv, s.h}, act)),
        lse(b.zeros({s.s, s.q})),
        scale(1.0f / std::sqrt(static_cast<float>(s.h))) {}

  void forward(Context& ctx, const Segments& segments) {
    attention_forward(
        ctx, {.y = y, .lse = lse, .q = q, .k = k, .v = v, .segments = segments, .scale = scale});
  }
  void backward(Context& ctx, const Segments& segments) {
    attention_backward(ctx, {.dq = dq,
                             .dk = dk,
                             .dv = dv,
                             .dy = dy,
                             .q = q,
                             .k = k,
                             .v = v,
                             .y = y,
                             .lse = lse,
                             .segments = segments,
                             .scale = scale});
  }
};

void measure(Bench& b, const Shape& s, DType act) {
  Operands o(b, s, act);
  const int32_t offsets[] = {0, static_cast<int32_t>(s.s)};
  const Segments segments(offsets);
  const bool low = act == DType::kBF16;
  Case c{.name = "attention_forward",
         .shape = str(s.s, "x", s.q, "(", s.kv, ")x", s.h),
         .bound = BoundBy::kProduct,
         .floor = b.floor(0, low ? 0.6 : 0),
         .dtype = dtype_name(act)};
  b.measure(c, [&](Context& ctx) { o.forward(ctx, segments); });
  c.name = "attention_backward";
  c.floor = b.floor(0, low ? 0.45 : 0);
  b.measure(c, [&](Context& ctx) { o.backward(ctx, segments); });
  c.name = "attention_forward_backward";
  c.floor = b.floor(s.s >= 1024 && s.h >= 64 ? 0.35 : 0.0, 0);
  b.measure(c, [&](Context& ctx) {
    o.forward(ctx, segments);
    o.backward(ctx, segments);
  });
}

}  // namespace

// CPU: forward and backward together 35% of peak at head dim 64 and up, S 1024 and up. A card in bf16:
// forward 60%, backward 45%. Its long case in f32 would take minutes and is left out.
void bench_attention(Bench& b) {
  const auto shapes = b.at<std::vector<Shape>>(
      {{128, 4, 2, 32}, {1024, 8, 2, 64}, {2048, 8, 2, 64}, {1024, 8, 2, 128}, {4096, 4, 1, 128}},
      {{8192, 32, 2, 128}, {49152, 32, 2, 128}}, {{32, 4, 2, 16}});
  for (const DType act : b.activations())
    for (const Shape& s : shapes)
      if (act == DType::kBF16 || s.s <= 8192) measure(b, s, act);
}

}  // namespace nestling::bench
