#include "trainer/stop_signal.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <vector>

#include "kernels/core/host_view.h"

namespace nestling {

namespace {

std::atomic<bool> told{false};
void on_signal(int) {
  told.store(true);
}

}  // namespace

// A thread that waits for them, so that none interrupts a computation: where a handler broke into oneDNN's kernels on a
// CPU with AVX-512, the heap was corrupt in a few of a hundred runs (bench/results/2026-11-29-review). Threads that were
// there before, those of MPI, have the handler.
void catch_stop_signals() {
  static std::once_flag once;
  std::call_once(once, [] {
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    std::signal(SIGTERM, on_signal);
    std::signal(SIGINT, on_signal);
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);  // the threads made from here on inherit it
    std::thread([stop] {
      for (int number = 0; sigwait(&stop, &number) == 0;) on_signal(number);
    }).detach();
  });
}

bool told_to_stop() {
  return told.load();
}

bool any_told_to_stop(Context& ctx, Comm& comm) {
  std::vector<double> stop = {told_to_stop() ? 1.0 : 0.0};
  comm.all_reduce(ctx, host_view(stop), Reduce::kMax);
  return stop[0] > 0;
}

void stop_if_told(Context& ctx, Comm& comm, const char* what) {
  if (any_told_to_stop(ctx, comm)) throw Interrupted(what);
}

int unless_interrupted(const Comm& comm, const std::function<int()>& body) {
  try {
    return body();
  } catch (const Interrupted& e) {
    if (comm.rank() == 0) std::fprintf(stderr, "%s\n", e.what());
    return kInterrupted;
  }
}

}  // namespace nestling
