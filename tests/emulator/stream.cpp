#include "tests/emulator/stream.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <unistd.h>
#include <utility>

#include <cuda_runtime.h>

using nestling::emulator::fail;
using nestling::emulator::finish_copies;

struct nestling_emulated_stream {
  bool blocking = true;
  bool stalled = false;
  uint64_t seen = 0;  // the clock that this stream has waited for
  uint64_t done = 0;  // held work that is done
  std::deque<std::function<bool()>> held;
};
struct nestling_emulated_event {
  nestling_emulated_stream* stream = nullptr;
  uint64_t held = 0;    // of the stream, up to the event
  uint64_t copies = 0;  // late ones of all streams, up to the event
  uint64_t clock = 0;
  std::chrono::steady_clock::time_point passed;
  bool recorded = false;
};

namespace {

std::mutex mutex;
uint64_t work_clock = 0;
nestling_emulated_stream legacy;
std::deque<std::function<void()>> late;  // copies of pinned memory, in their order
uint64_t late_done = 0;                  // of those before

nestling_emulated_stream& of(cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamLegacy ? legacy : *stream;
}

// A blocking stream that stalls holds up the legacy stream.
void stall(nestling_emulated_stream& stream) {
  stream.stalled = true;
  if (stream.blocking) legacy.stalled = true;
}

// Does held work up to the count. False: the stream stalled before.
bool finish(nestling_emulated_stream& stream, uint64_t count) {
  std::unique_lock lock(mutex);
  while (!stream.stalled && stream.done < count) {
    const std::function<bool()> work = std::move(stream.held.front());
    stream.held.pop_front();
    lock.unlock();
    const bool ran = work();
    lock.lock();
    if (ran)
      ++stream.done;
    else
      stall(stream);
  }
  return stream.done >= count;
}

// Does late copies up to the count; the mutex is held.
void finish_late(uint64_t count) {
  for (; late_done < count && !late.empty(); ++late_done) {
    late.front()();
    late.pop_front();
  }
}

void wait_for_ever() {
  while (true) pause();
}

// NESTLING_EMULATOR_QUEUE: whether there is no room for what comes now on a stream that stalled.
bool queue_is_full() {
  static int given = 0;
  const char* text = std::getenv("NESTLING_EMULATOR_QUEUE");
  return text != nullptr && ++given >= std::atoi(text);
}

}  // namespace

namespace nestling::emulator {

bool begin_work(nestling_emulated_stream* stream) {
  const std::scoped_lock lock(mutex);
  finish_late(late_done + late.size());
  ++work_clock;
  return !of(stream).stalled;
}

void copy_late(nestling_emulated_stream* stream, std::function<void()> copy) {
  const std::scoped_lock lock(mutex);
  ++work_clock;
  if (!of(stream).stalled) late.push_back(std::move(copy));
}

void finish_copies() {
  const std::scoped_lock lock(mutex);
  finish_late(late_done + late.size());
}

bool broken() {
  static const char* text = std::getenv("NESTLING_EMULATOR_BREAK");
  if (text == nullptr) return false;
  const std::scoped_lock lock(mutex);
  return work_clock >= std::strtoull(text, nullptr, 10);
}

void hold_work(nestling_emulated_stream* stream, std::function<bool()> work) {
  const std::scoped_lock lock(mutex);
  if (!of(stream).blocking && of(stream).seen < work_clock)
    fail("a collective on a stream that has not waited for the work enqueued before");
  of(stream).held.push_back(std::move(work));
}

}  // namespace nestling::emulator

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, 0);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = new nestling_emulated_stream{.blocking = flags != cudaStreamNonBlocking, .held = {}};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (nestling::emulator::broken()) return cudaErrorIllegalAddress;
  finish_copies();
  nestling_emulated_stream& s = of(stream);
  if (!finish(s, s.done + s.held.size()) || s.stalled) wait_for_ever();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->stream == nullptr) return cudaSuccess;
  finish_copies();
  const bool done = finish(*event->stream, event->held);
  const std::scoped_lock lock(mutex);
  of(stream).seen = std::max(of(stream).seen, event->clock);
  if (!done) stall(of(stream));
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new nestling_emulated_event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::scoped_lock lock(mutex);
  nestling_emulated_stream& s = of(stream);
  if (s.stalled && queue_is_full()) wait_for_ever();
  // One more than there is: what a stalled stream is given next is never done.
  *event = {.stream = &s,
            .held = s.done + s.held.size() + (s.stalled ? 1 : 0),
            .copies = late_done + late.size(),
            .clock = s.blocking ? work_clock : s.seen,
            .passed = std::chrono::steady_clock::now(),
            .recorded = true};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (nestling::emulator::broken()) return cudaErrorIllegalAddress;
  if (event->stream != nullptr && !finish(*event->stream, event->held)) wait_for_ever();
  const std::scoped_lock lock(mutex);
  finish_late(event->copies);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::scoped_lock lock(mutex);
  const bool done = event->stream == nullptr || event->stream->done >= event->held;
  return done ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->recorded || !end->recorded) return cudaErrorInvalidValue;
  *milliseconds = std::chrono::duration<float, std::milli>(end->passed - begin->passed).count();
  return cudaSuccess;
}
