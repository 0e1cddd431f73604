#include "kernels/comm/nccl_link.h"

#include <exception>
#include <thread>

#include "kernels/comm/call.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/stream_state.h"

namespace nestling {

namespace {

// Between ncclGroupStart and ncclGroupEnd, which comes whatever happens.
class Group {
 public:
  explicit Group(const NcclLibrary& nccl) : nccl_(nccl) {
    check_nccl(nccl.group_start(), "ncclGroupStart");
  }
  ~Group() {
    if (open_) static_cast<void>(nccl_.group_end());
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ncclResult_t end() {
    open_ = false;
    return nccl_.group_end();
  }

 private:
  const NcclLibrary& nccl_;
  bool open_ = true;
};

}  // namespace

std::string nccl_reason(ncclResult_t code, ncclComm_t comm) {
  const NcclLibrary& nccl = nccl_library();
  const char* last = nccl.get_last_error(comm);
  const std::string detail = last == nullptr ? "" : last;
  return nccl.get_error_string(code) + (detail.empty() ? "" : " (" + detail + ")");
}

NcclLink::NcclLink(Comm& base, Watchdog& watchdog)
    : base_(base), watchdog_(watchdog), nccl_(nccl_library()) {
  try {
    open();
  } catch (...) {
    close();
    throw;
  }
  watchdog_.watch(*this);
}

void NcclLink::open() {
  NESTLING_CUDA(cudaGetDevice(&device_));
  NESTLING_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  NESTLING_CUDA(cudaEventCreateWithFlags(&before_, cudaEventDisableTiming));
  ncclUniqueId id{};
  if (base_.rank() == 0) check_nccl(nccl_.get_unique_id(&id), "ncclGetUniqueId");
  Context host(Device::kCpu);
  base_.broadcast(host,
                  View(reinterpret_cast<std::byte*>(id.internal), DType::kU8, Device::kCpu,
                       {sizeof id.internal}),
                  0);
  Call call{.kind = CallKind::kConnect};
  base_.meet(call);
  const Watchdog::Guard guard(watchdog_, call);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  settle(nccl_.comm_init_rank_config(&comm_, base_.size(), id, base_.rank(), &config), call,
         "ncclCommInitRankConfig");
}

NcclLink::~NcclLink() {
  watchdog_.forget(*this);
  close();
}

// Peers end it together, and find here who does not. While an exception passes, they may never come.
void NcclLink::close() noexcept {
  if (comm_ != nullptr && std::uncaught_exceptions() == 0 && std::current_exception() == nullptr) {
    try {
      Call call{.kind = CallKind::kDisconnect};
      base_.meet(call);
      const Watchdog::Guard guard(watchdog_, call);
      settle(nccl_.comm_finalize(comm_), call, "ncclCommFinalize");
      check_nccl(nccl_.comm_destroy(comm_), "ncclCommDestroy");
      comm_ = nullptr;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
    }
  }
  if (comm_ != nullptr) static_cast<void>(nccl_.comm_abort(comm_));
  for (const Flight& flight : flights_) idle_.push_back(flight.ended);
  for (cudaEvent_t event : idle_) cudaEventDestroy(event);
  if (before_ != nullptr) cudaEventDestroy(before_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

// Waits until NCCL has done what it was asked; the watchdog's guard is on.
void NcclLink::settle(ncclResult_t code, const Call& call, const char* function) {
  for (int polls = 0; code == ncclInProgress; ++polls) {
    if (polls < 100)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    check_nccl(nccl_.comm_get_async_error(comm_, &code), "ncclCommGetAsyncError", comm_);
  }
  NESTLING_CHECK(code == ncclSuccess, call.name(), ": nccl: ", function, ": ",
                 nccl_reason(code, comm_));
}

void NcclLink::group(Context& ctx, const Call& call, const std::function<void()>& calls) {
  const Watchdog::Guard guard(watchdog_, call);  // the first with a peer connects to it
  const std::scoped_lock lock(mutex_);
  cudaStream_t compute = ctx.cuda().stream;
  NESTLING_CUDA(cudaEventRecord(before_, compute));
  NESTLING_CUDA(cudaStreamWaitEvent(stream_, before_, 0));
  Group group(nccl_);
  calls();
  settle(group.end(), call, "ncclGroupEnd");
  NESTLING_CUDA(cudaStreamWaitEvent(compute, depart(call), 0));
}

cudaEvent_t NcclLink::depart(const Call& call) {
  static_cast<void>(retire());
  cudaEvent_t ended = nullptr;
  if (idle_.empty()) {
    NESTLING_CUDA(cudaEventCreateWithFlags(&ended, cudaEventDisableTiming));
    idle_.push_back(ended);
  }
  ended = idle_.back();
  NESTLING_CUDA(cudaEventRecord(ended, stream_));
  flights_.push_back({call, std::chrono::steady_clock::now(), ended});
  idle_.pop_back();
  return ended;
}

// Forgets what has ended. What the oldest of the others answers.
cudaError_t NcclLink::retire() {
  while (!flights_.empty()) {
    const cudaError_t code = cudaEventQuery(flights_.front().ended);
    if (code != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return code;
    }
    idle_.push_back(flights_.front().ended);
    flights_.pop_front();
  }
  return cudaSuccess;
}

std::optional<Watched::UnderWay> NcclLink::oldest() noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return std::nullopt;  // a call is being made, under a guard
  static_cast<void>(cudaSetDevice(device_));   // else this thread would open another one
  const cudaError_t cuda = retire();
  if (flights_.empty()) return std::nullopt;
  UnderWay under_way{flights_.front().call, flights_.front().since, ""};
  ncclResult_t nccl = ncclSuccess;
  const ncclResult_t asked = nccl_.comm_get_async_error(comm_, &nccl);
  if (asked != ncclSuccess) nccl = asked;
  if (nccl != ncclSuccess && nccl != ncclInProgress)
    under_way.failure = "nccl: " + nccl_reason(nccl, comm_);
  else if (cuda != cudaErrorNotReady)
    under_way.failure = str("cuda device ", device_, ": ", cudaGetErrorName(cuda));
  return under_way;
}

}  // namespace nestling
