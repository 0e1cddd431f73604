// The main of every test executable. NESTLING_TEST_ISA and NESTLING_TEST_CUDA_ISA pin the instruction sets of the run.
#include <cstdlib>
#include <gtest/gtest.h>

#include "kernels/core/isa.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (const char* isa = std::getenv("NESTLING_TEST_ISA"))
    nestling::set_cpu_isa(nestling::parse_cpu_isa(isa));
  if (const char* isa = std::getenv("NESTLING_TEST_CUDA_ISA"))
    nestling::set_cuda_isa(nestling::parse_cuda_isa(isa));
  return RUN_ALL_TESTS();
}
