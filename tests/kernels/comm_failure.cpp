// comm_failure MODE - a program whose rank 1 fails in one of the ways a rank can fail. The ctest
// entries kernels/comm_failure.* assert its message, its exit code and that it does not hang.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "kernels/comm/mpi_world.h"

using namespace nestling;  // NOLINT(google-build-using-namespace)

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const double timeout_seconds = mode == "absent" ? 2 : 1800;
  return run_on_ranks(
      [&](Comm& world) {
        Context ctx(Device::kCpu);
        Tensor x(Device::kCpu, DType::kF32, {100000});
        world.all_reduce(ctx, x, Reduce::kSum);
        if (world.rank() == 1) {
          if (mode == "throw") throw Error("the disk of this rank is full");
          if (mode == "input") throw Error("the config of this rank is wrong", ErrorKind::kInput);
          if (mode == "killed") std::raise(SIGKILL);
          if (mode == "returned") return 0;
          if (mode == "mismatch") world.broadcast(ctx, x, 1);
          while (mode == "absent") std::this_thread::sleep_for(std::chrono::seconds(1));
        }
        for (int i = 0; i < 3; ++i) world.all_reduce(ctx, x, Reduce::kSum);
        std::printf("rank %d went on without rank 1\n", world.rank());
        return 0;
      },
      timeout_seconds);
}
