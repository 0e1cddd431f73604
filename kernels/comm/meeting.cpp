#include "kernels/comm/meeting.h"

#include <cstring>

#include "kernels/comm/mpi_check.h"

namespace nestling {

Meeting::Meeting(MPI_Comm comm, Watchdog& watchdog) : comm_(comm), own_{}, watchdog_(watchdog) {
  int size = 0;
  NESTLING_MPI(MPI_Comm_size(comm, &size));
  slots_.resize(static_cast<size_t>(size));
}

void Meeting::meet(Call& call, ConstView payload) {
  call.number = calls_++;
  own_.call = call;
  if (payload.size() > 0)
    std::memcpy(own_.payload, payload.data(), static_cast<size_t>(payload.bytes()));
  constexpr int kSlotBytes = sizeof(Slot);
  {
    std::optional<Watchdog::Guard> guard;
    if (call.kind != CallKind::kAtRoot) guard.emplace(watchdog_, call);
    NESTLING_MPI(
        MPI_Allgather(&own_, kSlotBytes, MPI_BYTE, slots_.data(), kSlotBytes, MPI_BYTE, comm_));
  }
  for (const Slot& slot : slots_)
    if (!slot.call.agrees(slots_[0].call)) throw_mismatch();
}

void Meeting::throw_mismatch() const {
  std::string found;
  for (size_t r = 0; r < slots_.size(); ++r)
    found += str(r ? "; rank " : "rank ", r, ": ", slots_[r].call.describe(), " as call ",
                 slots_[r].call.number);
  throw Error("the ranks' collectives differ: " + found);
}

}  // namespace nestling
