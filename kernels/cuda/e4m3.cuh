// e4m3.cuh - values of E4M3 in device code: kernels/core/f8e4m3.h.
#pragma once
#include <cuda_runtime.h>

namespace nestling::cuda {

inline __device__ float e4m3_value(unsigned code) {
  const unsigned size = code & 0x7fu;
  const unsigned sign = (code & 0x80u) << 24;
  if (size == 0x7f) return __uint_as_float(sign | 0x7fc00000u);
  const float value = size < 8 ? static_cast<float>(size) * 0x1.0p-9f
                               : __uint_as_float((size << 20) + (120u << 23));
  return __uint_as_float(sign | __float_as_uint(value));
}

}  // namespace nestling::cuda
