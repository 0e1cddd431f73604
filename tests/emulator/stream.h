// stream.h - order between the emulator's streams.
//
// Work          of kernels, copies and fills is done when the call returns. Work that is held (collectives) is
//               done when another stream or the host waits for it: who forgets to wait never sees it.
// Pinned        copies between pinned and device memory are done before other work begins, or when somebody waits
//               for an event behind them or for any stream: pinned memory that is used again, or read, too early
//               holds something else.
// Clock         counts work; an event of a blocking stream carries it. Held work whose stream has not waited
//               for the last work enqueued might read what is not written yet: that ends the process.
// Stalls        held work may stall its stream for good: what waits for that stream stalls too, work
//               on it is left out, its events stay not ready, and a host that waits, waits for ever.
//               NESTLING_EMULATOR_QUEUE = N: so does the recording of the N-th event on streams that stalled,
//               their queues being full, and with it all that asks for events.
// Breaks        NESTLING_EMULATOR_BREAK = N: the N-th piece of work breaks the context, as an illegal address does: from
//               then on every call that matters fails, but for those that free.
// Threads       one enqueues; events may be asked by another.
#pragma once
#include <cstdint>
#include <functional>

struct nestling_emulated_stream;

namespace nestling::emulator {

// Whether work on `stream` is to be done: false on one that stalled.
bool begin_work(nestling_emulated_stream* stream);

// The same for a copy of pinned memory, to be done later; copies that are done before other work begins, all of them.
void copy_late(nestling_emulated_stream* stream, std::function<void()> copy);
void finish_copies();

// Enqueues work to be done later; it answers false to stall its stream.
void hold_work(nestling_emulated_stream* stream, std::function<bool()> work);

// Whether the context is.
bool broken();

bool is_device_memory(const void* data);

}  // namespace nestling::emulator
