// host_view.h - small host arrays as views.
//
// Null device   host_view(ctx, v) of a null context is the extents alone: a dry run checks and counts
//               them and reads nothing.
// Ownership     borrowed from the array.
#pragma once
#include <vector>

#include "kernels/core/context.h"

namespace nestling {

template <class T>
View host_view(std::vector<T>& v) {
  return {
      reinterpret_cast<std::byte*>(v.data()), DTypeOf<T>::kValue, Device::kCpu, {std::ssize(v)}};
}
template <class T>
ConstView host_view(const std::vector<T>& v) {
  return {reinterpret_cast<const std::byte*>(v.data()),
          DTypeOf<T>::kValue,
          Device::kCpu,
          {std::ssize(v)}};
}

// The view as a step on ctx's device may use it.
template <class AnyView>
AnyView seen_by(const Context& ctx, const AnyView& host) {
  if (ctx.device() != Device::kNull) return host;
  Extents shape{};
  for (int d = 0; d < host.rank(); ++d) shape[static_cast<size_t>(d)] = host.dim(d);
  return {nullptr, host.dtype(), Device::kNull, shape, host.rank()};
}
template <class T>
View host_view(const Context& ctx, std::vector<T>& v) {
  return seen_by(ctx, host_view(v));
}
template <class T>
ConstView host_view(const Context& ctx, const std::vector<T>& v) {
  return seen_by(ctx, host_view(v));
}

// Sum of a vector of floats in memory the host reads; 0 on the null device.
inline double host_sum(ConstView x) {
  if (x.device() == Device::kNull) return 0;
  double total = 0;
  for (int64_t i = 0; i < x.size(); ++i) total += x.ptr<float>()[i];
  return total;
}

}  // namespace nestling
