#include "kernels/ops/attention.h"

#include <cmath>

#include "tools/bench/benches.h"

namespace nestling::bench {

// Forward and backward together must reach 35% of peak at head dim 64 and up, S 1024 and up.
void bench_attention(Bench& b) {
  struct Shape {
    int64_t s, q, kv, h;
  };
  for (const Shape& s : {Shape{128, 4, 2, 32}, Shape{1024, 8, 2, 64}, Shape{2048, 8, 2, 64},
                         Shape{1024, 8, 2, 128}, Shape{4096, 4, 1, 128}}) {
    const Tensor q = b.random({s.s, s.q, s.h}), k = b.random({s.s, s.kv, s.h}),
                 v = b.random({s.s, s.kv, s.h}), dy = b.random({s.s, s.q, s.h});
    const auto like = [](const Tensor& t) {
      return Tensor(Device::kCpu, DType::kF32, {t.view().dim(0), t.view().dim(1), t.view().dim(2)});
    };
    Tensor y = like(q), dq = like(q), dk = like(k), dv = like(v);
    Tensor lse(Device::kCpu, DType::kF32, {s.s, s.q});
    const int32_t offsets[] = {0, static_cast<int32_t>(s.s)};
    const Segments segments(offsets);
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.h));
    const auto forward = [&](Context& ctx) {
      attention_forward(
          ctx, {.y = y, .lse = lse, .q = q, .k = k, .v = v, .segments = segments, .scale = scale});
    };
    const auto backward = [&](Context& ctx) {
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
    };
    Case c{.name = "attention_forward",
           .shape = str(s.s, "x", s.q, "(", s.kv, ")x", s.h),
           .bound = BoundBy::kF32Product};
    b.measure(c, forward);
    c.name = "attention_backward";
    b.measure(c, backward);
    c.name = "attention_forward_backward";
    c.floor = s.s >= 1024 && s.h >= 64 ? 0.35 : 0.0;
    b.measure(c, [&](Context& ctx) {
      forward(ctx);
      backward(ctx);
    });
  }
}

}  // namespace nestling::bench
