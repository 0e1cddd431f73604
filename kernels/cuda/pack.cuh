// pack.cuh - kN neighbouring elements of a row at once: 4 are one access of 16 (f32) or 8 (bf16) bytes, 2 of
// half as many, 1 is any element.
//
// Alignment     packs of 4 ask for packable() operands and a first column that is a multiple of 4; the
//               end of a row is taken element by element, so any width will do. load_whole() and quads where
//               kPacked ask for a width that is a multiple of 4 too.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/element.cuh"

namespace nestling::cuda {

template <int kN>
struct Pack {
  float v[kN];
};

template <int kN>
__device__ Pack<kN> load_pack(const float* p) {
  static_assert(kN == 1 || kN == 4);
  if constexpr (kN == 1) {
    return {{*p}};
  } else {
    const float4 x = *reinterpret_cast<const float4*>(p);
    return {{x.x, x.y, x.z, x.w}};
  }
}
template <int kN>
__device__ Pack<kN> load_pack(const __nv_bfloat16* p) {
  static_assert(kN == 1 || kN == 4);
  if constexpr (kN == 1) {
    return {{load(p)}};
  } else {  // bf16 is the upper half of f32
    const uint2 x = *reinterpret_cast<const uint2*>(p);
    return {{__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
             __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u)}};
  }
}

// To device memory, in one access. An assignment is not enough: nvcc may split a vector into its elements.
inline __device__ void store_vector(float* p, float a, float b, float c, float d) {
#ifdef __CUDACC__
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"l"(__cvta_generic_to_global(p)),
               "f"(a), "f"(b), "f"(c), "f"(d)
               : "memory");
#else  // on the emulator
  *reinterpret_cast<float4*>(p) = make_float4(a, b, c, d);
#endif
}
inline __device__ void store_vector(float* p, float a, float b) {
#ifdef __CUDACC__
  asm volatile("st.global.v2.f32 [%0], {%1, %2};\n" ::"l"(__cvta_generic_to_global(p)), "f"(a),
               "f"(b)
               : "memory");
#else
  *reinterpret_cast<float2*>(p) = make_float2(a, b);
#endif
}
inline __device__ void store_vector(__nv_bfloat16* p, unsigned low, unsigned high) {
#ifdef __CUDACC__
  asm volatile("st.global.v2.b32 [%0], {%1, %2};\n" ::"l"(__cvta_generic_to_global(p)), "r"(low),
               "r"(high)
               : "memory");
#else
  *reinterpret_cast<uint2*>(p) = make_uint2(low, high);
#endif
}
inline __device__ void store_vector(__nv_bfloat16* p, unsigned a, unsigned b, unsigned c,
                                    unsigned d) {
#ifdef __CUDACC__
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(__cvta_generic_to_global(p)),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
#else
  *reinterpret_cast<uint4*>(p) = make_uint4(a, b, c, d);
#endif
}

// Two floats rounded to bf16, the first in the lower half.
inline __device__ unsigned bits_of(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// To device memory alone.
template <int kN>
__device__ void store_pack(float* p, const Pack<kN>& x) {
  if constexpr (kN == 1)
    *p = x.v[0];
  else if constexpr (kN == 2)
    store_vector(p, x.v[0], x.v[1]);
  else
    store_vector(p, x.v[0], x.v[1], x.v[2], x.v[3]);
}
template <int kN>
__device__ void store_pack(__nv_bfloat16* p, const Pack<kN>& x) {
  if constexpr (kN == 1) {
    store(p, x.v[0]);
  } else if constexpr (kN == 2) {
    *reinterpret_cast<unsigned*>(p) = bits_of(x.v[0], x.v[1]);
  } else {
    store_vector(p, bits_of(x.v[0], x.v[1]), bits_of(x.v[2], x.v[3]));
  }
}

// The first n <= kN elements, as at the end of a row; the rest is zero, or not written.
template <int kN, class X>
__device__ Pack<kN> load_pack(const X* p, int64_t n) {
  if (n >= kN) return load_pack<kN>(p);
  Pack<kN> x;
#pragma unroll
  for (int i = 0; i < kN; ++i) x.v[i] = i < n ? load(p + i) : 0.0f;
  return x;
}
template <int kN, class X>
__device__ void store_pack(X* p, const Pack<kN>& x, int64_t n) {
  if (n >= kN) return store_pack(p, x);
#pragma unroll
  for (int i = 0; i < kN; ++i)
    if (i < n) store(p + i, x.v[i]);
}

// A whole pack, or zeros where there is none: the load is free of branches, so that many are in flight
// together.
template <int kN>
__device__ Pack<kN> load_whole(const float* p, bool there) {
  static_assert(kN == 1 || kN == 2 || kN == 4);
  if constexpr (kN == 1) {
    return {{there ? *p : 0.0f}};
  } else if constexpr (kN == 2) {
    float2 x = make_float2(0.0f, 0.0f);
    if (there) x = *reinterpret_cast<const float2*>(p);
    return {{x.x, x.y}};
  } else {
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (there) x = *reinterpret_cast<const float4*>(p);
    return {{x.x, x.y, x.z, x.w}};
  }
}
template <int kN>
__device__ Pack<kN> load_whole(const __nv_bfloat16* p, bool there) {
  static_assert(kN == 1 || kN == 2 || kN == 4);
  if constexpr (kN == 1) {
    unsigned bits = 0;
    if (there) bits = *reinterpret_cast<const unsigned short*>(p);
    return {{__uint_as_float(bits << 16)}};
  } else if constexpr (kN == 2) {
    unsigned x = 0;
    if (there) x = *reinterpret_cast<const unsigned*>(p);
    return {{__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)}};
  } else {
    uint2 x{0, 0};
    if (there) x = *reinterpret_cast<const uint2*>(p);
    return {{__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
             __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u)}};
  }
}

// A quad: a pack of 4, of which n exist; where kPacked all or none, in one access, else element by element, the
// same bits.
inline constexpr int kQuad = 4;
template <bool kPacked, class X>
__device__ Pack<kQuad> load_quad(const X* p, int64_t n) {
  if constexpr (kPacked) {
    return load_whole<kQuad>(p, n > 0);
  } else {
    Pack<kQuad> x;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) x.v[i] = i < n ? load(p + i) : 0.0f;
    return x;
  }
}
template <bool kPacked, class X>
__device__ void store_quad(X* p, const Pack<kQuad>& x, int64_t n) {
  if constexpr (kPacked) {
    if (n > 0) store_pack(p, x);
  } else {
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      if (i < n) store(p + i, x.v[i]);
  }
}

// Whether rows `pitch` elements apart can be read in packs of kN.
template <int kN = 4, class X>
bool packable(const X* base, int64_t pitch) {
  return pitches_aligned(base, {pitch}, kN * sizeof(X));
}

}  // namespace nestling::cuda
