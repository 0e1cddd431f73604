#include "kernels/core/isa.h"

#include <atomic>

#include "kernels/core/check.h"

namespace nestling {

namespace {
std::atomic<CpuIsa>& chosen() {
  static std::atomic<CpuIsa> isa{detected_cpu_isa()};
  return isa;
}

std::atomic<std::optional<CudaIsa>> g_cuda_isa;
}  // namespace

CpuIsa detected_cpu_isa() {
  NESTLING_CHECK(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
                 "this CPU lacks AVX2 or FMA; the program needs x86-64-v3");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
  if (!v4) return CpuIsa::kAvx2;
  return __builtin_cpu_supports("avx512bf16") ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512;
}

CpuIsa cpu_isa() {
  return chosen().load(std::memory_order_relaxed);
}

void set_cpu_isa(CpuIsa isa) {
  NESTLING_CHECK_INPUT(isa <= detected_cpu_isa(), "cpu_isa: ", cpu_isa_name(isa),
                       " asked for, this machine has ", cpu_isa_name(detected_cpu_isa()));
  chosen().store(isa, std::memory_order_relaxed);
}

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

CpuIsa parse_cpu_isa(const std::string& name) {
  for (CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16})
    if (name == cpu_isa_name(isa)) return isa;
  throw Error(str("cpu_isa: '", name, "', needs avx2, avx512 or avx512_bf16"), ErrorKind::kInput);
}

std::optional<CudaIsa> pinned_cuda_isa() {
  return g_cuda_isa.load(std::memory_order_relaxed);
}

void set_cuda_isa(CudaIsa isa) {
  g_cuda_isa.store(isa, std::memory_order_relaxed);
}

const char* cuda_isa_name(CudaIsa isa) {
  return isa == CudaIsa::kSm80 ? "sm_80" : "sm_90a";
}

CudaIsa parse_cuda_isa(const std::string& name) {
  for (CudaIsa isa : {CudaIsa::kSm80, CudaIsa::kSm90a})
    if (name == cuda_isa_name(isa)) return isa;
  throw Error(str("cuda_isa: '", name, "', needs sm_80 or sm_90a"), ErrorKind::kInput);
}

}  // namespace nestling
