// runtime.cpp - the CUDA runtime of the emulator: every call has done its work when it returns.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <signal.h>
#include <string>
#include <sys/mman.h>

#include <cuda_runtime.h>

#include "tests/emulator/block.h"
#include "tests/emulator/stream.h"

namespace nestling::emulator {

namespace {

constexpr size_t kReserved = size_t{256} << 30;    // addresses, not memory
constexpr size_t kDeviceMemory = size_t{8} << 30;  // what there is of it, unless told otherwise
constexpr size_t kAlign = 256;
constexpr size_t kRedZone = 256;
constexpr int kRed = 0xa5;
constexpr size_t kPage = 4096;

size_t rounded(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

// Device memory: one run of addresses, first fit, a red zone behind every allocation.
class Memory {
 public:
  Memory() {
    void* all =
        mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) fail("cannot reserve addresses for device memory");
    base_ = static_cast<std::byte*>(all);
    free_[0] = kReserved;
    catch_host_access();
  }

  std::byte* allocate(size_t bytes) {
    const size_t whole = rounded(std::max<size_t>(bytes, 1), kAlign) + kRedZone;
    const std::lock_guard<std::mutex> one(mutex_);
    if (bytes > left()) return nullptr;
    const auto hole =
        std::find_if(free_.begin(), free_.end(), [&](const auto& h) { return h.second >= whole; });
    if (hole == free_.end()) return nullptr;
    const size_t at = hole->first;
    const size_t left = hole->second - whole;
    free_.erase(hole);
    if (left > 0) free_[at + whole] = left;
    used_[at] = bytes;
    in_use_ += bytes;
    top_ = std::max(top_, rounded(at + whole, kPage));
    open();
    std::memset(base_ + at + bytes, kRed, whole - bytes);
    close();
    return base_ + at;
  }

  bool release(std::byte* data) {
    const std::lock_guard<std::mutex> one(mutex_);
    const auto held = used_.find(static_cast<size_t>(data - base_));
    if (held == used_.end()) return false;
    const auto [at, bytes] = *held;
    const size_t whole = rounded(std::max<size_t>(bytes, 1), kAlign) + kRedZone;
    open();
    for (size_t i = bytes; i < whole; ++i)
      if (base_[at + i] != std::byte{kRed}) fail("device memory written behind an allocation");
    close();
    in_use_ -= bytes;
    used_.erase(held);
    give_back(at, whole);
    return true;
  }

  size_t whole() const { return limit(); }
  size_t unused() {
    const std::lock_guard<std::mutex> one(mutex_);
    return left();
  }

  void open() {
    if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    if (--depth_ == 0 && kernels_run()) protect(PROT_NONE);
  }
  bool holds(const void* p) const {
    const auto* at = static_cast<const std::byte*>(p);
    return at >= base_ && at < base_ + kReserved;
  }

  // Zeros, without touching pages that nobody has read: large arrays cost nothing until used.
  void zero(std::byte* data, size_t bytes) {
    std::byte* first = base_ + rounded(static_cast<size_t>(data - base_), kPage);
    const std::byte* end = data + bytes;
    if (first + kPage >= end) {
      std::memset(data, 0, bytes);
      return;
    }
    const size_t whole = static_cast<size_t>(end - first) / kPage * kPage;
    std::memset(data, 0, static_cast<size_t>(first - data));
    madvise(first, whole, MADV_DONTNEED);
    std::memset(first + whole, 0, static_cast<size_t>(end - first) - whole);
  }

 private:
  // NESTLING_EMULATOR_MEMORY, bytes: of the device, asked for at every allocation.
  static size_t limit() {
    const char* text = std::getenv("NESTLING_EMULATOR_MEMORY");
    return text == nullptr ? kDeviceMemory : std::strtoull(text, nullptr, 10);
  }
  size_t left() const { return limit() - std::min(in_use_, limit()); }

  void protect(int access) {
    // The page tables of the first page too: aligned to pages by mmap.
    if (top_ > 0 && mprotect(base_, top_, access) != 0) fail("mprotect of device memory");
  }

  void give_back(size_t at, size_t bytes) {
    auto next = free_.lower_bound(at);
    if (next != free_.end() && at + bytes == next->first) {
      bytes += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == at) {
        before->second += bytes;
        return;
      }
    }
    free_[at] = bytes;
  }

  static void catch_host_access();

  std::byte* base_ = nullptr;
  size_t top_ = 0;
  int depth_ = 0;
  size_t in_use_ = 0;
  std::mutex mutex_;
  std::map<size_t, size_t> free_, used_;  // offset to bytes
};

Memory& memory() {
  static Memory m;
  return m;
}

void on_fault(int, siginfo_t* info, void*) {
  if (memory().holds(info->si_addr))
    fail("host code touched device memory, or a kernel none of its own");
  signal(SIGSEGV, SIG_DFL);
}

void Memory::catch_host_access() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
}

class OpenMemory {
 public:
  OpenMemory() { open_device_memory(); }
  ~OpenMemory() { close_device_memory(); }
  OpenMemory(const OpenMemory&) = delete;
  OpenMemory& operator=(const OpenMemory&) = delete;
};

}  // namespace

void open_device_memory() {
  memory().open();
}
void close_device_memory() {
  memory().close();
}
bool is_device_memory(const void* data) {
  return memory().holds(data);
}

}  // namespace nestling::emulator

using nestling::emulator::allow_shared_memory;
using nestling::emulator::begin_work;
using nestling::emulator::broken;
using nestling::emulator::copy_late;
using nestling::emulator::fail;
using nestling::emulator::finish_copies;
using nestling::emulator::kAlign;
using nestling::emulator::kernels_run;
using nestling::emulator::kRed;
using nestling::emulator::kRedZone;
using nestling::emulator::memory;
using nestling::emulator::OpenMemory;
using nestling::emulator::rounded;

namespace {
thread_local int current_device = 0;
}  // namespace

// Devices differ in their numbers alone: each rank is a process with memory of its own.
cudaError_t cudaGetDeviceCount(int* count) {
  const char* text = std::getenv("NESTLING_EMULATOR_DEVICES");
  *count = text == nullptr ? 8 : std::atoi(text);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  if (device < 0 || device >= count) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
// NESTLING_EMULATOR_CAPABILITY = 90 (default), 80 or 100: as what the device presents itself.
static int capability() {
  const char* text = std::getenv("NESTLING_EMULATOR_CAPABILITY");
  const std::string asked = text == nullptr ? "90" : text;
  for (const int known : {80, 90, 100})
    if (asked == std::to_string(known)) return known;
  std::fprintf(stderr, "emulator: NESTLING_EMULATOR_CAPABILITY=%s, needs 80, 90 or 100\n", text);
  std::abort();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // few, so that loops over a grid go round more than once
      break;
    case cudaDevAttrL2CacheSize:
      *value = 64 << 10;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability() / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability() % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = (capability() >= 90 ? 227 : 163) << 10;
      break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 0;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  if (broken()) return cudaErrorIllegalAddress;
  *properties = {.name = "emulated on the CPU", .totalGlobalMem = memory().whole()};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* address, int bytes, int) {
  std::snprintf(address, static_cast<size_t>(bytes), "none");
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t code) {
  return cudaGetErrorName(code);
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = memory().unused();
  *total_bytes = memory().whole();
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (broken()) return cudaErrorIllegalAddress;
  *data = memory().allocate(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  finish_copies();
  return data == nullptr || memory().release(static_cast<std::byte*>(data)) ? cudaSuccess
                                                                            : cudaErrorInvalidValue;
}
namespace {
// Bytes by where they begin. Never destroyed: contexts may end at exit.
std::map<const std::byte*, size_t>& pinned() {
  static auto* all = new std::map<const std::byte*, size_t>;
  return *all;
}

bool is_pinned(const void* data) {
  const auto* at = static_cast<const std::byte*>(data);
  const auto behind = pinned().upper_bound(at);
  if (behind == pinned().begin()) return false;
  const auto& [begin, bytes] = *std::prev(behind);
  return at < begin + bytes;
}
}  // namespace

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::aligned_alloc(kAlign, rounded(bytes + kRedZone, kAlign));
  if (*data == nullptr) return cudaErrorMemoryAllocation;
  std::memset(static_cast<std::byte*>(*data) + bytes, kRed, kRedZone);
  pinned()[static_cast<std::byte*>(*data)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  finish_copies();
  const auto held = pinned().find(static_cast<std::byte*>(data));
  if (held == pinned().end()) return cudaErrorInvalidValue;
  for (size_t i = 0; i < kRedZone; ++i)
    if (held->first[held->second + i] != std::byte{kRed})
      fail("pinned memory written behind an allocation");
  pinned().erase(held);
  std::free(data);
  return cudaSuccess;
}
namespace {
constexpr size_t kMostPitch = 0x7fffffff;  // of the 2-D calls, as cards report it

template <class P>
struct Lines {
  P data;
  size_t pitch;
};
cudaError_t copy_rows(Lines<void*> to, Lines<const void*> from, size_t width, size_t rows,
                      cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind != cudaMemcpyDeviceToHost;
  const bool from_device = kind != cudaMemcpyHostToDevice;
  if (memory().holds(to.data) != to_device || memory().holds(from.data) != from_device ||
      to.pitch < width || from.pitch < width)
    return cudaErrorInvalidValue;
  if (broken()) return cudaErrorIllegalAddress;
  const auto copy = [=] {
    const OpenMemory open;
    for (size_t r = 0; r < rows; ++r)
      std::memcpy(static_cast<std::byte*>(to.data) + r * to.pitch,
                  static_cast<const std::byte*>(from.data) + r * from.pitch, width);
  };
  if (is_pinned(to_device ? from.data : to.data))
    copy_late(stream, copy);
  else if (begin_work(stream) && (!to_device || !from_device || kernels_run()))
    copy();
  return cudaSuccess;
}
}  // namespace

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return cudaMemsetAsync(data, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (!memory().holds(data)) return cudaErrorInvalidValue;
  if (!begin_work(stream)) return cudaSuccess;
  if (broken()) return cudaErrorIllegalAddress;
  const OpenMemory open;
  if (value == 0)
    memory().zero(static_cast<std::byte*>(data), bytes);
  else
    std::memset(data, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset2DAsync(void* data, size_t pitch, int value, size_t width, size_t rows,
                              cudaStream_t stream) {
  if (!memory().holds(data) || pitch < width || pitch > kMostPitch) return cudaErrorInvalidValue;
  if (broken()) return cudaErrorIllegalAddress;
  if (!begin_work(stream) || !kernels_run()) return cudaSuccess;
  const OpenMemory open;
  for (size_t r = 0; r < rows; ++r)
    std::memset(static_cast<std::byte*>(data) + r * pitch, value, width);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy_rows({dst, bytes}, {src, bytes}, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                              size_t width, size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (dst_pitch > kMostPitch || src_pitch > kMostPitch) return cudaErrorInvalidValue;
  return copy_rows({dst, dst_pitch}, {src, src_pitch}, width, rows, kind, stream);
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
    return value >= -1 && value <= 100 ? cudaSuccess : cudaErrorInvalidValue;
  if (value > 227 << 10) return cudaErrorInvalidValue;
  allow_shared_memory(kernel, value);
  return cudaSuccess;
}
cudaError_t cudaFuncGetName(const char** name, const void*) {
  *name = "kernel";
  return cudaSuccess;
}
