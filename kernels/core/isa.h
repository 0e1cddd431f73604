// isa.h - which instructions the fast paths use. Chosen once at run time; the binary's baseline is x86-64-v3 (AVX2,
// FMA), wider paths are compiled by function-level target attributes. On a CUDA device it is sm_80, which every card
// from there on runs, or beside it what is built for sm_90a: Hopper's products of warpgroups.
//
// Pinning       set_cpu_isa (config key `cpu_isa`) narrows it, so that results can be repeated bit for bit on a machine
//               with wider vectors; set_cuda_isa (`cuda_isa`) does so with the kernels of Contexts made afterwards.
//               Asking for more than there is throws: at once, or where the device's first Context is made.
// Threads       any, but pin before work begins.
#pragma once
#include <cstdint>
#include <optional>
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

enum class CudaIsa : uint8_t { kSm80, kSm90a };

std::optional<CudaIsa> pinned_cuda_isa();  // what a device's kernels use: cuda::device_isa()
void set_cuda_isa(CudaIsa isa);
const char* cuda_isa_name(CudaIsa isa);  // "sm_80", "sm_90a"
CudaIsa parse_cuda_isa(const std::string& name);

}  // namespace nestling
