// cuda_runtime.h - of the emulator: what kernels/cuda uses of the CUDA runtime and of the CUDA language,
// on the CPU. It stands in for NVIDIA's header in the preset `emulated`.
//
// Model         a launch runs at once: block by block, every CUDA thread a fiber, which runs until it
//               waits (barrier, warp intrinsic) or ends. See tests/emulator/block.h.
// Memory        NESTLING_EMULATOR_MEMORY = bytes of the device.
// Order         NESTLING_EMULATOR_ORDER = forward (default), reverse or shuffle: of blocks and threads.
// Stricter      than a GPU: blocks are one-dimensional and whole warps; warp intrinsics are reached by all
//               32 lanes, all at the same one; wmma pointers are aligned; device memory cannot be touched
//               by host code. What breaks a rule ends the process with a line that says which.
// Streams       see tests/emulator/stream.h. NESTLING_EMULATOR_DEVICES = how many devices there are (8).
// Time          of events is the host's clock: it says what emulation costs, and nothing of a GPU.
// Not           speed, streams that run side by side, or the rounding of NVIDIA's math functions.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <math.h>
#include <source_location>

#include "tests/emulator/block.h"
#include "tests/emulator/stream.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ thread_local
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// ---- barriers, shuffles, votes ----
// Where a barrier stands in the source: threads of a block that meet at two of them are an error.
using nestling_emulated_place = std::source_location;
inline void __syncthreads(nestling_emulated_place at = nestling_emulated_place::current()) {
  nestling::emulator::sync_block(0, at.line());
}
inline int __syncthreads_count(int predicate,
                               nestling_emulated_place at = nestling_emulated_place::current()) {
  return nestling::emulator::sync_block(predicate != 0, at.line());
}
inline int __syncthreads_or(int predicate,
                            nestling_emulated_place at = nestling_emulated_place::current()) {
  return nestling::emulator::sync_block(predicate != 0, at.line()) > 0;
}
inline int __syncthreads_and(int predicate,
                             nestling_emulated_place at = nestling_emulated_place::current()) {
  return nestling::emulator::sync_block(predicate == 0, at.line()) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  nestling::emulator::sync_warp(mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const auto all = nestling::emulator::exchange<T>("__shfl_sync", mask, value);
  const int lane = nestling::emulator::lane();
  return all[lane / width * width + (source & (width - 1))];
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const auto all = nestling::emulator::exchange<T>("__shfl_xor_sync", mask, value);
  const int lane = nestling::emulator::lane();
  const int from = lane ^ bits;
  return from / width > lane / width ? value : all[from];
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto all = nestling::emulator::exchange<T>("__shfl_up_sync", mask, value);
  const int lane = nestling::emulator::lane();
  return lane % width < static_cast<int>(delta) ? value : all[lane - static_cast<int>(delta)];
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto all = nestling::emulator::exchange<T>("__shfl_down_sync", mask, value);
  const int lane = nestling::emulator::lane();
  return lane % width + static_cast<int>(delta) >= width ? value
                                                         : all[lane + static_cast<int>(delta)];
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto all = nestling::emulator::exchange<int>("__ballot_sync", mask, predicate != 0);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xffffffffu;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- atomics: fibers do not interrupt each other ----
template <class T, class Change>
T nestling_emulated_change(T* at, const Change& change) {
  T old;
  __atomic_load(at, &old, __ATOMIC_RELAXED);
  T next = change(old);
  __atomic_store(at, &next, __ATOMIC_RELAXED);
  return old;
}
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> x) {
  return nestling_emulated_change(at, [&](T old) { return static_cast<T>(old + x); });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> x) {
  return nestling_emulated_change(at, [&](T old) { return x < old ? x : old; });
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> x) {
  return nestling_emulated_change(at, [&](T old) { return x > old ? x : old; });
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> x) {
  return nestling_emulated_change(at, [&](T old) { return static_cast<T>(old | x); });
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> x) {
  return nestling_emulated_change(at, [&](T) { return x; });
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  return nestling_emulated_change(at, [&](T old) { return old == expected ? x : old; });
}

// ---- arithmetic ----
#define NESTLING_EMULATED_MIN_MAX(T) \
  inline T min(T a, T b) {           \
    return b < a ? b : a;            \
  }                                  \
  inline T max(T a, T b) {           \
    return a < b ? b : a;            \
  }
NESTLING_EMULATED_MIN_MAX(int)
NESTLING_EMULATED_MIN_MAX(unsigned)
NESTLING_EMULATED_MIN_MAX(long)
NESTLING_EMULATED_MIN_MAX(unsigned long)
NESTLING_EMULATED_MIN_MAX(long long)
NESTLING_EMULATED_MIN_MAX(unsigned long long)
#undef NESTLING_EMULATED_MIN_MAX
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline double min(double a, double b) {
  return fmin(a, b);
}
inline double max(double a, double b) {
  return fmax(a, b);
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline float __expf(float x) {
  return expf(x);
}
inline float __logf(float x) {
  return logf(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __saturatef(float x) {
  return fminf(fmaxf(x, 0.0f), 1.0f);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
template <class T>
T __ldg(const T* p) {
  return *p;
}

// ---- the runtime ----
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorIllegalAddress = 700,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaSharedCarveout { cudaSharedmemCarveoutMaxShared = 100 };
enum cudaDeviceAttr {
  cudaDevAttrClockRate = 13,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMemoryClockRate = 36,
  cudaDevAttrGlobalMemoryBusWidth = 37,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
};
using cudaStream_t = struct nestling_emulated_stream*;
using cudaEvent_t = struct nestling_emulated_event*;
#define cudaStreamLegacy (reinterpret_cast<cudaStream_t>(0x1))
inline constexpr unsigned cudaEventDefault = 0;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline constexpr unsigned cudaStreamNonBlocking = 1;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char* address, int bytes, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t code);
const char* cudaGetErrorString(cudaError_t code);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemset(void* data, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemset2DAsync(void* data, size_t pitch, int value, size_t width, size_t rows,
                              cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                              size_t width, size_t rows, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetName(const char** name, const void* kernel);

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  if (!nestling::emulator::begin_work(config->stream)) return cudaSuccess;
  if (nestling::emulator::broken()) return cudaErrorIllegalAddress;
  const auto body = [&] { kernel(static_cast<Params>(args)...); };
  const nestling::emulator::Launch launch{
      {config->gridDim.x, config->gridDim.y, config->gridDim.z},
      {config->blockDim.x, config->blockDim.y, config->blockDim.z},
      static_cast<int64_t>(config->dynamicSmemBytes),
      reinterpret_cast<const void*>(kernel)};
  const bool ran = nestling::emulator::run(
      launch, [](const void* b) { (*static_cast<decltype(&body)>(b))(); }, &body);
  return ran ? cudaSuccess : cudaErrorInvalidConfiguration;
}
