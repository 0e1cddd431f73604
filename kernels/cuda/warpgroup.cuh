// warpgroup.cuh - Hopper's products of shared memory by a warpgroup (128 threads), and the asynchronous copies
// that feed them. (PTX ISA, sections 9.7.9.25 on cp.async and 9.7.15 on wgmma.)
//
//   copy_async(...); close_copies();                        each thread its own 16 bytes, in groups
//   wait_for_copies<n>(); publish_copies(); __syncthreads();   all but the newest n groups have landed
//   begin_products(); multiply(...); close_products();      under way; sums and operands are not touched
//   wait_for_products<n>();                                 all but the newest n groups are summed
//
// Operands      rows of 128 bytes whose 16-byte pieces are swizzled: piece c of row r lies at c ^ (r % 8). The
//               first row lies at a multiple of 1024 bytes. Along::kSum: a row is one of M or N, and holds 64 of
//               the sum. Along::kSide: a row is one of the sum and holds 64 of M or N; the next 64 are a panel
//               `leading` bytes further.
// Sums          of a thread: sums[4 j + 2 h + i] is row 16 warp + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + i
//               of the warpgroup's [64, 128].
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

// sums [64, 128] += a [64, 16] b [16, 128]. kSideA, kSideB: M or N runs along memory.
template <bool kSideA, bool kSideB>
__device__ void multiply(float (&s)[64], uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, %66, %67;\n}\n"
      : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]), "+f"(s[6]),
        "+f"(s[7]), "+f"(s[8]), "+f"(s[9]), "+f"(s[10]), "+f"(s[11]), "+f"(s[12]), "+f"(s[13]),
        "+f"(s[14]), "+f"(s[15]), "+f"(s[16]), "+f"(s[17]), "+f"(s[18]), "+f"(s[19]), "+f"(s[20]),
        "+f"(s[21]), "+f"(s[22]), "+f"(s[23]), "+f"(s[24]), "+f"(s[25]), "+f"(s[26]), "+f"(s[27]),
        "+f"(s[28]), "+f"(s[29]), "+f"(s[30]), "+f"(s[31]), "+f"(s[32]), "+f"(s[33]), "+f"(s[34]),
        "+f"(s[35]), "+f"(s[36]), "+f"(s[37]), "+f"(s[38]), "+f"(s[39]), "+f"(s[40]), "+f"(s[41]),
        "+f"(s[42]), "+f"(s[43]), "+f"(s[44]), "+f"(s[45]), "+f"(s[46]), "+f"(s[47]), "+f"(s[48]),
        "+f"(s[49]), "+f"(s[50]), "+f"(s[51]), "+f"(s[52]), "+f"(s[53]), "+f"(s[54]), "+f"(s[55]),
        "+f"(s[56]), "+f"(s[57]), "+f"(s[58]), "+f"(s[59]), "+f"(s[60]), "+f"(s[61]), "+f"(s[62]),
        "+f"(s[63])
      : "l"(a), "l"(b), "n"(kSideA ? 1 : 0), "n"(kSideB ? 1 : 0));
#else
  static_cast<void>(s), static_cast<void>(a), static_cast<void>(b);
  __trap();
#endif
}

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
