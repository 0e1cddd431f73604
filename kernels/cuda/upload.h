// upload.h - small host arrays (segment offsets, tables of tensors) for the kernels of one operator.
//
// Ownership     the copy lies in the Context's scratch: take a Mark first, as for any scratch.
// Host          the array may change as soon as the call returns. The call does not wait for the device,
//               unless the ring of pinned memory it copies through is full of copies not yet done.
#pragma once
#include <span>

#include "kernels/core/context.h"
#include "kernels/ops/segments.h"

namespace nestling::cuda {

const std::byte* upload_bytes(Context& ctx, std::span<const std::byte> bytes);

template <class Range>
auto upload(Context& ctx, const Range& values) {
  const std::span all(values);
  using T = typename decltype(all)::element_type;
  return reinterpret_cast<const T*>(upload_bytes(ctx, std::as_bytes(all)));
}

struct DeviceSegments {
  const int32_t* offsets;  // [count + 1], device memory
  int64_t count;
};
inline DeviceSegments upload(Context& ctx, const Segments& segments) {
  return {upload(ctx, segments.offsets()), segments.count()};
}

}  // namespace nestling::cuda
