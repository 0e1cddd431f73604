// host_view.h - a step's small host arrays as views of the device that its context runs on.
//
// Null device   the extents alone: a dry run checks and counts them and reads nothing.
// Ownership     borrowed from the array.
#pragma once
#include <vector>

#include "kernels/core/context.h"

namespace nestling {

inline View seen_by(const Context& ctx, View host) {
  if (ctx.device() != Device::kNull) return host;
  Extents shape{};
  for (int d = 0; d < host.rank(); ++d) shape[static_cast<size_t>(d)] = host.dim(d);
  return {nullptr, host.dtype(), Device::kNull, shape, host.rank()};
}

inline View host_view(const Context& ctx, const std::vector<int32_t>& v) {
  auto* data = reinterpret_cast<std::byte*>(const_cast<int32_t*>(v.data()));
  return seen_by(ctx, {data, DType::kI32, Device::kCpu, {std::ssize(v)}});
}

inline View host_view(const Context& ctx, std::vector<double>& v) {
  auto* data = reinterpret_cast<std::byte*>(v.data());
  return seen_by(ctx, {data, DType::kF64, Device::kCpu, {std::ssize(v)}});
}

// Sum of a vector of floats in memory the host reads; 0 on the null device.
inline double host_sum(ConstView x) {
  if (x.device() == Device::kNull) return 0;
  double total = 0;
  for (int64_t i = 0; i < x.size(); ++i) total += x.ptr<float>()[i];
  return total;
}

}  // namespace nestling
