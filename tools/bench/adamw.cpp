#include "kernels/ops/adamw.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_adamw(Bench& b) {
  constexpr int64_t kSize = int64_t{1} << 25;
  const Tensor grad = b.random({kSize});
  Tensor master = b.random({kSize}), m(Device::kCpu, DType::kF32, {kSize});
  Tensor v(Device::kCpu, DType::kF32, {kSize}), low(Device::kCpu, DType::kBF16, {kSize});
  const AdamWTensor tensors[] = {
      {.master = master, .m = m, .v = v, .grad = grad, .low = low, .lr = 1e-4f, .decay = 0.1f}};
  b.measure({.name = "adamw_step", .shape = str(kSize), .bound = BoundBy::kMemory, .floor = 0.7},
            [&](Context& ctx) {
              adamw_step(
                  ctx,
                  {.tensors = tensors, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .step = 10});
            });
}

}  // namespace nestling::bench
