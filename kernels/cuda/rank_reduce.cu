// rank_reduce.cu - a thread an element: it reads every rank's and adds them in rank order, in float for bf16.
#include <type_traits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rank_reduce.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;

// Element: how numbers are stored. Sum: what they are added in.
template <class Sum, class Element>
__device__ Sum read(const Element* p) {
  if constexpr (std::is_same_v<Sum, Element>)
    return *p;
  else
    return load(p);
}
template <class Sum, class Element>
__device__ void write(Element* p, Sum x) {
  if constexpr (std::is_same_v<Sum, Element>)
    *p = x;
  else
    store(p, x);
}

__device__ bool add(float& sum, float x) {
  sum += x;
  return true;
}
__device__ bool add(double& sum, double x) {
  sum += x;
  return true;
}
// False: it overflowed.
__device__ bool add(int32_t& sum, int32_t x) {
  const auto wrapped = static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(x));
  const bool fits = ((sum ^ wrapped) & (x ^ wrapped)) >= 0;
  sum = wrapped;
  return fits;
}
__device__ bool add(int64_t& sum, int64_t x) {
  const auto wrapped = static_cast<int64_t>(static_cast<uint64_t>(sum) + static_cast<uint64_t>(x));
  const bool fits = ((sum ^ wrapped) & (x ^ wrapped)) >= 0;
  sum = wrapped;
  return fits;
}

template <class Element, class Sum, Reduce kOp>
__global__ void reduce_kernel(Element* out, RankParts parts, int64_t n, FaultWord* fault) {
  for (int64_t i = first_item(); i < n; i += item_step()) {
    const auto value_of = [&](int r) {
      const std::byte* part = r == parts.rank ? parts.mine : parts.others + r * parts.step;
      return read<Sum>(reinterpret_cast<const Element*>(part) + i);
    };
    Sum sum = value_of(0);
#pragma unroll 4
    for (int r = 1; r < parts.ranks; ++r) {
      const Sum x = value_of(r);
      if constexpr (kOp == Reduce::kMax) {
        sum = sum > x || sum != sum ? sum : x;  // x is NaN: the comparison is false
      } else {
        const bool fits = add(sum, x);
        if constexpr (std::is_integral_v<Sum>)
          if (!fits)
            report_fault(fault, sizeof(Sum) == 4 ? FaultKind::kSumOfI32 : FaultKind::kSumOfI64, i);
      }
    }
    if constexpr (kOp == Reduce::kMean) sum /= static_cast<Sum>(parts.ranks);
    write(out + i, sum);
  }
}

template <class Element, class Sum, Reduce kOp>
void reduce(Context& ctx, std::byte* out, const RankParts& parts, int64_t n) {
  launch(ctx, {blocks_for(n, kThreads), kThreads}, reduce_kernel<Element, Sum, kOp>,
         reinterpret_cast<Element*>(out), parts, n, ctx.cuda().fault);
}

// Sums and maxima, and means of floats.
template <class Element, class Sum>
void reduce(Context& ctx, std::byte* out, const RankParts& parts, int64_t n, Reduce op) {
  switch (op) {
    case Reduce::kSum:
      return reduce<Element, Sum, Reduce::kSum>(ctx, out, parts, n);
    case Reduce::kMax:
      return reduce<Element, Sum, Reduce::kMax>(ctx, out, parts, n);
    case Reduce::kMean:
      if constexpr (!std::is_integral_v<Sum>)
        return reduce<Element, Sum, Reduce::kMean>(ctx, out, parts, n);
  }
  throw Error(str("no ", reduce_name(op), " of integers"));
}

}  // namespace

void reduce_in_rank_order(Context& ctx, std::byte* out, const RankParts& parts, int64_t n,
                          DType dtype, Reduce op) {
  switch (dtype) {
    case DType::kF32:
      return reduce<float, float>(ctx, out, parts, n, op);
    case DType::kF64:
      return reduce<double, double>(ctx, out, parts, n, op);
    case DType::kBF16:
      return reduce<__nv_bfloat16, float>(ctx, out, parts, n, op);
    case DType::kI32:
      return reduce<int32_t, int32_t>(ctx, out, parts, n, op);
    case DType::kI64:
      return reduce<int64_t, int64_t>(ctx, out, parts, n, op);
    case DType::kU8:
      if (op == Reduce::kMax) return reduce<uint8_t, uint8_t, Reduce::kMax>(ctx, out, parts, n);
      break;
    default:
      break;
  }
  throw Error(str("no ", reduce_name(op), " of ", dtype_name(dtype)));
}

}  // namespace nestling::cuda
