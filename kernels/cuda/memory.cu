#include <map>
#include <mutex>

#include <cuda_runtime.h>

#include "kernels/cuda/asked.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream_state.h"
#include "kernels/cuda/wait.h"

namespace nestling::cuda {

namespace {

struct Rows {
  int64_t count;     // of the innermost two dims: one 2-D copy
  int64_t bytes;     // of a row
  int64_t dst_step;  // bytes from row to row
  int64_t src_step;
};

// Calls fn(dst byte offset, src byte offset, rows) for each [rows, cols] matrix of two views of one
// shape: all but the last two dims are walked here.
template <class Fn>
void for_each_matrix(const ConstView& dst, const ConstView& src, Fn fn) {
  const int64_t item = dtype_bytes(dst.dtype());
  const int last = dst.rank() - 1;
  const Rows rows{last >= 1 ? dst.dim(last - 1) : 1, dst.dim(last) * item,
                  (last >= 1 ? dst.stride(last - 1) : dst.dim(last)) * item,
                  (last >= 1 ? src.stride(last - 1) : src.dim(last)) * item};
  int64_t matrices = 1;
  for (int d = 0; d < last - 1; ++d) matrices *= dst.dim(d);
  for (int64_t m = 0; m < matrices; ++m) {
    int64_t rest = m;
    int64_t dst_at = 0;
    int64_t src_at = 0;
    for (int d = last - 2; d >= 0; --d) {
      const int64_t i = rest % dst.dim(d);
      rest /= dst.dim(d);
      dst_at += i * dst.stride(d) * item;
      src_at += i * src.stride(d) * item;
    }
    fn(dst_at, src_at, rows);
  }
}

// One run of bytes on both sides. The 2-D calls refuse pitches of 2 GB and more, and those shorter than a row,
// as a view of one row may have.
bool one_run(const Rows& rows) {
  return rows.count <= 1 || (rows.dst_step == rows.bytes && rows.src_step == rows.bytes);
}

cudaMemcpyKind kind_of(Device dst, Device src) {
  if (dst == Device::kCuda && src == Device::kCuda) return cudaMemcpyDeviceToDevice;
  return dst == Device::kCuda ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
}

void copy_on(cudaStream_t stream, const View& dst, const ConstView& src) {
  for_each_matrix(dst, src, [&](int64_t dst_at, int64_t src_at, const Rows& rows) {
    const cudaMemcpyKind kind = kind_of(dst.device(), src.device());
    tally(asked.copies);
    if (one_run(rows))
      NESTLING_CUDA(cudaMemcpyAsync(dst.data() + dst_at, src.data() + src_at,
                                    static_cast<size_t>(rows.count * rows.bytes), kind, stream));
    else
      NESTLING_CUDA(cudaMemcpy2DAsync(dst.data() + dst_at, static_cast<size_t>(rows.dst_step),
                                      src.data() + src_at, static_cast<size_t>(rows.src_step),
                                      static_cast<size_t>(rows.bytes),
                                      static_cast<size_t>(rows.count), kind, stream));
  });
}

void fill_on(cudaStream_t stream, const View& x) {
  for_each_matrix(x, x, [&](int64_t at, int64_t, const Rows& rows) {
    tally(asked.copies);
    if (one_run(rows))
      NESTLING_CUDA(
          cudaMemsetAsync(x.data() + at, 0, static_cast<size_t>(rows.count * rows.bytes), stream));
    else
      NESTLING_CUDA(cudaMemset2DAsync(x.data() + at, static_cast<size_t>(rows.dst_step), 0,
                                      static_cast<size_t>(rows.bytes),
                                      static_cast<size_t>(rows.count), stream));
  });
}

// Who holds what: as there is one device, there is one list of it.
struct Held {
  Holder holder;
  int64_t bytes;
};
struct Ledger {
  std::mutex mutex;
  std::map<const std::byte*, Held> entries;
};
Ledger& ledger() {
  static Ledger all;
  return all;
}

[[noreturn]] void out_of_memory(int64_t bytes, Holder holder) {
  size_t free_bytes = 0;
  size_t total = 0;
  NESTLING_CUDA(cudaMemGetInfo(&free_bytes, &total));
  throw Error(str("out of CUDA memory: ", bytes, " bytes asked for ", holder.name, " (",
                  pool_name(holder.pool), "), ", free_bytes, " of ", total, " are free",
                  held_table()));
}

}  // namespace

void wait_for(cudaStream_t stream) {
  tally(asked.waits);
  NESTLING_CUDA(cudaStreamSynchronize(stream));
}

Activity activity() {
  return {.waits = asked.waits.load(),
          .allocations = asked.allocations.load(),
          .launches = asked.launches.load(),
          .uploads = asked.uploads.load(),
          .copies = asked.copies.load()};
}

bool built() {
  return true;
}

// Without a driver cudaGetDeviceCount returns cudaErrorInsufficientDriver and leaves the count
// unwritten.
std::string unavailable_reason() {
  int devices = 0;
  const cudaError_t code = cudaGetDeviceCount(&devices);
  if (code != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    const char* hint =
        code == cudaErrorInsufficientDriver ? ": no NVIDIA driver, or too old a one" : "";
    return str("no usable CUDA device", hint, " (", cudaGetErrorName(code), ")");
  }
  return devices > 0 ? "" : "no CUDA device in this machine";
}

std::vector<MemoryPool> held() {
  const std::lock_guard<std::mutex> one(ledger().mutex);
  std::map<std::pair<Pool, std::string>, int64_t> sums;
  for (const auto& [data, entry] : ledger().entries)
    sums[{entry.holder.pool, entry.holder.name}] += entry.bytes;
  std::vector<MemoryPool> all;
  for (const auto& [key, bytes] : sums)
    all.push_back({.name = key.second, .bytes = bytes, .pool = key.first});
  return all;
}

std::string held_table() {
  return "\nmemory held on the device, MiB\n" + memory_table(held());
}

std::byte* allocate(int64_t bytes, Holder holder) {
  tally(asked.allocations);
  void* data = nullptr;
  const cudaError_t code = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    out_of_memory(bytes, holder);
  }
  NESTLING_CUDA(code);
  try {
    NESTLING_CUDA(cudaMemset(data, 0, static_cast<size_t>(bytes)));
    wait_for(cudaStreamLegacy);
  } catch (...) {
    cudaFree(data);
    throw;
  }
  const std::lock_guard<std::mutex> one(ledger().mutex);
  const auto* at = static_cast<std::byte*>(data);
  ledger().entries[at] = {.holder = holder, .bytes = bytes};
  return static_cast<std::byte*>(data);
}

void release(std::byte* data) noexcept {
  {
    const std::lock_guard<std::mutex> one(ledger().mutex);
    ledger().entries.erase(data);
  }
  if (cudaFree(data) != cudaSuccess) static_cast<void>(cudaGetLastError());  // at exit: no device
}

void copy(View dst, ConstView src) {
  copy_on(cudaStreamLegacy, dst, src);
  if (dst.device() != Device::kCuda || src.device() != Device::kCuda) wait_for(cudaStreamLegacy);
}
void fill_zero(View x) {
  fill_on(cudaStreamLegacy, x);
}
void copy(Context& ctx, View dst, ConstView src) {
  copy_on(ctx.cuda().stream, dst, src);
}
void fill_zero(Context& ctx, View x) {
  fill_on(ctx.cuda().stream, x);
}

}  // namespace nestling::cuda
