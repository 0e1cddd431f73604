// shares.h - a run of parameters in flat memory cut into shares, one a rank (ZeRO: Rajbhandari et al. 2020,
// arXiv 1910.02054).
//
// Cuts          at the begin of a parameter or a whole number of kNormBlock elements behind it, so that the blocks of
//               the gradients' norm (kernels/ops/adamw.h) are those of the whole. Shares are equal but for a block;
//               of few blocks some ranks get none.
// Determinism   a function of the places and the number of ranks: every rank finds the same.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace nestling {

struct PlacedParameter {
  int64_t parameter;     // place in the list
  int64_t offset, size;  // elements
  bool trained;
};

// A run of one parameter's elements.
struct ParameterRun {
  int64_t parameter, begin, count;
};

struct Share {
  int64_t begin, count;            // in the flat memory
  std::vector<ParameterRun> runs;  // of what is trained, in order
};

// `places` in the order of their offsets, apart or not; `total`: elements of the memory that is cut.
std::vector<Share> shares_of(std::span<const PlacedParameter> places, int64_t total, int ranks);

}  // namespace nestling
