// stop_signal.h - SIGTERM and SIGINT: noted when they come, acted on where every rank is at the same place.
//
// Agreement     one rank's signal stops all: stop_if_told is a collective, and throws on every rank or on
//               none. Between two of these calls a signal waits.
// Threads       catch_stop_signals belongs before the first thread of a computation: it blocks both in the calling thread
//               and in those made after it, and one thread waits for them.
// Exit code     kInterrupted: the same command, given again, goes on.
#pragma once
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels/comm/comm.h"

namespace nestling {

inline constexpr int kInterrupted = 75;

// What ends a stage that was told to stop; its text is for the user: what is saved, what will be done again.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void catch_stop_signals();  // from here on they end nothing by themselves
bool told_to_stop();        // this rank was
// True where any rank was. Every rank of `comm` calls it at the same place.
bool any_told_to_stop(Context& ctx, Comm& comm);
void stop_if_told(Context& ctx, Comm& comm, const char* what);  // throws Interrupted(what)

// What `body` returns; kInterrupted where it throws Interrupted, whose text rank 0 prints.
int unless_interrupted(const Comm& comm, const std::function<int()>& body);

}  // namespace nestling
