#include "kernels/comm/reduce.h"

#include <algorithm>
#include <type_traits>

#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"

namespace nestling {

namespace {

constexpr int64_t kBlock = 1024;   // elements summed in registers and L1 before they are written
constexpr int64_t kGrain = 32768;  // elements a thread is worth waking for

template <class Sum>
NESTLING_INLINE void add(Sum& sum, Sum x) {
  if constexpr (std::is_integral_v<Sum>) {
    NESTLING_CHECK(!__builtin_add_overflow(sum, x, &sum), "all_reduce, reduce_scatter: the sum of ",
                   dtype_name(DTypeOf<Sum>::kValue), " overflows");
  } else {
    sum += x;
  }
}

template <class Sum>
NESTLING_INLINE Sum larger(Sum a, Sum b) {
  return a > b || a != a ? a : b;  // b is NaN: the comparison is false
}

// Element: how numbers are stored. Sum: what they are added in.
template <class Element, class Sum>
void reduce_range(Element* out, std::span<const std::byte* const> parts, int64_t begin, int64_t end,
                  Reduce op) {
  Sum block[kBlock];
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = std::min(kBlock, end - at);
    const auto* first = reinterpret_cast<const Element*>(parts[0]) + at;
    for (int64_t i = 0; i < n; ++i) block[i] = static_cast<Sum>(first[i]);
    for (size_t r = 1; r < parts.size(); ++r) {
      const auto* part = reinterpret_cast<const Element*>(parts[r]) + at;
      if (op == Reduce::kMax) {
        for (int64_t i = 0; i < n; ++i) block[i] = larger(block[i], static_cast<Sum>(part[i]));
      } else {
        for (int64_t i = 0; i < n; ++i) add(block[i], static_cast<Sum>(part[i]));
      }
    }
    if (op == Reduce::kMean)
      for (int64_t i = 0; i < n; ++i) block[i] /= static_cast<Sum>(parts.size());
    for (int64_t i = 0; i < n; ++i) out[at + i] = static_cast<Element>(block[i]);
  }
}

template <class Element, class Sum>
void reduce_all(std::byte* out, std::span<const std::byte* const> parts, int64_t n, Reduce op) {
  auto* to = reinterpret_cast<Element*>(out);
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    reduce_range<Element, Sum>(to, parts, begin, end, op);
  });
}

}  // namespace

bool can_reduce(DType dtype, Reduce op) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF64:
    case DType::kBF16:
      return true;
    case DType::kI32:
    case DType::kI64:
      return op != Reduce::kMean;
    case DType::kU8:
      return op == Reduce::kMax;
    case DType::kF16:
    case DType::kF8E4M3:
    case DType::kBool:
      return false;
  }
  return false;
}

void reduce_in_rank_order(std::byte* out, std::span<const std::byte* const> parts, int64_t n,
                          DType dtype, Reduce op) {
  NESTLING_ASSERT(can_reduce(dtype, op) && !parts.empty());
  switch (dtype) {
    case DType::kF32:
      return reduce_all<float, float>(out, parts, n, op);
    case DType::kF64:
      return reduce_all<double, double>(out, parts, n, op);
    case DType::kBF16:
      return reduce_all<bf16, float>(out, parts, n, op);
    case DType::kI32:
      return reduce_all<int32_t, int32_t>(out, parts, n, op);
    case DType::kI64:
      return reduce_all<int64_t, int64_t>(out, parts, n, op);
    case DType::kU8:
      return reduce_all<uint8_t, uint8_t>(out, parts, n, op);
    default:
      throw Error(str("no ", reduce_name(op), " of ", dtype_name(dtype)));
  }
}

}  // namespace nestling
