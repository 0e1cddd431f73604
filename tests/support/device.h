// device.h - whether a test can run on a device, asked of the build itself.
//
// An operator has a CUDA kernel where its header declares cuda::run of its arguments; where there is
// none, there is no declaration, and its dispatch throws. The question is put at the place of the
// macro, so it sees the header of every operator that the test calls.
#pragma once
#include <gtest/gtest.h>
#include <string>
#include <utility>

#include "kernels/core/context.h"
#include "kernels/cuda/memory.h"

namespace nestling::cuda {
struct NoOperator;
void run(Context&, const NoOperator&);  // never defined: the name exists where no operator has one
}  // namespace nestling::cuda

namespace nestling::testing {

// Why a test of `operators` ("RopeForward, RopeBackward") cannot run on a CUDA device; "" if it can.
inline std::string no_cuda_reason(bool kernels, const char* operators) {
  if (!kernels) return str("no CUDA kernel for ", operators);
  return cuda::unavailable_reason();
}

}  // namespace nestling::testing

// Skips (never passes) a case that cannot run on `device`. After the device every operator that the
// case calls, by its struct of arguments.
#define NESTLING_SKIP_WITHOUT(device, ...)                                                \
  if (const std::string reason_ = ::nestling::testing::no_cuda_reason(                    \
          []<class... Args>() {                                                           \
            static_assert(sizeof...(Args) > 0, "name the operators that the case calls"); \
            return requires {                                                             \
              (::nestling::cuda::run(std::declval<::nestling::Context&>(),                \
                                     std::declval<const Args&>()),                        \
               ...);                                                                      \
            };                                                                            \
          }.template operator()<__VA_ARGS__>(),                                           \
          #__VA_ARGS__);                                                                  \
      (device) == ::nestling::Device::kCuda && !reason_.empty())                          \
  GTEST_SKIP() << reason_

// The same for a case that calls no operator with a struct of arguments.
#define NESTLING_SKIP_WITHOUT_CUDA()                   \
  if (!::nestling::cuda::unavailable_reason().empty()) \
  GTEST_SKIP() << ::nestling::cuda::unavailable_reason()
