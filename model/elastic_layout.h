// elastic_layout.h - where an elastic file keeps what, and how its weights are cut into chunks.
#pragma once
#include <string>
#include <vector>

#include "data/stored_type.h"
#include "model/widths.h"

namespace nestling {

inline constexpr int64_t kLeastChunkBytes = int64_t{32} << 10;
inline constexpr int64_t kMostChunkBytes = int64_t{256} << 10;
inline constexpr int64_t kMostChunks = 8192;  // their checksums fit an object header

// "/weights/backbone.layers.1.mixer.experts.up_proj.weight"
std::string weight_dataset(const ParameterSpec& spec);

// A parameter of a size: its extents, and where it is in the parent's list; layers left out are left
// out.
struct SizedParameter {
  int64_t index;
  std::vector<int64_t> extents;
};
std::vector<SizedParameter> sized_parameters(const std::vector<ParameterSpec>& specs,
                                             const Widths& widths);

// Extents that divide the parameter's own and those of every size. `packed`: values along the last dimension to an
// element, of codes and their blocks' scales; extents are then in elements.
std::vector<int64_t> weight_chunk(const ParameterSpec& spec, const std::vector<Widths>& sizes,
                                  int64_t element_bytes, int64_t packed = 1);

}  // namespace nestling
