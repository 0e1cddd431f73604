#include "tests/emulator/block.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <dlfcn.h>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace nestling::cuda {
// What kernels/cuda/launch.cuh declares as the dynamic shared memory of a block.
constexpr int64_t kMostShared = 227 << 10;
alignas(128) thread_local unsigned char dynamic_shared_memory[kMostShared];
}  // namespace nestling::cuda

namespace nestling::emulator {

namespace {

using Fiber = boost::context::fiber;
constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostGridYZ = 65535;

enum class State : uint8_t { kReady, kAtBarrier, kAtWarp, kEnded };

struct Thread {
  Fiber fiber;      // the thread, while it waits
  Fiber scheduler;  // who resumes it, while it runs
  State state = State::kReady;
};

// What the lanes of a warp bring to an intrinsic. Two sets: a lane may bring its next value while others
// still read this one, but not the one after that.
struct Warp {
  const char* intrinsic = nullptr;
  int64_t bytes = 0;
  int arrived = 0;
  int turn = 0;
  Exchanged values[2];
};

enum class Order : uint8_t { kForward, kReverse, kShuffle };

Order order_asked_for() {
  const char* text = std::getenv("NESTLING_EMULATOR_ORDER");
  const std::string order = text == nullptr ? "forward" : text;
  if (order == "forward") return Order::kForward;
  if (order == "reverse") return Order::kReverse;
  if (order == "shuffle") return Order::kShuffle;
  std::fprintf(stderr, "emulator: NESTLING_EMULATOR_ORDER=%s, needs forward, reverse or shuffle\n",
               text);
  std::abort();
}

class Device {
 public:
  void run(const Launch& launch, void (*body)(const void*), const void* argument) {
    const std::lock_guard<std::mutex> one(launches_);
    launch_ = &launch;
    body_ = body;
    argument_ = argument;
    const int64_t blocks = int64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t at = order_ == Order::kForward ? i : blocks - 1 - i;
      run_block({static_cast<unsigned>(at % launch.grid.x),
                 static_cast<unsigned>(at / launch.grid.x % launch.grid.y),
                 static_cast<unsigned>(at / launch.grid.x / launch.grid.y)});
    }
    launch_ = nullptr;
  }

  int wait_for_block(int count, unsigned line) {
    if (waiting_ > 0 && line != line_)
      fail(("threads of a block at the barriers of lines " + std::to_string(line_) + " and " +
            std::to_string(line))
               .c_str());
    line_ = line;
    count_ += count;
    ++waiting_;
    wait(State::kAtBarrier);
    return last_count_;
  }

  const Exchanged& wait_for_warp(const char* name, unsigned mask, const void* value,
                                 int64_t bytes) {
    if (mask != 0xffffffffu) fail((std::string(name) + " with part of a warp").c_str());
    Warp& warp = warps_[threadIdx.x / 32];
    if (warp.arrived == 0) {
      warp.intrinsic = name;
      warp.bytes = bytes;
    } else if (std::strcmp(warp.intrinsic, name) != 0 || warp.bytes != bytes) {
      fail((std::string("lanes of a warp at ") + name + " and " + warp.intrinsic).c_str());
    }
    const int turn = warp.turn;
    std::memcpy(warp.values[turn][threadIdx.x % 32].data(), value, static_cast<size_t>(bytes));
    ++warp.arrived;
    wait(State::kAtWarp);
    return warp.values[turn];
  }

  std::string place() const {
    if (launch_ == nullptr) return "host code";
    Dl_info info{};
    std::string name = "a kernel";
    if (dladdr(launch_->kernel, &info) != 0 && info.dli_sname != nullptr) name = info.dli_sname;
    char text[160];
    std::snprintf(text, sizeof text, ", grid (%u,%u,%u) of %u, block (%u,%u,%u), thread %u",
                  launch_->grid.x, launch_->grid.y, launch_->grid.z, launch_->block.x, blockIdx.x,
                  blockIdx.y, blockIdx.z, threadIdx.x);
    return name + text;
  }

 private:
  void run_block(Index block) {
    blockIdx = block;
    blockDim = launch_->block;
    gridDim = launch_->grid;
    const unsigned n = launch_->block.x;
    std::memset(cuda::dynamic_shared_memory, 0xff, static_cast<size_t>(launch_->shared_bytes));
    forget_copies();
    threads_.resize(n);
    warps_.assign(n / 32, Warp{});
    ended_ = waiting_ = count_ = 0;
    for (unsigned t = 0; t < n; ++t) start(t);
    order_threads(n);
    while (ended_ < static_cast<int>(n)) {
      bool moved = false;
      for (const unsigned t : sequence_) moved |= go_on(t);
      if (!moved) fail("threads wait for one another for ever, or a lane ended before its warp");
    }
  }

  void start(unsigned t) {
    Thread& thread = threads_[t];
    thread.state = State::kReady;
    thread.fiber = Fiber(std::allocator_arg, stacks_, [this, t](Fiber&& scheduler) {
      threads_[t].scheduler = std::move(scheduler);
      body_(argument_);
      threads_[t].state = State::kEnded;
      ++ended_;
      return std::move(threads_[t].scheduler);
    });
  }

  // Runs thread t if it can; false if it waits or has ended.
  bool go_on(unsigned t) {
    Thread& thread = threads_[t];
    if (thread.state == State::kAtWarp) release_warp(t / 32);
    if (thread.state == State::kAtBarrier) release_block();
    if (thread.state != State::kReady) return false;
    threadIdx = {t, 0, 0};
    thread.fiber = std::move(thread.fiber).resume();
    return true;
  }

  void release_warp(unsigned w) {
    Warp& warp = warps_[w];
    if (warp.arrived != 32) return;
    warp.arrived = 0;
    warp.turn ^= 1;
    for (unsigned t = 32 * w; t < 32 * w + 32; ++t) threads_[t].state = State::kReady;
  }

  void release_block() {
    if (waiting_ + ended_ != static_cast<int>(threads_.size())) return;
    last_count_ = count_;
    waiting_ = count_ = 0;
    for (Thread& thread : threads_)
      if (thread.state == State::kAtBarrier) thread.state = State::kReady;
  }

  void wait(State why) {
    const unsigned t = threadIdx.x;
    threads_[t].state = why;
    threads_[t].scheduler = std::move(threads_[t].scheduler).resume();
  }

  void order_threads(unsigned n) {
    sequence_.resize(n);
    std::iota(sequence_.begin(), sequence_.end(), 0u);
    if (order_ == Order::kReverse) std::reverse(sequence_.begin(), sequence_.end());
    if (order_ == Order::kShuffle) std::shuffle(sequence_.begin(), sequence_.end(), random_);
  }

  const Order order_ = order_asked_for();
  std::mutex launches_;
  const Launch* launch_ = nullptr;
  void (*body_)(const void*) = nullptr;
  const void* argument_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned> sequence_;
  std::mt19937 random_{1};
  unsigned line_ = 0;  // of the barrier that threads wait at
  int ended_ = 0, waiting_ = 0, count_ = 0, last_count_ = 0;
  boost::context::pooled_fixedsize_stack stacks_{kStackBytes};
};

Device& device() {
  static Device d;
  return d;
}

}  // namespace

bool run(const Launch& launch, void (*body)(const void*), const void* argument) {
  const Index& b = launch.block;
  const bool fits = b.x % 32 == 0 && b.x >= 32 && b.x <= kMostThreads && b.y == 1 && b.z == 1 &&
                    launch.grid.x > 0 && launch.grid.x <= 0x7fffffffu && launch.grid.y > 0 &&
                    launch.grid.y <= kMostGridYZ && launch.grid.z > 0 &&
                    launch.grid.z <= kMostGridYZ && launch.shared_bytes <= cuda::kMostShared;
  if (!fits) return false;
  if (!kernels_run()) return true;
  open_device_memory();
  device().run(launch, body, argument);
  close_device_memory();
  return true;
}

bool kernels_run() {
  static const bool run = [] {
    const char* text = std::getenv("NESTLING_EMULATOR_KERNELS");
    return text == nullptr || std::string_view(text) != "skip";
  }();
  return run;
}

int sync_block(int count, unsigned line) {
  return device().wait_for_block(count, line);
}

const Exchanged& exchange_bytes(const char* name, unsigned mask, const void* value, int64_t bytes) {
  return device().wait_for_warp(name, mask, value, bytes);
}

void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s: %s\n", device().place().c_str(), what);
  std::abort();
}

}  // namespace nestling::emulator
