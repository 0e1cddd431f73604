// hdf5_call.h - what the HDF5 reader and writer share; the only includer of the library's header.
#pragma once
#include <hdf5.h>
#include <optional>
#include <string>
#include <vector>

#include "data/hdf5_id.h"
#include "kernels/core/dtype.h"
#include "kernels/core/view.h"

namespace nestling::detail {

static_assert(sizeof(hid_t) == sizeof(int64_t) && sizeof(herr_t) == sizeof(int));

inline constexpr const char* kChecksumKey = "crc32c";
inline constexpr int kMaxDims = 3;

void silence_hdf5();        // the library prints errors by default
std::string hdf5_reason();  // what the last failed call says, and forgets it

// File access as everything here uses it: format `latest`, no locks (files are whole or absent, and
// some file systems have none).
Hdf5Id file_access();
Hdf5Id stored_type_id(DType dtype);                // throws for a type files do not hold
std::optional<DType> dtype_of_stored(hid_t type);  // none: not one of ours

// One to three dimensions as three, the leading ones 1.
struct Place3 {
  int64_t at[3] = {0, 0, 0};
};
Place3 three(const std::vector<int64_t>& dims, int64_t fill);

// Copies the elements two boxes share: a dense chunk of `chunk` extents at `origin` of the dataset, and
// a view of `extents` at the dataset's origin, its strides in elements.
struct ChunkCopy {
  Place3 chunk, origin, extents, stride;
  // fn(element in the chunk, element of the view, how many in a row, contiguous in both)
  template <class Fn>
  void rows(Fn fn) const {
    int64_t n[3];
    for (int d = 0; d < 3; ++d) n[d] = std::min(chunk.at[d], extents.at[d] - origin.at[d]);
    for (int64_t i = 0; i < n[0]; ++i)
      for (int64_t j = 0; j < n[1]; ++j)
        fn((i * chunk.at[1] + j) * chunk.at[2],
           (origin.at[0] + i) * stride.at[0] + (origin.at[1] + j) * stride.at[1] + origin.at[2],
           n[2]);
  }
};
template <class V>
ChunkCopy chunk_copy(const V& view, const std::vector<int64_t>& chunk,
                     const std::vector<int64_t>& origin) {
  std::vector<int64_t> extents, stride;
  for (int d = 0; d < view.rank(); ++d) {
    extents.push_back(view.dim(d));
    stride.push_back(view.stride(d));
  }
  return {.chunk = three(chunk, 1),
          .origin = three(origin, 0),
          .extents = three(extents, 1),
          .stride = three(stride, 0)};
}

// Calls fn with the origin of every chunk that the prefix touches, in row-major order of all chunks.
template <class Fn>
void for_each_chunk(const std::vector<int64_t>& extents, const std::vector<int64_t>& chunk, Fn fn) {
  for (const int64_t n : extents)
    if (n == 0) return;
  std::vector<int64_t> at(extents.size(), 0);
  for (;;) {
    fn(at);
    size_t d = at.size();
    while (d > 0) {
      --d;
      if ((at[d] += chunk[d]) < extents[d]) break;
      at[d] = 0;
      if (d == 0) return;
    }
  }
}

}  // namespace nestling::detail
