// The main of test executables that run as several MPI ranks. Rank 0 prints the progress, the
// others only what fails. NESTLING_TEST_ISA pins the instruction set of the run.
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>

#include "kernels/comm/mpi_world.h"
#include "kernels/core/isa.h"
#include "tests/support/ranks.h"

namespace nestling::testing {

namespace {

Comm* g_world = nullptr;
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
        return RUN_ALL_TESTS();
      },
      nestling::testing::kTimeoutSeconds);
}
