#include "kernels/ops/rms_norm.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_rms_norm(Bench& b) {
  struct Shape {
    int64_t t, d;
    double floor;
  };
  for (const Shape& s : {Shape{256, 256, 0.0}, Shape{16384, 2048, 0.7}}) {
    const Tensor x = b.random({s.t, s.d}), w = b.random({s.d}), dy = b.random({s.t, s.d});
    Tensor y(Device::kCpu, DType::kF32, {s.t, s.d}), rstd(Device::kCpu, DType::kF32, {s.t});
    Tensor dw(Device::kCpu, DType::kF32, {s.d});
    Case c{.name = "rms_norm_forward",
           .shape = str(s.t, "x", s.d),
           .bound = BoundBy::kMemory,
           .floor = s.floor};
    b.measure(c, [&](Context& ctx) {
      rms_norm_forward(ctx, {.y = y, .rstd = rstd, .x = x, .w = w, .eps = 1e-5f});
    });
    c.name = "rms_norm_backward";
    b.measure(c, [&](Context& ctx) {
      rms_norm_backward(ctx, {.dx = y, .dw = dw, .dy = dy, .x = x, .w = w, .rstd = rstd});
    });
  }
}

}  // namespace nestling::bench
