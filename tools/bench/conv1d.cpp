#include "kernels/ops/conv1d.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t tokens, channels;
};

void measure(Bench& b, const Shape& s, DType act) {
  constexpr int64_t kTaps = 4;
  const Tensor x = b.random({s.tokens, s.channels}, act),
               dy = b.random({s.tokens, s.channels}, act);
  const Tensor w = b.random({s.channels, kTaps}), bias = b.random({s.channels});
  Tensor y = b.zeros({s.tokens, s.channels}, act);
  Tensor dw = b.zeros({s.channels, kTaps}), dbias = b.zeros({s.channels});
  const int32_t offsets[] = {0, static_cast<int32_t>(s.tokens)};
  const Segments segments(offsets);
  Case c{.name = "conv1d_forward",
         .shape = str(s.tokens, "x", s.channels, "x", kTaps),
         .bound = BoundBy::kMemory,
         .floor = b.floor(0.5, 0.8),
         .dtype = dtype_name(act)};
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

}  // namespace

// On a card: the channels of x, and those of B or C.
void bench_conv1d(Bench& b) {
  const auto shapes = b.at<std::vector<Shape>>(
      {{16384, 2048}}, {{8192, 4096}, {8192, 1024}, {49152, 4096}}, {{32, 48}});
  for (const DType act : b.activations())
    for (const Shape& s : shapes) measure(b, s, act);
}

}  // namespace nestling::bench
