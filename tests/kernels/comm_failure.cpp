// comm_failure MODE [DEVICE] - a program whose rank 1 fails in one of the ways a rank can fail, and in the mode
// `root` none, while rank 0 works for longer than the deadline. The ctest
// entries kernels/comm_failure.* assert its message, its exit code and that it does not hang. What goes wrong
// on a device, the emulator's NCCL is told by NESTLING_EMULATOR_NCCL, in the modes that name it.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "kernels/comm/mpi_world.h"
#include "kernels/comm/nccl.h"

using namespace nestling;  // NOLINT(google-build-using-namespace)

namespace {

// Of the modes in which nobody says what went wrong.
double timeout_of(const std::string& mode) {
  const bool silent =
      mode == "absent" || mode == "device" || mode == "device_of_rank_1" || mode == "root";
  return silent ? 2 : kCommTimeoutSeconds;
}

int fail_as_rank_1(Comm& world, const std::string& mode, Device device) {
  std::unique_ptr<Comm> nccl;
  if (device == Device::kCuda) nccl = make_nccl_comm(world, timeout_of(mode));
  Comm& comm = nccl ? *nccl : world;
  Context ctx(device);
  Tensor x(device, DType::kF32, {100000});
  comm.all_reduce(ctx, x, Reduce::kSum);
  ctx.synchronize();
  if (mode == "root") {
    comm.at_root([] { std::this_thread::sleep_for(std::chrono::seconds(4)); });
    std::printf("rank %d: rank 0 was at work\n", comm.rank());
    return 0;
  }
  if (comm.rank() == 1) {
    if (mode == "throw") throw Error("the disk of this rank is full");
    if (mode == "input") throw Error("the config of this rank is wrong", ErrorKind::kInput);
    if (mode == "killed") std::raise(SIGKILL);
    if (mode == "returned") return 0;
    if (mode == "mismatch") comm.broadcast(ctx, x, 1);
    while (mode == "absent") std::this_thread::sleep_for(std::chrono::seconds(1));
  } else if (mode == "device_of_rank_1") {
    unsetenv("NESTLING_EMULATOR_NCCL");
  }
  for (int i = 0; i < 3; ++i) comm.all_reduce(ctx, x, Reduce::kSum);
  ctx.synchronize();
  std::printf("rank %d went on without rank 1\n", comm.rank());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const Device device = argc > 2 ? parse_device(argv[2]) : Device::kCpu;
  return run_on_ranks([&](Comm& world) { return fail_as_rank_1(world, mode, device); },
                      timeout_of(mode));
}
