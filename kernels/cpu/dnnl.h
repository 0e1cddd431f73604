// dnnl.h - what every use of oneDNN shares: the engine, the stream, the pinned instruction set and
// the arguments of one execution. Included by kernels/cpu/*.cpp alone.
//
// Errors        oneDNN's own throw dnnl::error; callers turn it into Error with their shapes.
#pragma once
#include <array>
#include <dnnl.hpp>

#include "kernels/core/view.h"

namespace nestling::cpu {

// The process's CPU engine. The first call tells oneDNN which instructions it may use: cpu_isa().
const dnnl::engine& dnnl_engine();
// Throws when cpu_isa() has changed since oneDNN was told.
void check_dnnl_isa();
dnnl::memory::data_type dnnl_type(DType dtype);

// The operands of one execution; the memory they point to is the caller's.
class DnnlArguments {
 public:
  void add(int name, const dnnl::memory::desc& desc, const void* data);
  void run(const dnnl::primitive& primitive);  // on the calling thread's stream, to the end

 private:
  static constexpr size_t kMost = 5;
  std::array<dnnl::memory, kMost> memories_;
  std::array<dnnl_exec_arg_t, kMost> arguments_{};
  size_t count_ = 0;
};

}  // namespace nestling::cpu
