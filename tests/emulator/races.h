// races.h - what ThreadSanitizer is told of the emulated threads, in a build with -fsanitize=thread (preset
// `racecheck`): each is a thread of its own, and only barriers order them. So two accesses of a block to the same
// byte, one of them a write, that no barrier separates are reported, whichever came first here.
//
// Order         __syncthreads and __syncwarp. Shuffles, votes and products of warps exchange registers and order no
//               memory (CUDA C++ Programming Guide, "Warp Shuffle Functions").
// Asynchronous  copies and products touch memory when they are issued and again when they are waited for.
// Blocks        run one after another and are ordered: races between them show between the orders of blocks.
// Without       the sanitizer everything here does nothing.
// Callers       the functions are for code that is not instrumented itself (tests/emulator/CMakeLists.txt).
#pragma once
#include <cstddef>

#ifdef NESTLING_EMULATOR_RACES
extern "C" {  // of the sanitizer's runtime; NOLINTBEGIN(bugprone-reserved-identifier)
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(void* address, unsigned long bytes);
}  // NOLINTEND(bugprone-reserved-identifier)
#endif

namespace nestling::emulator::races {

#ifdef NESTLING_EMULATOR_RACES
inline constexpr bool kSeen = true;
#else
inline constexpr bool kSeen = false;
#endif

// A thread as the sanitizer knows it; lives as long as the process.
class Thread {
 public:
#ifdef NESTLING_EMULATOR_RACES
  static Thread current() {
    return Thread(__tsan_get_current_fiber());
  }
  static Thread create(const char* name) {
    Thread t(__tsan_create_fiber(0));
    __tsan_set_fiber_name(t.fiber_, name);
    return t;
  }
  // From here on accesses are this thread's. Orders nothing.
  void enter() const {
    __tsan_switch_to_fiber(fiber_, 1);
  }

  Thread() = default;

 private:
  explicit Thread(void* fiber) : fiber_(fiber) {}
  void* fiber_ = nullptr;
#else
  static Thread current() {
    return {};
  }
  static Thread create(const char*) {
    return {};
  }
  void enter() const {}
#endif
};

// What leaves a place comes before what meets there later.
class Meeting {
 public:
#ifdef NESTLING_EMULATOR_RACES
  void leave() {
    __tsan_release(this);
  }
  void meet() {
    __tsan_acquire(this);
  }

 private:
  std::byte place_[8];
#else
  void leave() {}
  void meet() {}
#endif
};

inline void read(const void* data, size_t bytes) {
#ifdef NESTLING_EMULATOR_RACES
  __tsan_read_range(const_cast<void*>(data), bytes);
#else
  static_cast<void>(data), static_cast<void>(bytes);
#endif
}

}  // namespace nestling::emulator::races
