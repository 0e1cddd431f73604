#include "kernels/ops/gated_norm.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t tokens, heads, channels, groups;
  double floor;
};

void measure(Bench& b, const Shape& s, DType act) {
  const Tensor y = b.random({s.tokens, s.heads, s.channels}, act);
  const Tensor z = b.random({s.tokens, s.heads, s.channels}, act);
  const Tensor dout = b.random({s.tokens, s.heads, s.channels}, act);
  const Tensor w = b.random({s.heads, s.channels});
  Tensor out = b.zeros({s.tokens, s.heads, s.channels}, act);
  Tensor dz = b.zeros({s.tokens, s.heads, s.channels}, act);
  Tensor rstd = b.zeros({s.tokens, s.groups}), dw = b.zeros({s.heads, s.channels});
  Case c{.name = "rms_norm_gated_forward",
         .shape = str(s.tokens, "x", s.heads, "(", s.groups, ")x", s.channels),
         .bound = BoundBy::kMemory,
         .floor = s.floor,
         .dtype = dtype_name(act)};
  b.measure(c, [&](Context& ctx) {
    gated_norm_forward(ctx, {.out = out, .rstd = rstd, .y = y, .z = z, .w = w, .eps = 1e-5f});
  });
  c.name = "rms_norm_gated_backward";
  b.measure(c, [&](Context& ctx) {
    gated_norm_backward(
        ctx, {.dy = out, .dz = dz, .dw = dw, .dout = dout, .y = y, .z = z, .w = w, .rstd = rstd});
  });
}

}  // namespace

void bench_gated_norm(Bench& b) {
  const auto shapes = b.at<std::vector<Shape>>({{4096, 16, 16, 4, 0.0}, {8192, 64, 64, 8, 0.7}},
                                               {{8192, 64, 64, 8, 0.8}, {49152, 64, 64, 8, 0.8}},
                                               {{32, 4, 16, 2, 0.0}});
  for (const DType act : b.activations())
    for (const Shape& s : shapes) measure(b, s, act);
}

}  // namespace nestling::bench
