// soil.h - scratch that holds NaN before it is written.
#pragma once
#include <cstring>

#include "kernels/core/context.h"

namespace nestling::testing {

// Scratch begins as bytes of ones, on a device too, of which poison knows nothing.
inline void soil(Context& ctx) {
  ctx.scratch().set_poison(true);
  if (ctx.device() != Device::kCuda) return;
  const Arena::Mark mark(ctx.scratch());
  Tensor ones(Device::kCpu, DType::kU8, {6 << 20});
  std::memset(ones.view().data(), 0xff, static_cast<size_t>(ones.size()));
  copy(ctx.scratch().alloc(DType::kU8, {ones.size()}), ones.view());
}

}  // namespace nestling::testing
