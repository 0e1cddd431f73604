#include "kernels/ops/largest.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <mutex>

#include "kernels/core/parallel.h"
#include "kernels/ops/code_operands.h"
#include "kernels/ops/dispatch.h"

namespace nestling {

void largest(Context& ctx, const Largest& a) {
  constexpr const char* kOp = "largest";
  check_shape(kOp, "largest", a.largest, {1});
  check_dtype(kOp, "largest", a.largest, DType::kF32);
  check_beside_codes(ctx, kOp, "x", a.x);
  check_device(ctx, kOp, {a.largest, a.x});
  ctx.count(kOp, static_cast<double>(a.x.size()), static_cast<double>(a.x.bytes()));
  if (a.x.size() == 0) return;
  dispatch(ctx, a, cpu::run, cuda::run);
}

namespace cpu {

namespace {

// As bits sizes are in their order, infinity and then NaN above all numbers.
constexpr uint32_t kInfinity = std::bit_cast<uint32_t>(std::numeric_limits<float>::infinity());

uint32_t largest_bits(const float* x, int64_t n) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i)
    most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::min(most, kInfinity);
}

}  // namespace

void run(Context& /*ctx*/, const Largest& a) {
  constexpr int64_t kElementsPerTask = 16384;
  const int64_t cols = a.x.dim(a.x.rank() - 1);
  std::mutex one_at_a_time;
  uint32_t most = std::bit_cast<uint32_t>(*a.largest.ptr<float>());
  parallel_for(a.x.rows(), std::max(int64_t{1}, kElementsPerTask / cols),
               [&](int64_t begin, int64_t end) {
                 uint32_t mine = 0;
                 for (int64_t r = begin; r < end; ++r)
                   mine = std::max(mine, largest_bits(a.x.ptr<float>() + r * a.x.pitch(), cols));
                 const std::lock_guard lock(one_at_a_time);
                 most = std::max(most, mine);
               });
  *a.largest.ptr<float>() = std::bit_cast<float>(most);
}

}  // namespace cpu

}  // namespace nestling
