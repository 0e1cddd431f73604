// interleave.h - the permutation between slot-major memory and the published, group-major order.
#pragma once
#include "model/parameters.h"

namespace nestling {

// Place in the published dimension of element `i` of a dimension of `extent` elements in memory.
inline int64_t published_index(const Interleave& order, int64_t extent, int64_t i) {
  const int64_t block = extent / (order.slots * order.groups);
  const int64_t slot = i / block / order.groups;
  const int64_t group = i / block % order.groups;
  return (group * order.slots + slot) * block + i % block;
}

// The inverse: place in memory of published element `i`.
inline int64_t memory_index(const Interleave& order, int64_t extent, int64_t i) {
  return published_index({.slots = order.groups, .groups = order.slots}, extent, i);
}

// A parameter as rows x columns of one published tensor: an expert's matrix, or the whole.
struct PublishedMatrix {
  int64_t rows = 0;  // of this parameter
  int64_t cols = 0;
  int64_t count = 1;  // matrices: the experts, or 1
};
inline PublishedMatrix published_matrix(const ParameterSpec& spec) {
  PublishedMatrix m;
  if (spec.stacked()) m.count = spec.dims[0].extent;
  m.cols = 1;
  for (size_t d = 1; d < spec.published_shape.size(); ++d) m.cols *= spec.published_shape[d];
  if (spec.published_shape.size() == 1) {  // a vector: one element a row
    m.rows = spec.size();
    return m;
  }
  m.rows = spec.size() / m.count / m.cols;
  return m;
}

}  // namespace nestling
