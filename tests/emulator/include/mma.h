// mma.h - of the emulator: nvcuda::wmma for 16x16x16 products of bfloat16 with sums in float.
//
// Fragments     element e = 8 * lane + i of the row-major tile is x[i] of that lane. On a GPU the places are
//               others, and unspecified: code may treat elements alike, and no more.
// Stricter      pointers must be 32-byte aligned, and leading dimensions multiples of 16 bytes.
#pragma once
#include "cuda_bf16.h"
#include "tests/emulator/races.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int kM, int kN, int kK, class T, class Layout = void>
struct fragment {
  static_assert(kM == 16 && kN == 16 && kK == 16);
  static constexpr int num_elements = 8;
  T x[num_elements];
};

namespace detail {
template <class T>
void check_tile(const T* p, unsigned pitch) {
  if (reinterpret_cast<uintptr_t>(p) % 32 != 0)
    nestling::emulator::fail("wmma: a pointer that is not 32-byte aligned");
  if (pitch * sizeof(T) % 16 != 0)
    nestling::emulator::fail("wmma: a leading dimension that is not a multiple of 16 bytes");
}
inline int element(int i) {
  return 8 * nestling::emulator::lane() + i;
}
// Which lane reads what is unspecified: each may read all.
template <class T>
void read_tile(const T* p, unsigned pitch) {
  for (unsigned i = 0; i < 16; ++i)
    nestling::emulator::races::read(p + size_t{i} * pitch, 16 * sizeof(T));
}
// No lane goes on before all have done theirs; memory is not ordered.
inline void meet() {
  nestling::emulator::exchange("wmma", 0xffffffffu, 0);
}
inline int64_t offset(int e, unsigned pitch, bool row_major) {
  return row_major ? int64_t{e / 16} * pitch + e % 16 : int64_t{e % 16} * pitch + e / 16;
}
}  // namespace detail

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& f, const T* p, unsigned pitch) {
  detail::check_tile(p, pitch);
  detail::read_tile(p, pitch);
  for (int i = 0; i < f.num_elements; ++i)
    f.x[i] = p[detail::offset(detail::element(i), pitch, std::is_same_v<Layout, row_major>)];
  detail::meet();
}
template <class T>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, T>& f, const T* p, unsigned pitch,
                      layout_t layout) {
  detail::check_tile(p, pitch);
  detail::read_tile(p, pitch);
  for (int i = 0; i < f.num_elements; ++i)
    f.x[i] = p[detail::offset(detail::element(i), pitch, layout == mem_row_major)];
  detail::meet();
}
template <class T>
void store_matrix_sync(T* p, const fragment<accumulator, 16, 16, 16, T>& f, unsigned pitch,
                       layout_t layout) {
  detail::check_tile(p, pitch);
  for (int i = 0; i < f.num_elements; ++i)
    p[detail::offset(detail::element(i), pitch, layout == mem_row_major)] = f.x[i];
  detail::meet();
}
template <class Use, class T, class Layout>
void fill_fragment(fragment<Use, 16, 16, 16, T, Layout>& f, std::type_identity_t<T> value) {
  for (T& x : f.x) x = value;
}

// Each lane computes its own 8 elements from the registers of all.
template <class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, __nv_bfloat16, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, __nv_bfloat16, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
  using Elements = std::array<__nv_bfloat16, 8>;
  const auto elements = [](const auto& f) { return std::to_array(f.x); };
  const auto as = nestling::emulator::exchange<Elements>("mma_sync", 0xffffffffu, elements(a));
  const auto bs = nestling::emulator::exchange<Elements>("mma_sync", 0xffffffffu, elements(b));
  float sums[8];
  const int row = detail::element(0) / 16;
  for (int i = 0; i < 8; ++i) {
    const int col = detail::element(i) % 16;
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      const int at = 16 * row + k;
      const int bt = 16 * k + col;
      sum += __bfloat162float(as[at / 8][at % 8]) * __bfloat162float(bs[bt / 8][bt % 8]);
    }
    sums[i] = c.x[i] + sum;
  }
  for (int i = 0; i < 8; ++i) d.x[i] = sums[i];
}

}  // namespace nvcuda::wmma
