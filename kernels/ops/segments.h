// segments.h - which tokens of a flat micro-batch belong together.
//
// A micro-batch is T tokens in a row; segment i is tokens [begin(i), end(i)). Sequences of a batch
// and documents inside a packed sequence are both segments: attention does not look across an edge,
// convolutions and scans start afresh at one.
#pragma once
#include <span>

#include "kernels/core/check.h"

namespace nestling {

// Borrowed, host memory. `offsets` holds count()+1 increasing values, the first 0, the last T.
class Segments {
 public:
  explicit Segments(std::span<const int32_t> offsets) : offsets_(offsets) {
    NESTLING_CHECK(offsets.size() >= 2 && offsets.front() == 0,
                   "segments need at least the offsets 0 and T");
    for (size_t i = 1; i < offsets.size(); ++i)
      NESTLING_CHECK(offsets[i] > offsets[i - 1], "segment ", i - 1, " is empty: [", offsets[i - 1],
                     ", ", offsets[i], ")");
  }
  int64_t count() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t tokens() const { return offsets_.back(); }
  int64_t begin(int64_t i) const { return offsets_[static_cast<size_t>(i)]; }
  int64_t end(int64_t i) const { return offsets_[static_cast<size_t>(i) + 1]; }
  int64_t length(int64_t i) const { return end(i) - begin(i); }
  std::span<const int32_t> offsets() const { return offsets_; }

 private:
  std::span<const int32_t> offsets_;
};

}  // namespace nestling
