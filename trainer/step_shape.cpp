#include "trainer/step_shape.h"

#include <algorithm>
#include <bit>

namespace nestling {

StepShape shape_of(const std::vector<Batch>& micro_batches) {
  StepShape shape;
  for (const Batch& b : micro_batches) {
    shape.tokens = std::max<int64_t>(shape.tokens, std::ssize(b.tokens));
    shape.segments = std::max<int64_t>(shape.segments, std::ssize(b.cu_seqlens) - 1);
  }
  const auto most = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(shape.segments)));
  shape.segments = std::min(most, std::max(shape.tokens, shape.segments));
  return shape;
}

StepShape joined(const StepShape& a, const StepShape& b) {
  return {.tokens = std::max(a.tokens, b.tokens),
          .segments = std::max(a.segments, b.segments),
          .draws = std::max(a.draws, b.draws),
          .sliced = b.sliced};
}

Batch largest_batch(const StepShape& shape) {
  Batch b;
  b.sequences = 1;
  b.seq_len = shape.tokens;
  b.tokens.resize(static_cast<size_t>(shape.tokens));
  b.targets = b.tokens;
  for (int64_t s = 0; s < shape.segments; ++s) b.cu_seqlens.push_back(static_cast<int32_t>(s));
  b.cu_seqlens.push_back(static_cast<int32_t>(shape.tokens));
  b.counted_targets = shape.tokens;
  return b;
}

}  // namespace nestling
