#include "kernels/ops/rms_norm.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t t, d;
  double floor;
};

// The stream between layers, which it reads, is f32 everywhere.
void measure(Bench& b, const Shape& s, DType act) {
  const Tensor x = b.random({s.t, s.d}), w = b.random({s.d}), dy = b.random({s.t, s.d});
  Tensor y = b.zeros({s.t, s.d}, act), dx = b.zeros({s.t, s.d});
  Tensor rstd = b.zeros({s.t}), dw = b.zeros({s.d});
  Case c{.name = "rms_norm_forward",
         .shape = str(s.t, "x", s.d),
         .bound = BoundBy::kMemory,
         .floor = s.floor,
         .dtype = dtype_name(act)};
  b.measure(c, [&](Context& ctx) {
    rms_norm_forward(ctx, {.y = y, .rstd = rstd, .x = x, .w = w, .eps = 1e-5f});
  });
  if (act != DType::kF32) return;  // gradients of the norm are f32
  c.name = "rms_norm_backward";
  b.measure(c, [&](Context& ctx) {
    rms_norm_backward(ctx, {.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w, .rstd = rstd});
  });
}

}  // namespace

void bench_rms_norm(Bench& b) {
  const auto shapes =
      b.at<std::vector<Shape>>({{256, 256, 0.0}, {16384, 2048, 0.7}},
                               {{8192, 2688, 0.8}, {49152, 2688, 0.8}}, {{32, 48, 0.0}});
  for (const DType act : b.activations())
    for (const Shape& s : shapes) measure(b, s, act);
}

}  // namespace nestling::bench
