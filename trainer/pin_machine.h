// pin_machine.h - the threads and instruction sets that a config asks for become the process's. To be called before
// work begins: kernels/core/isa.h says what is refused.
#pragma once
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"

namespace nestling {

template <class Config>  // PretrainConfig, RunConfig
void pin_machine(const Config& c) {
  if (!c.cpu_isa.empty()) set_cpu_isa(parse_cpu_isa(c.cpu_isa));
  if (!c.cuda_isa.empty()) set_cuda_isa(parse_cuda_isa(c.cuda_isa));
  if (c.threads > 0) set_thread_count(static_cast<int>(c.threads));
}

}  // namespace nestling
