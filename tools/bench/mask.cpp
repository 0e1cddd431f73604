#include "kernels/ops/mask.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_mask(Bench& b) {
  const auto tokens = b.at<int64_t>(16384, 8192, 32), width = b.at<int64_t>(2048, 2688, 48);
  for (const DType act : b.activations()) {
    const Tensor x = b.random({tokens, width}, act), dy = b.random({tokens, width}, act);
    const Tensor m = b.random({width});
    Tensor y = b.zeros({tokens, width}, act), dm = b.zeros({width});
    Case c{.name = "mask_forward",
           .shape = str(tokens, "x", width),
           .bound = BoundBy::kMemory,
           .floor = b.floor(0.7, 0.8),
           .dtype = dtype_name(act)};
    b.measure(c, [&](Context& ctx) { mask_forward(ctx, {.y = y, .x = x, .m = m}); });
    c.name = "mask_backward";
    b.measure(c, [&](Context& ctx) {
      mask_backward(ctx, {.dx = y, .dm = dm, .dy = dy, .x = x, .m = m});
    });
  }
}

}  // namespace nestling::bench
