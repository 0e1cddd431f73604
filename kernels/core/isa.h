// isa.h - which CPU instructions the fast paths use. Chosen once at run time; the binary's
// baseline is x86-64-v3 (AVX2, FMA), wider paths are compiled by function-level target attributes.
//
// Pinning       set_cpu_isa (config key `cpu_isa`) narrows it, so that results can be repeated bit
//               for bit on a machine with wider vectors. Asking for more than the machine has
//               throws.
#pragma once
#include <cstdint>
#include <string>

// Marks a function compiled for AVX-512; call it only when cpu_isa() >= CpuIsa::kAvx512.
#define NESTLING_TARGET_AVX512 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
// The same plus the bf16 dot product; only when cpu_isa() == CpuIsa::kAvx512Bf16.
#define NESTLING_TARGET_AVX512_BF16 \
  __attribute__((target("arch=x86-64-v4,avx512bf16,prefer-vector-width=512")))
// A body shared by the per-instruction-set entry points is inlined into each of them.
#define NESTLING_INLINE inline __attribute__((always_inline))

namespace nestling {

enum class CpuIsa : uint8_t { kAvx2, kAvx512, kAvx512Bf16 };

CpuIsa detected_cpu_isa();
CpuIsa cpu_isa();  // what the kernels use: detected, unless pinned
void set_cpu_isa(CpuIsa isa);
const char* cpu_isa_name(CpuIsa isa);  // "avx2", "avx512", "avx512_bf16"
CpuIsa parse_cpu_isa(const std::string& name);

}  // namespace nestling
