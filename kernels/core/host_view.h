// host_view.h - small host arrays as views.
//
// Null device   host_view(ctx, v) of a null context is the extents alone: a dry run checks and counts
//               them and reads nothing.
// CUDA          host_view stays in host memory, where communicators take it; device_view is a copy in the
//               arena, enqueued without waiting for the device.
// Ownership     borrowed from the array, or from the arena.
#pragma once
#include <vector>

#include "kernels/core/context.h"
#include "kernels/cuda/stream.h"

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

// What a dense array in the memory of ctx's device holds, on the host: the same memory on the CPU; on
// CUDA a copy, there after the context's next synchronize() and until the first fetch behind that.
inline View fetch(Context& ctx, View device) {
  return ctx.device() == Device::kCuda ? cuda::fetch(ctx, device) : device;
}

// A copy in host memory, dense; waits for the device that holds it.
inline Tensor on_host(ConstView v) {
  NESTLING_CHECK(v.rank() == 1, "on_host of ", v.describe(), ", needs rank 1");
  Tensor host(Device::kCpu, v.dtype(), {v.dim(0)});
  copy(host, v);
  return host;
}

// A dense host array into the memory of ctx's device; the array may change as soon as it returns.
inline void send(Context& ctx, View to, ConstView host) {
  if (ctx.device() == Device::kCuda) return cuda::upload(ctx, to, host);
  copy(to, host);
}

// The array in the memory of ctx's device.
template <class T>
ConstView device_view(Context& ctx, Arena& arena, const std::vector<T>& v) {
  if (ctx.code() != Device::kCuda) return host_view(ctx, v);
  const View there = arena.alloc(DTypeOf<T>::kValue, {std::ssize(v)});
  send(ctx, there, host_view(v));
  return there;
}

}  // namespace nestling
