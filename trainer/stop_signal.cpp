#include "trainer/stop_signal.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <vector>

#include "kernels/core/host_view.h"

namespace nestling {

namespace {

std::atomic<bool> told{false};
void on_signal(int) {
  told.store(true);
}

}  // namespace

void catch_stop_signals() {
  std::signal(SIGTERM, on_signal);
  std::signal(SIGINT, on_signal);
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
