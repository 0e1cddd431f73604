#include "kernels/ops/mask.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_mask(Bench& b) {
  constexpr int64_t kTokens = 16384, kWidth = 2048;
  const Tensor x = b.random({kTokens, kWidth}), dy = b.random({kTokens, kWidth});
  const Tensor m = b.random({kWidth});
  Tensor y(Device::kCpu, DType::kF32, {kTokens, kWidth}), dm(Device::kCpu, DType::kF32, {kWidth});
  Case c{.name = "mask_forward",
         .shape = str(kTokens, "x", kWidth),
         .bound = BoundBy::kMemory,
         .floor = 0.7};
  b.measure(c, [&](Context& ctx) { mask_forward(ctx, {.y = y, .x = x, .m = m}); });
  c.name = "mask_backward";
  b.measure(
      c, [&](Context& ctx) { mask_backward(ctx, {.dx = y, .dm = dm, .dy = dy, .x = x, .m = m}); });
}

}  // namespace nestling::bench
