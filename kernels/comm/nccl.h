// nccl.h - the communicator of ranks that compute on CUDA devices.
//
// Device views  NCCL carries bytes between devices, grouped, on a stream of its own; kernels of ours add, in rank
//               order (kernels/cuda/rank_reduce.h). The stream waits for the context's by event, and the
//               context's for it: no call waits for the device. Results are those of MPI, bit for bit.
// Host views    go through the base communicator, barrier() too: it is one of the hosts.
// Determinism   no bit depends on NCCL: not on its version, NCCL_ALGO, NCCL_PROTO, channels or topology,
//               none of which has to be pinned. The price is traffic between machines: every rank sends each
//               peer its share, where a ring would add up on the way.
// Agreement     every call begins with the base's meet(): a rank that stays away is found there, and
//               calls that differ throw on every rank, before anything is enqueued.
// Deadlines     a call that is under way on the device for longer than the timeout, or an error that NCCL
//               reports, ends the process with one line: rank, call and its number. The driver ends what
//               runs on the device: ncclCommAbort would let the stream go on, over data that never
//               came, so it is for a rank that leaves by an exception. Starting and connecting do
//               not block inside NCCL: the same timeout holds.
// Devices       ranks of one machine that see the same CUDA_VISIBLE_DEVICES take devices in the order of
//               their ranks; more ranks than devices are refused, kInput. The device is made current
//               for the calling thread: make the communicator before any Context or Tensor on a device.
// Ownership     borrows the base, which must outlive it. Its end is a call like the others: all ranks make it
//               at the same place, unless an exception passes.
// Library       libnccl.so.2 is loaded by the first of them (nccl_library.h).
#pragma once
#include <memory>
#include <string>

#include "kernels/comm/comm.h"

namespace nestling {

std::unique_ptr<Comm> make_nccl_comm(Comm& base, double timeout_seconds = kCommTimeoutSeconds);

// Why these ranks cannot have one: no device, or too few; empty: they can. All ranks call it.
std::string no_devices_reason(Comm& base);

// Why libnccl.so.2 cannot be used here; empty: it is loaded.
std::string no_nccl_reason();

// What a program that computes on `device` communicates by: the base itself, where it can.
class DeviceComm {
 public:
  DeviceComm(Comm& base, Device device) : base_(base) {
    if (device == Device::kCuda && !base.moves_device_memory()) nccl_ = make_nccl_comm(base);
  }
  Comm& comm() { return nccl_ ? *nccl_ : base_; }

 private:
  Comm& base_;
  std::unique_ptr<Comm> nccl_;
};

}  // namespace nestling
