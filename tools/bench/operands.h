// operands.h - random tensors of any size on any device, filled at the speed of copies.
//
// Content       standard normal values that repeat with a prime period: no operator's speed depends on
//               that, while zeros would let a GPU draw less power and run faster than it can.
#pragma once
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"

namespace nestling::bench {

Tensor random_tensor(Device device, DType dtype, std::initializer_list<int64_t> shape, Rng& rng,
                     float scale = 1.0f);

}  // namespace nestling::bench
