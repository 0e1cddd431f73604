#include "kernels/ops/conv1d.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_conv1d(Bench& b) {
  constexpr int64_t kTokens = 16384, kChannels = 2048, kTaps = 4;
  const Tensor x = b.random({kTokens, kChannels}), dy = b.random({kTokens, kChannels});
  const Tensor w = b.random({kChannels, kTaps}), bias = b.random({kChannels});
  Tensor y(Device::kCpu, DType::kF32, {kTokens, kChannels});
  Tensor dw(Device::kCpu, DType::kF32, {kChannels, kTaps});
  Tensor dbias(Device::kCpu, DType::kF32, {kChannels});
  const int32_t offsets[] = {0, kTokens};
  const Segments segments(offsets);
  Case c{.name = "conv1d_forward",
         .shape = str(kTokens, "x", kChannels, "x", kTaps),
         .bound = BoundBy::kMemory,
         .floor = 0.5};
  b.measure(c, [&](Context& ctx) {
    conv1d_forward(ctx, {.y = y, .x = x, .w = w, .bias = bias, .segments = segments});
  });
  c.name = "conv1d_backward";
  b.measure(c, [&](Context& ctx) {
    conv1d_backward(ctx, {.dx = y,
                          .dw = dw,
                          .dbias = dbias,
                          .dy = dy,
                          .x = x,
                          .w = w,
                          .bias = bias,
                          .segments = segments});
  });
}

}  // namespace nestling::bench
