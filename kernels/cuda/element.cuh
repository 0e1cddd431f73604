// element.cuh - elements of operands in device code: float or bf16 in memory, float in registers.
#pragma once
#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>

#include "kernels/core/view.h"

namespace nestling::cuda {

inline __device__ float load(const float* p) {
  return *p;
}
inline __device__ float load(const __nv_bfloat16* p) {
  return __bfloat162float(*p);
}
inline __device__ void store(float* p, float x) {
  *p = x;
}
inline __device__ void store(__nv_bfloat16* p, float x) {
  *p = __float2bfloat16_rn(x);
}

// log(1 + e^x), right at both ends.
inline __device__ float softplus(float x) {
  return x > 20.0f ? x : log1pf(expf(x));
}
// 2^x within two units in the last place and 1 / x within one; what is below the least normal number is 0. The
// library's functions take care of what is: three times the instructions in kernels that are bound by memory.
#ifdef __CUDACC__
inline __device__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
inline __device__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}
#else  // on the emulator
inline float normal_or_zero(float x) {
  return fabsf(x) < 1.17549435e-38f ? 0.0f : x;
}
inline float fast_exp2(float x) {
  return normal_or_zero(exp2f(x));
}
inline float reciprocal(float x) {
  return normal_or_zero(1.0f / x);
}
#endif
inline constexpr float kLog2E = 1.44269504f;
// What the largest score of an online softmax starts from: finite, so that e^(-infinity - it) is 0, not NaN.
inline constexpr float kLowestScore = -3.402823466e38f;

// At both ends 2^x is 0 or infinity, and the sigmoid 1 or 0.
inline __device__ float sigmoid(float x) {
  return reciprocal(1.0f + fast_exp2(-kLog2E * x));
}
inline __device__ float silu(float x) {
  return x * sigmoid(x);
}
// d silu(x) / dx
inline __device__ float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

// The pointers of bf16 views as device code names them.
inline __nv_bfloat16* bf16_of(View v) {
  return reinterpret_cast<__nv_bfloat16*>(v.ptr<bf16>());
}
inline const __nv_bfloat16* bf16_of(ConstView v) {
  return reinterpret_cast<const __nv_bfloat16*>(v.ptr<bf16>());
}
// The same by that type: X is float or __nv_bfloat16.
template <class X>
auto elements(auto view) {
  if constexpr (std::is_same_v<X, float>)
    return view.template ptr<float>();
  else
    return bf16_of(view);
}
// Calls body with a value of the type that the elements of a view have in device code.
template <class Body>
void with_elements(ConstView v, Body&& body) {
  if (v.dtype() == DType::kBF16)
    body(__nv_bfloat16());
  else
    body(float());
}
// Null where the operand was left out.
inline float* optional_floats(View v) {
  return v ? v.ptr<float>() : nullptr;
}
inline const float* optional_floats(ConstView v) {
  return v ? v.ptr<float>() : nullptr;
}

}  // namespace nestling::cuda
