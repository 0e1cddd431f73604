// block.h - how the emulator runs a launch: blocks one after another, each thread of a block a fiber.
//
// Waiting       a thread runs until it ends or waits: at sync_block for all threads of its block that have
//               not ended, at exchange for the 32 lanes of its warp. Nothing runs side by side.
// Order         of blocks, and of threads whenever several can go on: NESTLING_EMULATOR_ORDER = forward,
//               reverse or shuffle. Code without races gives the same bits in each.
// Races         between barriers are what the preset `racecheck` finds: races.h.
// Shared memory keeps what the block before left in it; dynamic shared memory starts as NaN, and has a red zone behind.
// Errors        threads that wait for one another for ever or at different barriers, lanes at different
//               intrinsics, a lane that ended before its warp's intrinsic: one line on stderr, then
//               abort.
// Threads       one launch at a time in a process.
#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace nestling::emulator {
struct Index {
  unsigned x, y, z;
};
}  // namespace nestling::emulator

// Of the fiber that runs.
inline thread_local nestling::emulator::Index threadIdx, blockIdx, blockDim, gridDim;

namespace nestling::emulator {

struct Launch {
  Index grid, block;
  int64_t shared_bytes;
  const void* kernel;
};

// What a kernel may have of dynamic shared memory, where it needs more than 48 KB. Its static memory counts too: as
// the emulator cannot see how much that is, it is taken for 8 KB.
void allow_shared_memory(const void* kernel, int64_t bytes);

// Runs `body` once for each thread. False: no device would take this grid.
bool run(const Launch& launch, void (*body)(const void*), const void* argument);
// False under NESTLING_EMULATOR_KERNELS=skip: kernels, products and what else happens within the device do
// nothing, so that what the host asks of it in a step of any size is counted in no time. No test does.
bool kernels_run();

inline int lane() {
  return static_cast<int>(threadIdx.x % 32);
}

// The barrier of the block in this line of the source; the sum of `count` over its threads.
int sync_block(int count, unsigned line);

inline constexpr int64_t kMostExchanged = 16;  // bytes a lane
using Brought = std::array<std::byte, kMostExchanged>;
using Exchanged = std::array<Brought, 32>;

// Waits for the 32 lanes, all at the intrinsic `name`; what each brought. Orders no memory.
const Exchanged& exchange_bytes(const char* name, unsigned mask, const Brought& value,
                                int64_t bytes);
// The barrier of the warp.
void sync_warp(unsigned mask);

template <class T>
std::array<T, 32> exchange(const char* name, unsigned mask, const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMostExchanged);
  Brought mine{};
  std::memcpy(mine.data(), &value, sizeof(T));
  const Exchanged& raw = exchange_bytes(name, mask, mine, sizeof(T));
  std::array<T, 32> all;
  for (size_t i = 0; i < 32; ++i) std::memcpy(&all[i], raw[i].data(), sizeof(T));
  return all;
}

[[noreturn]] void fail(const char* what);  // names the launch and the thread, then aborts

void forget_copies();  // of the block before, into shared memory: no product of this one reads them

// Device memory may be touched only between these two; they nest.
void open_device_memory();
void close_device_memory();

}  // namespace nestling::emulator
