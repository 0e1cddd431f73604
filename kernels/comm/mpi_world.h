// mpi_world.h - the MPI runtime and the communicator of all its ranks.
//
// Lifetime      one MpiWorld a process, made first and destroyed last; MPI_Init and MPI_Finalize
//               are its constructor and destructor. Threads: MPI_THREAD_FUNNELED, only the thread
//               that made it communicates.
// Failure       run_on_ranks() turns an exception into abort(): every rank ends, none hangs. A rank
//               that returns while others still communicate is caught by the closing handshake, a
//               rank that is killed by mpirun, a rank that stays away longer than the timeout by
//               the watchdog of those who wait for it.
// Environment   launch/mpirun.sh sets what Open MPI needs; without mpirun it is a world of one.
#pragma once
#include <functional>
#include <memory>

#include "kernels/comm/comm.h"

namespace nestling {

class Watchdog;

class MpiWorld {
 public:
  explicit MpiWorld(double timeout_seconds = kCommTimeoutSeconds);
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  Comm& comm() { return *comm_; }

 private:
  std::unique_ptr<Watchdog> watchdog_;
  std::unique_ptr<Comm> comm_;
};

// Whether a launcher (mpirun, srun with PMI) started this process as one of several.
bool launched_as_rank();
// Which of them, by what the launcher says in the environment: for who does not start MPI.
struct LaunchedRank {
  int rank = 0, size = 1;  // size 0: the launcher does not say
};
LaunchedRank launched_rank();

// Runs body(world) and returns what it returns. What it throws goes on to the caller where there is one
// rank; else it ends all ranks with the message, and the exit code is the error's kind.
int run_on_ranks(const std::function<int(Comm&)>& body,
                 double timeout_seconds = kCommTimeoutSeconds);

}  // namespace nestling
