// pack.cuh - kN neighbouring elements of a row at once: 4 are one access of 16 (f32) or 8 (bf16) bytes,
// 1 is any element.
//
// Alignment     packs of 4 ask for packable() operands and a first column that is a multiple of 4; the
//               end of a row is taken element by element, so any width will do.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

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

template <int kN>
__device__ void store_pack(float* p, const Pack<kN>& x) {
  if constexpr (kN == 1)
    *p = x.v[0];
  else
    *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
}
template <int kN>
__device__ void store_pack(__nv_bfloat16* p, const Pack<kN>& x) {
  if constexpr (kN == 1) {
    store(p, x.v[0]);
  } else {
    const __nv_bfloat162 low = __floats2bfloat162_rn(x.v[0], x.v[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(x.v[2], x.v[3]);
    uint2 bits;
    memcpy(&bits.x, &low, sizeof low);
    memcpy(&bits.y, &high, sizeof high);
    *reinterpret_cast<uint2*>(p) = bits;
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

// A quad: a pack of 4, of which n exist; one access where kPacked, else element by element, the same bits.
inline constexpr int kQuad = 4;
template <bool kPacked, class X>
__device__ Pack<kQuad> load_quad(const X* p, int64_t n) {
  if constexpr (kPacked) {
    return load_pack<kQuad>(p, n);
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
    store_pack(p, x, n);
  } else {
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      if (i < n) store(p + i, x.v[i]);
  }
}

// Whether rows `pitch` elements apart can be read in packs of 4.
template <class X>
bool packable(const X* base, int64_t pitch) {
  return reinterpret_cast<uintptr_t>(base) % (4 * sizeof(X)) == 0 && pitch % 4 == 0;
}

// The elements of a view by their type in device code.
template <class X>
auto elements(auto view) {
  if constexpr (std::is_same_v<X, float>)
    return view.template ptr<float>();
  else
    return bf16_of(view);
}

}  // namespace nestling::cuda
