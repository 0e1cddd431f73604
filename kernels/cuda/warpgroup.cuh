// warpgroup.cuh - Hopper's products of shared memory by a warpgroup (128 threads), and the asynchronous copies
// that feed them. (PTX ISA, sections 9.7.9.25 on cp.async and 9.7.15 on wgmma.)
//
//   copy_async(...); close_copies();                        each thread its own 16 bytes, in groups
//   wait_for_copies<n>(); publish_copies(); __syncthreads();   all but the newest n groups have landed
//   begin_products(); multiply(...); close_products();      under way; sums and operands are not touched
//   wait_for_products<n>();                                 all but the newest n groups are summed
//
// Operands      rows of 128 bytes whose 16-byte pieces are swizzled: piece c of row r lies at c ^ (r % 8). The
//               first row lies at a multiple of 1024 bytes. K-major: a row is one of M or N, and holds 64 of the
//               sum. MN-major: a row is one of the sum and holds 64 of M or N; the next 64 are a panel
//               `leading` bytes further.
// Sums          of a thread: sums[4 j + 2 h + i] is row 16 warp + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + i
//               of the warpgroup's [64, columns]; 64 or 128 columns.
// Registers     can be the left operand, [64, 16] along the sum: fragment[2 m + h] holds two neighbours, of row
//               16 warp + lane / 4 + 8 h and columns 8 m + 2 (lane % 4) + {0, 1}. So sums become operands where they
//               are.
// Limits        sm_90a alone: a kernel that uses them is launched where Context's device has warpgroups.
#pragma once
#include <cstdint>

#ifndef __CUDACC__
#include <nestling_warpgroup.h>  // what these instructions do, in C++: of the emulator
#else

namespace nestling::cuda {

inline __device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes to shared memory: the first `bytes` of them from `from`, the rest zero.
inline __device__ void copy_async(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes)
               : "memory");
}
inline __device__ void close_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kOpen>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kOpen) : "memory");
}
// What this thread's copies wrote may be read by products, once the block has met.
inline __device__ void publish_copies() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

inline __device__ void begin_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}
inline __device__ void close_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}
template <int kOpen>
__device__ void wait_for_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kOpen) : "memory");
#endif
}

// The operands of an instruction: 8 sums, and what it says of 32 and of 64.
#define NESTLING_SUMS_8(s, i)                                                                 \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
      "+f"(s[i + 6]), "+f"(s[i + 7])
#define NESTLING_SUMS_32(s, i)                                                  \
  NESTLING_SUMS_8(s, i), NESTLING_SUMS_8(s, i + 8), NESTLING_SUMS_8(s, i + 16), \
      NESTLING_SUMS_8(s, i + 24)
#define NESTLING_NAMES_32                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NESTLING_NAMES_64                                                                   \
  NESTLING_NAMES_32                                                                         \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NESTLING_WGMMA(columns) "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.bf16.bf16 {"

// sums [64, 128] += a [64, 16] b [16, 128]; `adds` false: = instead. kMNMajorA, kMNMajorB: M or N runs along memory.
template <bool kMNMajorA, bool kMNMajorB>
__device__ void multiply(float (&s)[64], uint64_t a, uint64_t b, bool adds = true) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n" NESTLING_WGMMA("128") NESTLING_NAMES_64
               "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
               : NESTLING_SUMS_32(s, 0), NESTLING_SUMS_32(s, 32)
               : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(kMNMajorA ? 1 : 0),
                 "n"(kMNMajorB ? 1 : 0));
#else
  static_cast<void>(s), static_cast<void>(a), static_cast<void>(b), static_cast<void>(adds);
  __trap();
#endif
}
// The same with 64 columns.
template <bool kMNMajorA, bool kMNMajorB>
__device__ void multiply(float (&s)[32], uint64_t a, uint64_t b, bool adds = true) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" NESTLING_WGMMA("64") NESTLING_NAMES_32
               "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
               : NESTLING_SUMS_32(s, 0)
               : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(kMNMajorA ? 1 : 0),
                 "n"(kMNMajorB ? 1 : 0));
#else
  static_cast<void>(s), static_cast<void>(a), static_cast<void>(b), static_cast<void>(adds);
  __trap();
#endif
}
// The same with a in registers, which stay as they are until the products are done.
template <bool kMNMajorB>
__device__ void multiply(float (&s)[64], const uint32_t (&a)[4], uint64_t b, bool adds = true) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n" NESTLING_WGMMA("128") NESTLING_NAMES_64
               "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
               : NESTLING_SUMS_32(s, 0), NESTLING_SUMS_32(s, 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
                 "n"(kMNMajorB ? 1 : 0));
#else
  static_cast<void>(s), static_cast<void>(a), static_cast<void>(b), static_cast<void>(adds);
  __trap();
#endif
}
template <bool kMNMajorB>
__device__ void multiply(float (&s)[32], const uint32_t (&a)[4], uint64_t b, bool adds = true) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n" NESTLING_WGMMA("64") NESTLING_NAMES_32
               "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
               : NESTLING_SUMS_32(s, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
                 "n"(kMNMajorB ? 1 : 0));
#else
  static_cast<void>(s), static_cast<void>(a), static_cast<void>(b), static_cast<void>(adds);
  __trap();
#endif
}

#undef NESTLING_SUMS_8
#undef NESTLING_SUMS_32
#undef NESTLING_NAMES_32
#undef NESTLING_NAMES_64
#undef NESTLING_WGMMA

}  // namespace nestling::cuda

#endif

namespace nestling::cuda {

// Where a product finds an operand: 8 rows of 128 bytes are a pattern, the next 8 lie 1024 bytes on.
inline __device__ uint64_t shared_operand(const void* first, int leading) {
  constexpr uint64_t kRowsOf8 = 1024, kSwizzle128 = 1;
  const auto field = [](uint64_t bytes) { return (bytes & 0x3ffff) >> 4; };
  return field(shared_address(first)) | field(static_cast<uint64_t>(leading)) << 16 |
         field(kRowsOf8) << 32 | kSwizzle128 << 62;
}
// The operand that begins `bytes` further on.
inline __device__ uint64_t advance(uint64_t operand, int bytes) {
  return operand + static_cast<uint64_t>(bytes >> 4);
}

}  // namespace nestling::cuda
