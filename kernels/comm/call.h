// call.h - what a rank is about to do: the part of a collective that all ranks must agree on.
#pragma once
#include <span>
#include <string>

#include "kernels/comm/comm.h"

namespace nestling {

enum class CallKind : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kBarrier,
  kAtRoot,  // no deadline: rank 0 is at work
  kSplit,
  kConnect,
  kDisconnect,
  kFinalize,
};

struct Call {
  uint64_t number = 0;       // collectives made before on this Comm
  uint64_t pieces_hash = 0;  // of all piece shapes, where ranks must pass the same ones
  Extents shape{};           // this rank's operand: for the message
  int32_t detail = 0;        // the reduction, or the root
  CallKind kind = CallKind::kBarrier;
  DType dtype = DType::kU8;
  uint8_t rank = 0;  // of the operand
  Device device = Device::kCpu;

  static Call of(CallKind kind, ConstView x, int detail);
  bool agrees(const Call& other) const;
  std::string name() const;      // what describe() says, and the number
  std::string describe() const;  // "all_reduce sum [4,8] f32", and "cuda" behind it if it is
};

uint64_t shapes_hash(std::span<const ConstView> pieces);

}  // namespace nestling
