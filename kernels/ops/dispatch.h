// dispatch.h - the last line of every operator: its arguments go to the code of the context's device. On the null
// device the operator has checked and counted, and nothing is left to do; those whose scratch depends on the
// shapes (attention, scan) first take it as the CPU's code does.
#pragma once
#include <type_traits>

#include "kernels/core/context.h"

namespace nestling {

// dispatch(ctx, a, cpu::run, cuda::run), of which those that take an Args are meant.
template <class Args>
void dispatch(Context& ctx, const Args& a,
              void (*on_cpu)(Context&, const std::type_identity_t<Args>&),
              void (*on_cuda)(Context&, const std::type_identity_t<Args>&)) {
  switch (ctx.code()) {
    case Device::kCpu:
      return on_cpu(ctx, a);
    case Device::kCuda:
      return on_cuda(ctx, a);
    case Device::kNull:
      return;
  }
}

}  // namespace nestling
