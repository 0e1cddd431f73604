#include "kernels/ops/adamw.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

void bench_adamw(Bench& b) {
  const int64_t size = int64_t{1} << b.at(25, 28, 10);
  const Tensor grad = b.random({size});
  Tensor master = b.random({size}), m = b.zeros({size}), v = b.zeros({size});
  Tensor low = b.zeros({size}, DType::kBF16);
  const AdamWTensor tensors[] = {
      {.master = master, .m = m, .v = v, .grad = grad, .low = low, .lr = 1e-4f, .decay = 0.1f}};
  const Case c{.name = "adamw_step",
               .shape = str(size),
               .bound = BoundBy::kMemory,
               .floor = b.floor(0.7, 0.8)};
  b.measure(c, [&](Context& ctx) {
    adamw_step(ctx, {.tensors = tensors, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .step = 10});
  });
}

}  // namespace nestling::bench
