#include "tests/emulator/block.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/emulator/races.h"

namespace nestling::cuda {
// What kernels/cuda/launch.cuh declares as the dynamic shared memory of a block; a red zone behind what was asked for.
constexpr int64_t kMostShared = 227 << 10, kRedZone = 16 << 10;
constexpr unsigned char kRed = 0xa5;
alignas(128) thread_local unsigned char dynamic_shared_memory[kMostShared + kRedZone];
}  // namespace nestling::cuda

namespace nestling::emulator {

namespace {

using Fiber = boost::context::fiber;
constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostGridYZ = 65535;

enum class State : uint8_t { kReady, kAtBarrier, kAtWarp, kEnded };

// A thread of every block there is: its fiber runs the body once for each.
struct Thread {
  Fiber fiber;      // the thread, while it waits
  Fiber scheduler;  // who resumes it, while it runs
  State state = State::kEnded;
  races::Thread race;
};

// What the lanes of a warp bring to an intrinsic. Two sets: a lane may bring its next value while others
// still read this one, but not the one after that.
struct Warp {
  const char* intrinsic = nullptr;
  int64_t bytes = 0;
  int arrived = 0;
  int turn = 0;
  Exchanged values[2];
  races::Meeting meetings[2];  // of __syncwarp
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
    host_ = races::Thread::current();
    const int64_t blocks = int64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    unsigned char* behind = cuda::dynamic_shared_memory + launch.shared_bytes;
    std::memset(behind, cuda::kRed, cuda::kRedZone);
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t at = order_ == Order::kForward ? i : blocks - 1 - i;
      run_block({static_cast<unsigned>(at % launch.grid.x),
                 static_cast<unsigned>(at / launch.grid.x % launch.grid.y),
                 static_cast<unsigned>(at / launch.grid.x / launch.grid.y)});
    }
    if (std::any_of(behind, behind + cuda::kRedZone, [](auto b) { return b != cuda::kRed; }))
      fail("dynamic shared memory written behind what was asked for");
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
    races::Meeting& barrier = barriers_[turn_];
    barrier.leave();
    wait(State::kAtBarrier);
    barrier.meet();
    return last_count_;
  }

  const Exchanged& wait_for_warp(const char* name, unsigned mask, const Brought& value,
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
    warp.values[turn][threadIdx.x % 32] = value;
    ++warp.arrived;
    wait(State::kAtWarp);
    return warp.values[turn];
  }

  void sync_warp(unsigned mask) {
    Warp& warp = warps_[threadIdx.x / 32];
    races::Meeting& meeting = warp.meetings[warp.turn];
    meeting.leave();
    wait_for_warp("__syncwarp", mask, {}, 0);
    meeting.meet();
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
    while (threads_.size() < n) add_thread();
    std::memset(cuda::dynamic_shared_memory, 0xff, static_cast<size_t>(launch_->shared_bytes));
    forget_copies();
    warps_.assign(n / 32, Warp{});
    ended_ = waiting_ = count_ = 0;
    for (unsigned t = 0; t < n; ++t) threads_[t].state = State::kReady;
    order_threads(n);
    begin_.leave();
    while (ended_ < static_cast<int>(n)) {
      bool moved = false;
      for (const unsigned t : sequence_) moved |= go_on(t);
      if (!moved) fail("threads wait for one another for ever, or a lane ended before its warp");
    }
    end_.meet();
  }

  void add_thread() {
    const size_t t = threads_.size();
    boost::context::protected_fixedsize_stack stacks(kStackBytes);
    Fiber fiber(std::allocator_arg, stacks, [this, t](Fiber&& scheduler) {
      threads_[t].scheduler = std::move(scheduler);
      while (true) {
        begin_.meet();
        body_(argument_);
        end_.leave();
        ++ended_;
        wait(State::kEnded);
      }
      return std::move(threads_[t].scheduler);
    });
    const std::string name = "CUDA thread " + std::to_string(t);
    threads_.push_back(
        {.fiber = std::move(fiber), .scheduler = {}, .race = races::Thread::create(name.c_str())});
  }

  // Runs thread t if it can; false if it waits or has ended.
  bool go_on(unsigned t) {
    Thread& thread = threads_[t];
    if (thread.state == State::kAtWarp) release_warp(t / 32);
    if (thread.state == State::kAtBarrier) release_block();
    if (thread.state != State::kReady) return false;
    threadIdx = {t, 0, 0};
    thread.race.enter();
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
    if (waiting_ + ended_ != static_cast<int>(sequence_.size())) return;
    last_count_ = count_;
    waiting_ = count_ = 0;
    turn_ ^= 1;
    for (Thread& thread : threads_)
      if (thread.state == State::kAtBarrier) thread.state = State::kReady;
  }

  void wait(State why) {
    Thread& thread = threads_[threadIdx.x];
    thread.state = why;
    host_.enter();
    thread.scheduler = std::move(thread.scheduler).resume();
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
  std::deque<Thread> threads_;  // as many as the largest block had
  std::vector<Warp> warps_;
  std::vector<unsigned> sequence_;
  std::mt19937 random_{1};
  unsigned line_ = 0;  // of the barrier that threads wait at
  int ended_ = 0, waiting_ = 0, count_ = 0, last_count_ = 0;
  races::Thread host_;
  races::Meeting begin_, end_;  // of a block
  races::Meeting barriers_[2];
  int turn_ = 0;  // whose is the next barrier
};

// Never destroyed: its fibers wait for the next block.
Device& device() {
  static auto* d = new Device;
  return *d;
}

}  // namespace

namespace {
constexpr int64_t kSharedUnasked = (48 << 10) - (8 << 10);
std::map<const void*, int64_t>& shared_memory_allowed() {
  static std::map<const void*, int64_t> bytes;
  return bytes;
}
bool shared_memory_fits(const Launch& launch) {
  const auto allowed = shared_memory_allowed().find(launch.kernel);
  const int64_t asked = allowed == shared_memory_allowed().end() ? 0 : allowed->second;
  return launch.shared_bytes <= std::max(asked, kSharedUnasked);
}
}  // namespace

void allow_shared_memory(const void* kernel, int64_t bytes) {
  shared_memory_allowed()[kernel] = bytes;
}

bool run(const Launch& launch, void (*body)(const void*), const void* argument) {
  const Index& b = launch.block;
  const bool fits = b.x % 32 == 0 && b.x >= 32 && b.x <= kMostThreads && b.y == 1 && b.z == 1 &&
                    launch.grid.x > 0 && launch.grid.x <= 0x7fffffffu && launch.grid.y > 0 &&
                    launch.grid.y <= kMostGridYZ && launch.grid.z > 0 &&
                    launch.grid.z <= kMostGridYZ && shared_memory_fits(launch);
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

const Exchanged& exchange_bytes(const char* name, unsigned mask, const Brought& value,
                                int64_t bytes) {
  return device().wait_for_warp(name, mask, value, bytes);
}

void sync_warp(unsigned mask) {
  device().sync_warp(mask);
}

void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s: %s\n", device().place().c_str(), what);
  std::abort();
}

}  // namespace nestling::emulator
