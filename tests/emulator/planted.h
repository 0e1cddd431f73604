// planted.h - planted faults, each in a process of its own, as what they break does not go on.
#pragma once
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/core/host_view.h"
#include "kernels/cuda/launch.cuh"

namespace nestling {

inline constexpr int kThreads = 64;
inline constexpr int64_t kSharedBytes = 16 << 10;

struct Outcome {
  int status = 0;
  std::string output;  // of stdout and stderr

  bool ended_well() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
  bool aborted() const { return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT; }
};

// This process launches nothing itself: the emulator reads the order of threads at the first launch.
template <class Run>
Outcome in_a_process(Run run, const char* order = "forward") {
  int ends[2];
  if (pipe(ends) != 0) return {-1, "no pipe"};
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    setenv("NESTLING_EMULATOR_ORDER", order, 1);
    run();
    std::fflush(nullptr);
    _exit(0);
  }
  close(ends[1]);
  Outcome o;
  char text[4096];
  for (ssize_t n = 0; (n = read(ends[0], text, sizeof text)) > 0;)
    o.output.append(text, static_cast<size_t>(n));
  close(ends[0]);
  waitpid(child, &o.status, 0);
  return o;
}

// What kernel(out) leaves in 64 integers, zero before, printed.
inline void run_and_print(void (*kernel)(int*), unsigned blocks = 1) {
  Context ctx(Device::kCuda);
  Tensor out(Device::kCuda, DType::kI32, {kThreads});
  cuda::launch(ctx, {dim3(blocks), kThreads, kSharedBytes}, kernel, out.ptr<int>());
  ctx.synchronize();
  const Tensor host = on_host(out);
  for (int i = 0; i < kThreads; ++i) std::printf("%d ", host.ptr<int>()[i]);
}

}  // namespace nestling
