// warpgroup_sums.cuh - where a thread's sums of warpgroup products lie (warpgroup.cuh), and how they get to rows of
// memory: in whole pieces of 16 bytes, exchanged among lanes that share a row. Neighbouring pairs alone would
// take twice to four times the accesses, and in bf16 fill half of each sector.
#pragma once
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda::warpgroups {

// This thread's first row and column in its warpgroup's [64, columns] sums.
inline __device__ int own_row() {
  const int t = static_cast<int>(threadIdx.x) % 128;
  return t / kWarp * 16 + t % kWarp / 4;
}
inline __device__ int own_column() {
  return static_cast<int>(threadIdx.x) % 4 * 2;
}
// Of sums[e]: the row, own_row() or 8 further, and the column.
inline __device__ int row_half(int e) {
  return e % 4 / 2;
}
inline __device__ int column_of(int e) {
  return own_column() + e / 4 * 8 + e % 2;
}

// Lanes that differ by `step` exchange the second of two values of the lower one and the first of the upper one.
template <class T>
__device__ void exchange(T& first, T& second, int step) {
  const bool upper = (static_cast<int>(threadIdx.x) & step) != 0;
  const T got = __shfl_xor_sync(0xffffffffu, upper ? first : second, step);
  first = upper ? got : first;
  second = upper ? second : got;
}

// Rows of memory that a warpgroup's sums [64, columns] go to: where the first begins, and how many rows and columns,
// a multiple of a 16-byte piece, there are.
template <class T>
struct SumRows {
  T* data;
  int64_t pitch;
  int rows, columns;

  __device__ T* at(int half, int column) const {
    return data + (own_row() + 8 * half) * pitch + column;
  }
  __device__ bool has(int half, int column) const {
    return own_row() + 8 * half < rows && column < columns;
  }
};

// to = sums, rounded. Of four blocks of 8 columns, each of the four lanes of a row writes one. The whole warp calls it.
template <int kSums>
__device__ void store_sums(const SumRows<__nv_bfloat16>& to, const float (&sums)[kSums]) {
  const int block = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int e = 0; e < kSums; e += 16)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] = bits_of(sums[e + 4 * i + 2 * half], sums[e + 4 * i + 2 * half + 1]);
      exchange(words[0], words[1], 1);
      exchange(words[2], words[3], 1);
      exchange(words[0], words[2], 2);
      exchange(words[1], words[3], 2);
      const int column = 2 * e + 8 * block;
      if (to.has(half, column))
        store_vector(to.at(half, column), words[0], words[1], words[2], words[3]);
    }
}

// Of two blocks of 8 columns, each lane gets four neighbours of one: fours[2 i + half] begins at column four_column(i) of
// those that `sums` hold.
template <int kFours>
__device__ void fours_of(Pack<4> (&fours)[kFours], const float* sums) {
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const float* s = sums + i / 2 * 8 + i % 2 * 2;
    Pack<4>& f = fours[i];
    f = {{s[0], s[1], s[4], s[5]}};
    exchange(f.v[0], f.v[2], 1);
    exchange(f.v[1], f.v[3], 1);
  }
}
inline __device__ int four_column(int i) {
  const int q = static_cast<int>(threadIdx.x) % 4;
  return 16 * i + q % 2 * 8 + q / 2 * 4;
}

// to = sums; kAdds: to += sums. What is added to is read eight pieces at a time, as a write waits for its read. The
// whole warp calls it.
template <bool kAdds = false, int kSums>
__device__ void store_sums(const SumRows<float>& to, const float (&sums)[kSums]) {
  constexpr int kAtOnce = 8;
#pragma unroll
  for (int e = 0; e < kSums; e += 4 * kAtOnce) {
    Pack<4> fours[kAtOnce];
    fours_of(fours, sums + e);
    Pack<4> before[kAtOnce] = {};
    if (kAdds)
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int column = four_column(e / 8 + i / 2);
        before[i] = load_whole<4>(to.at(i % 2, column), to.has(i % 2, column));
      }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int column = four_column(e / 8 + i / 2);
      Pack<4>& f = fours[i];
#pragma unroll
      for (int c = 0; c < 4; ++c) f.v[c] = kAdds ? before[i].v[c] + f.v[c] : f.v[c];
      if (to.has(i % 2, column)) store_pack(to.at(i % 2, column), f);
    }
  }
}

}  // namespace nestling::cuda::warpgroups
