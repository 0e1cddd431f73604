#include "kernels/ops/linear.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t t, k, n;
};

// Large products must be near peak: 85%, from 512^3 up.
double floor_of(const Shape& s) {
  return std::min({s.t, s.k, s.n}) >= 512 ? 0.85 : 0.0;
}

void training(Bench& b, const Shape& s, DType dtype) {
  const Tensor x = b.random({s.t, s.k}), w = b.random({s.n, s.k}, dtype), dy = b.random({s.t, s.n});
  Tensor y(Device::kCpu, DType::kF32, {s.t, s.n}), dx(Device::kCpu, DType::kF32, {s.t, s.k});
  Tensor dw(Device::kCpu, DType::kF32, {s.n, s.k});
  Case c{.name = "linear_forward",
         .shape = str(s.t, "x", s.k, "x", s.n),
         .bound = dtype == DType::kF32 ? BoundBy::kF32Product : BoundBy::kBf16Product,
         .floor = floor_of(s),
         .dtype = dtype_name(dtype)};
  b.measure(c, [&](Context& ctx) { linear_forward(ctx, {.y = y, .x = x, .w = w}); });
  c.name = "linear_backward";
  b.measure(c, [&](Context& ctx) {
    linear_backward(ctx, {.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w});
  });
}

// One to a few tokens: reading the weights is all the cost.
void decoding(Bench& b, int64_t tokens, DType dtype, bool packed) {
  constexpr int64_t kWidth = 8192;  // 256 MiB of f32: beyond the caches
  const Tensor x = b.random({tokens, kWidth}), w = b.random({kWidth, kWidth}, dtype);
  Tensor y(Device::kCpu, DType::kF32, {tokens, kWidth});
  const Case c{.name = packed ? "linear_decode_packed" : "linear_decode",
               .shape = str(tokens, "x", kWidth, "x", kWidth),
               .bound = BoundBy::kMemory,
               .dtype = dtype_name(dtype)};
  if (!packed) {
    b.measure(c, [&](Context& ctx) { linear_forward(ctx, {.y = y, .x = x, .w = w}); });
    return;
  }
  Context ctx_pack(Device::kCpu);
  const PackedWeight weight(ctx_pack, w);
  b.measure(c, [&](Context& ctx) { weight.forward(ctx, y, x); });
}

}  // namespace

void bench_linear(Bench& b) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Shape& s : {Shape{16, 16, 16}, Shape{64, 64, 64}, Shape{256, 256, 256},
                           Shape{512, 512, 512}, Shape{1024, 1024, 1024}, Shape{2048, 2048, 2048},
                           Shape{1024, 384, 1536}, Shape{4096, 512, 512}})
      training(b, s, dtype);
    for (const int64_t tokens : {1, 4})
      for (const bool packed : {false, true}) decoding(b, tokens, dtype, packed);
  }
}

}  // namespace nestling::bench
