// meeting.h - how every collective begins: all ranks say what they are about to do.
//
// Each rank puts a Call, and up to kInlineBytes of payload, into a slot of fixed size; one
// MPI_Allgather brings all slots to all ranks. Since that exchange is the same whatever the call
// is, ranks that disagree meet in it instead of corrupting or blocking each other, and the error
// says who called what. Small reductions are finished by then: their numbers came along.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include <mpi.h>

#include "kernels/comm/call.h"
#include "kernels/comm/watchdog.h"

namespace nestling {

class Meeting {
 public:
  static constexpr int64_t kInlineBytes = 192;

  Meeting(MPI_Comm comm, Watchdog& watchdog);

  // Numbers the call; the watchdog is not armed for kAtRoot. Throws where the ranks' calls differ; the same text on every rank.
  void meet(Call& call, ConstView payload = {});
  const std::byte* payload(int rank) const { return slots_[static_cast<size_t>(rank)].payload; }

 private:
  struct Slot {
    Call call;
    std::byte payload[kInlineBytes];
  };
  [[noreturn]] void throw_mismatch() const;

  MPI_Comm comm_;
  uint64_t calls_ = 0;
  Slot own_;
  std::vector<Slot> slots_;
  Watchdog& watchdog_;
};

}  // namespace nestling
