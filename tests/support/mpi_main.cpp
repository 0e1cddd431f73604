// The main of test executables that run as several MPI ranks. Rank 0 prints the progress, the
// others only what fails. NESTLING_TEST_ISA and NESTLING_TEST_CUDA_ISA pin the instruction sets of the run.
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>

#include "kernels/comm/mpi_world.h"
#include "kernels/comm/nccl.h"
#include "kernels/core/isa.h"
#include "tests/support/ranks.h"

namespace nestling::testing {

namespace {

Comm* g_world = nullptr;
std::unique_ptr<Comm> g_device_world;
constexpr double kTimeoutSeconds = 120;  // a test that waits longer is stuck

class FailuresOfRank : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", g_world->rank(),
                 result.file_name() ? result.file_name() : "", result.line_number(),
                 result.message());
  }
};

}  // namespace

Comm& world() {
  return *g_world;
}

Comm& world(Device device) {
  if (device != Device::kCuda) return world();
  if (!g_device_world) g_device_world = make_nccl_comm(world(), kTimeoutSeconds);
  return *g_device_world;
}

std::string why_not(Device device) {
  if (device != Device::kCuda) return "";
  const std::string reason = no_devices_reason(world());
  return reason.empty() ? no_nccl_reason() : reason;
}

}  // namespace nestling::testing

int main(int argc, char** argv) {
  using nestling::testing::g_world;
  return nestling::run_on_ranks(
      [&](nestling::Comm& comm) {
        g_world = &comm;
        if (comm.rank() != 0) unsetenv("GTEST_OUTPUT");  // one report a run
        ::testing::InitGoogleTest(&argc, argv);
        if (comm.rank() != 0) {
          auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
          delete listeners.Release(listeners.default_result_printer());
          listeners.Append(new nestling::testing::FailuresOfRank);
        }
        if (const char* isa = std::getenv("NESTLING_TEST_ISA"))
          nestling::set_cpu_isa(nestling::parse_cpu_isa(isa));
        if (const char* isa = std::getenv("NESTLING_TEST_CUDA_ISA"))
          nestling::set_cuda_isa(nestling::parse_cuda_isa(isa));
        const int failed = RUN_ALL_TESTS();
        nestling::testing::g_device_world.reset();
        return failed;
      },
      nestling::testing::kTimeoutSeconds);
}
