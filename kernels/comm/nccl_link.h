// nccl_link.h - one NCCL communicator, its stream, and what is under way on it. For nccl.cpp alone.
//
// Threads       NCCL allows one thread at a time inside a communicator, in ncclCommGetAsyncError too, which in
//               newer ones ends a group and frees it. Who makes calls holds a mutex until they have settled
//               and are recorded; the watchdog looks, and asks CUDA, only when it is free. While it is not, a
//               guard is on: a call that hangs, in NCCL or at a full queue of the driver, meets its deadline.
#pragma once
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include <cuda_runtime_api.h>

#include "kernels/comm/nccl_library.h"
#include "kernels/comm/watchdog.h"

namespace nestling {

class NcclLink final : public Watched {
 public:
  // Connects the ranks of `base`, on the calling thread's current device; all of them call it.
  NcclLink(Comm& base, Watchdog& watchdog);
  ~NcclLink() override;
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  ncclComm_t get() const { return comm_; }
  cudaStream_t stream() const { return stream_; }

  // Runs `calls` as one group of NCCL, between what the context's stream has been given and what it
  // will be.
  void group(Context& ctx, const Call& call, const std::function<void()>& calls);

  std::optional<UnderWay> oldest() noexcept override;

 private:
  struct Flight {
    Call call;
    std::chrono::steady_clock::time_point since;
    cudaEvent_t ended;
  };

  void open();
  void close() noexcept;
  void settle(ncclResult_t code, const Call& call, const char* function);
  cudaEvent_t depart(const Call& call);
  cudaError_t retire();

  Comm& base_;
  Watchdog& watchdog_;
  const NcclLibrary& nccl_;
  int device_ = 0;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t before_ = nullptr;
  // Of the communicator and of what follows, from watch() to forget(): before and after, the watchdog
  // knows of neither.
  std::mutex mutex_;
  std::deque<Flight> flights_;
  std::vector<cudaEvent_t> idle_;
};

}  // namespace nestling
