// cuda_fp8.h - of the emulator: the conversion to E4M3 as kernels/cuda uses it, to nearest even.
#pragma once
#include "cuda_runtime.h"
#include "kernels/core/f8e4m3.h"

using __nv_fp8x2_storage_t = unsigned short;
enum __nv_saturation_t { __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };

// x in the lower byte.
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t,
                                                     __nv_fp8_interpretation_t) {
  const unsigned low = nestling::f8e4m3(x.x).bits;
  const unsigned high = nestling::f8e4m3(x.y).bits;
  return static_cast<__nv_fp8x2_storage_t>(low | high << 8);
}
