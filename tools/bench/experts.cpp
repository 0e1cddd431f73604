#include "kernels/ops/experts.h"

#include "kernels/ops/linear.h"
#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t rows, experts, k, n;
};

// Uneven on purpose: expert e owns a share that grows with e, as gates give it.
Tensor uneven_offsets(const Shape& s) {
  Tensor offsets(Device::kCpu, DType::kI32, {s.experts + 1});
  for (int64_t e = 0; e <= s.experts; ++e) {
    const double part = static_cast<double>(e) / static_cast<double>(s.experts);
    offsets.ptr<int32_t>()[e] =
        static_cast<int32_t>(static_cast<double>(s.rows) * part * (0.5 + 0.5 * part));
  }
  return offsets;
}

// The products must reach 75% of linear's rate on as many rows.
void products(Bench& b, const Shape& s, DType dtype) {
  const Tensor x = b.random({s.rows, s.k}), dy = b.random({s.rows, s.n});
  const Tensor w = b.random({s.experts, s.n, s.k}, dtype), offsets = uneven_offsets(s);
  Tensor y(Device::kCpu, DType::kF32, {s.rows, s.n}), dx(Device::kCpu, DType::kF32, {s.rows, s.k});
  Tensor dw(Device::kCpu, DType::kF32, {s.experts, s.n, s.k});
  const ConstView one = w.view().slice(0, 0, 1).reshape({s.n, s.k});
  const View done = dw.view().slice(0, 0, 1).reshape({s.n, s.k});
  const BoundBy bound = dtype == DType::kF32 ? BoundBy::kF32Product : BoundBy::kBf16Product;
  const std::string size = str(s.rows, "x", s.k, "x", s.n);
  Case c{.name = "linear_forward", .shape = size, .bound = bound, .dtype = dtype_name(dtype)};
  const double forward =
      b.measure(c, [&](Context& ctx) { linear_forward(ctx, {.y = y, .x = x, .w = one}); });
  c.name = "linear_backward";
  const double backward = b.measure(c, [&](Context& ctx) {
    linear_backward(ctx, {.dx = dx, .dw = done, .dy = dy, .x = x, .w = one});
  });
  c.shape = str(size, " over ", s.experts);
  c.name = "experts_forward";
  c.floor_gflops = 0.75 * forward;
  b.measure(c, [&](Context& ctx) {
    expert_linear_forward(ctx, {.y = y, .x = x, .w = w, .offsets = offsets});
  });
  c.name = "experts_backward";
  c.floor_gflops = 0.75 * backward;
  b.measure(c, [&](Context& ctx) {
    expert_linear_backward(ctx, {.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w, .offsets = offsets});
  });
}

// Tokens to sorted rows and back.
void routing(Bench& b) {
  constexpr int64_t kTokens = 8192, kChosen = 4, kExperts = 32, kWidth = 1024;
  Rng rng(1);
  Tensor index(Device::kCpu, DType::kI32, {kTokens, kChosen});
  for (int64_t i = 0; i < index.size(); ++i)
    index.ptr<int32_t>()[i] = static_cast<int32_t>(rng.below(kExperts));
  Tensor offsets(Device::kCpu, DType::kI32, {kExperts + 1});
  Tensor order(Device::kCpu, DType::kI32, {kTokens * kChosen});
  const Tensor x = b.random({kTokens, kWidth}), weight = b.random({kTokens, kChosen});
  Tensor rows(Device::kCpu, DType::kF32, {kTokens * kChosen, kWidth});
  Tensor y(Device::kCpu, DType::kF32, {kTokens, kWidth});
  Case c{.name = "experts_sort",
         .shape = str(kTokens, "x", kChosen, " to ", kExperts),
         .bound = BoundBy::kMemory,
         .dtype = "i32"};
  b.measure(c, [&](Context& ctx) {
    expert_sort(ctx, {.offsets = offsets, .order = order, .index = index});
  });
  c.dtype = "f32";
  c.shape = str(kTokens, "x", kChosen, "x", kWidth);
  c.name = "experts_gather";
  b.measure(c, [&](Context& ctx) { expert_gather(ctx, {.rows = rows, .x = x, .order = order}); });
  c.name = "experts_combine";
  b.measure(c, [&](Context& ctx) {
    expert_combine(ctx, {.y = y, .rows = rows, .weight = weight, .order = order});
  });
}

}  // namespace

void bench_experts(Bench& b) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const Shape& s : {Shape{4096, 8, 512, 512}, Shape{4096, 32, 512, 512},
                           Shape{4096, 16, 1024, 256}, Shape{4096, 16, 256, 1024}})
      products(b, s, dtype);
  routing(b);
}

}  // namespace nestling::bench
