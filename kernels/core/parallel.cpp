#include "kernels/core/parallel.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <omp.h>

#include "kernels/core/check.h"

// ThreadSanitizer cannot see libgomp's fork and join; these two edges are what they order.
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);  // NOLINT(bugprone-reserved-identifier)
extern "C" void __tsan_release(void* address);  // NOLINT(bugprone-reserved-identifier)
#define NESTLING_NO_TSAN __attribute__((no_sanitize("thread")))
#else
#define NESTLING_NO_TSAN
static inline void __tsan_acquire(void*) {}  // NOLINT
static inline void __tsan_release(void*) {}  // NOLINT
#endif

namespace nestling {

int thread_count() {
  return std::min(omp_get_max_threads(), omp_get_thread_limit());
}

void set_thread_count(int n) {
  NESTLING_CHECK(n >= 1, "threads: ", n, ", needs at least 1");
  omp_set_num_threads(n);
}

int thread_index() {
  return omp_get_thread_num();
}

bool in_parallel() {
  return omp_in_parallel() != 0;
}

namespace detail {

namespace {

struct Job {
  void* body;
  RangeFn fn;
  int64_t n;
  int64_t per_part;
  int team;  // threads that came
  std::exception_ptr error;
  std::mutex mutex;
  char forked = 0;
  char joined = 0;
};

void run_part(Job& job, int part) {
  __tsan_acquire(&job.forked);
  const int64_t begin = part * job.per_part;
  const int64_t end = std::min(job.n, begin + job.per_part);
  try {
    if (begin < end) job.fn(job.body, begin, end);
  } catch (...) {
    const std::scoped_lock lock(job.mutex);
    if (!job.error) job.error = std::current_exception();
  }
  __tsan_release(&job.joined);
}

NESTLING_NO_TSAN void fork_join(Job* job, int parts) {
#pragma omp parallel num_threads(parts) default(none) firstprivate(job)
  {
    if (omp_get_thread_num() == 0) job->team = omp_get_num_threads();
    run_part(*job, omp_get_thread_num());
  }
}

}  // namespace

void run_parallel(int64_t n, int64_t grain, void* body, RangeFn fn) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t blocks = (n + grain - 1) / grain;
  const auto parts = static_cast<int>(std::min<int64_t>(thread_count(), blocks));
  if (parts <= 1 || in_parallel()) {
    fn(body, 0, n);
    return;
  }
  Job job{.body = body,
          .fn = fn,
          .n = n,
          .per_part = (blocks + parts - 1) / parts * grain,
          .team = 0,
          .error = nullptr,
          .mutex = {}};
  omp_set_dynamic(0);  // or the team may have fewer threads than there are parts
  __tsan_release(&job.forked);
  fork_join(&job, parts);
  __tsan_acquire(&job.joined);
  if (job.error) std::rethrow_exception(job.error);
  NESTLING_CHECK(job.team == parts, "OpenMP gave ", job.team, " threads where ", parts,
                 " were asked for: part of the work is not done");
}

}  // namespace detail
}  // namespace nestling
