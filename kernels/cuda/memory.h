// memory.h - device memory of the CUDA backend. Built without CUDA, every call throws (absent.cpp).
//
// Threads       any; the calling thread's current device is used.
// Streams       copies and fills are ordered on the legacy default stream, and so before and after all work
//               of a Context's stream, or on the stream of the Context they are given. A copy with the host is
//               complete on return; one within the device and a fill are enqueued.
#pragma once
#include "kernels/core/context.h"
#include "kernels/core/memory_table.h"

namespace nestling::cuda {

// What this program has asked of its device so far.
struct Activity {
  int64_t waits = 0;  // of the host for a stream: synchronize, copies with the host, allocations
  int64_t allocations = 0;  // of device memory
  int64_t launches = 0;     // of kernels, and calls of cuBLASLt's products
  int64_t uploads = 0;      // of small tables, a slot of pinned memory each
  int64_t copies = 0;       // and fills, from here to there or within the device
};
Activity activity();

bool built();                      // this binary holds the CUDA backend
std::string unavailable_reason();  // empty: a device can be used; else one line saying why not
// Zeroed. Throws with the table of who holds what where the device has no more.
std::byte* allocate(int64_t bytes, Holder holder);
std::vector<MemoryPool> held();  // what allocate gave out, by holder
std::string held_table();        // that, as lines with a title, the first on a new line
void release(std::byte* data) noexcept;
void copy(View dst, ConstView src);  // at least one side on the device; gaps are kept
void fill_zero(View x);
void copy(Context& ctx, View dst, ConstView src);  // both sides on the device
void fill_zero(Context& ctx, View x);

}  // namespace nestling::cuda
