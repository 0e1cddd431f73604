#include "kernels/ops/gated_norm.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_gated_norm(Bench& b) {
  struct Shape {
    int64_t tokens, heads, channels, groups;
    double floor;
  };
  for (const Shape& s : {Shape{4096, 16, 16, 4, 0.0}, Shape{8192, 64, 64, 8, 0.7}}) {
    const Tensor y = b.random({s.tokens, s.heads, s.channels});
    const Tensor z = b.random({s.tokens, s.heads, s.channels});
    const Tensor dout = b.random({s.tokens, s.heads, s.channels});
    const Tensor w = b.random({s.heads, s.channels});
    Tensor out(Device::kCpu, DType::kF32, {s.tokens, s.heads, s.channels});
    Tensor dz(Device::kCpu, DType::kF32, {s.tokens, s.heads, s.channels});
    Tensor rstd(Device::kCpu, DType::kF32, {s.tokens, s.groups});
    Tensor dw(Device::kCpu, DType::kF32, {s.heads, s.channels});
    Case c{.name = "rms_norm_gated_forward",
           .shape = str(s.tokens, "x", s.heads, "(", s.groups, ")x", s.channels),
           .bound = BoundBy::kMemory,
           .floor = s.floor};
    b.measure(c, [&](Context& ctx) {
      gated_norm_forward(ctx, {.out = out, .rstd = rstd, .y = y, .z = z, .w = w, .eps = 1e-5f});
    });
    c.name = "rms_norm_gated_backward";
    b.measure(c, [&](Context& ctx) {
      gated_norm_backward(
          ctx, {.dy = out, .dz = dz, .dw = dw, .dout = dout, .y = y, .z = z, .w = w, .rstd = rstd});
    });
  }
}

}  // namespace nestling::bench
