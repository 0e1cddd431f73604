// Every item of a parallel_for is worked on once, whatever OpenMP's environment says of its teams: the entries
// in tests/CMakeLists.txt run this under a thread limit and under OMP_DYNAMIC.
#include "kernels/core/parallel.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <vector>

namespace nestling {
namespace {

TEST(ParallelFor, WorksOnEveryItemOnce) {
  for (const int64_t n : {1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 100}) {
      std::vector<int> times(static_cast<size_t>(n));
      parallel_for(n, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) times[static_cast<size_t>(i)] += 1;
      });
      EXPECT_EQ(std::count(times.begin(), times.end(), 1), n) << n << " by " << grain;
    }
  }
}

// Scratch is [thread_count(), n], indexed by thread_index().
TEST(ParallelFor, HasNoMoreThreadsThanItSays) {
  const int threads = thread_count();
  ASSERT_GE(threads, 1);
  std::vector<int> seen(static_cast<size_t>(threads));
  parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
    ASSERT_LT(thread_index(), threads);
    seen[static_cast<size_t>(thread_index())] += static_cast<int>(end - begin);
  });
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), threads);
}

}  // namespace
}  // namespace nestling
