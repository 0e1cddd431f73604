// parallel.h - the one way work is spread over threads.
//
// One OpenMP team, shared with oneDNN, so cores are never oversubscribed. The split is static and
// depends on (n, grain, threads) alone: same inputs, shapes and threads give the same bits.
// OMP_DYNAMIC is not heeded: the team is as large as was asked for, or the call throws.
// Nested calls run serially. An exception thrown by the body is rethrown on the calling thread.
#pragma once
#include <cstdint>
#include <type_traits>

namespace nestling {

int thread_count();  // threads a parallel_for uses at most: OMP_NUM_THREADS, OMP_THREAD_LIMIT
void set_thread_count(int n);  // also what oneDNN uses; call before work starts
int thread_index();            // 0 .. thread_count() - 1 inside a parallel_for, 0 outside
bool in_parallel();            // inside a parallel_for that runs on more than one thread

namespace detail {
using RangeFn = void (*)(void* body, int64_t begin, int64_t end);
void run_parallel(int64_t n, int64_t grain, void* body, RangeFn fn);
}  // namespace detail

// Calls body(begin, end) on disjoint ranges that cover [0, n). A range holds at least `grain`
// items (but the last), so small work stays on one thread. Range edges are multiples of grain.
template <class Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  using B = std::remove_reference_t<Body>;
  detail::run_parallel(
      n, grain, const_cast<void*>(static_cast<const void*>(&body)),
      [](void* b, int64_t begin, int64_t end) { (*static_cast<B*>(b))(begin, end); });
}

}  // namespace nestling
