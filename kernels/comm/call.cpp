#include "kernels/comm/call.h"

namespace nestling {

namespace {

const char* kind_name(CallKind kind) {
  switch (kind) {
    case CallKind::kAllReduce:
      return "all_reduce";
    case CallKind::kReduceScatter:
      return "reduce_scatter";
    case CallKind::kAllGather:
      return "all_gather";
    case CallKind::kAllToAll:
      return "all_to_all";
    case CallKind::kBroadcast:
      return "broadcast";
    case CallKind::kBarrier:
      return "barrier";
    case CallKind::kAtRoot:
      return "the end of what rank 0 does alone";
    case CallKind::kSplit:
      return "split";
    case CallKind::kConnect:
      return "the start of NCCL";
    case CallKind::kDisconnect:
      return "the end of NCCL";
    case CallKind::kFinalize:
      return "the end of the program";
  }
  return "unknown";
}

}  // namespace

uint64_t shapes_hash(std::span<const ConstView> pieces) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a over 64-bit words
  const auto mix = [&](int64_t word) {
    hash = (hash ^ static_cast<uint64_t>(word)) * 1099511628211u;
  };
  for (const ConstView& piece : pieces) {
    mix(piece.rank());
    for (int d = 0; d < piece.rank(); ++d) mix(piece.dim(d));
  }
  return hash;
}

Call Call::of(CallKind kind, ConstView x, int detail) {
  Call call{.detail = detail,
            .kind = kind,
            .dtype = x.dtype(),
            .rank = static_cast<uint8_t>(x.rank()),
            .device = x.device()};
  for (int d = 0; d < x.rank(); ++d) call.shape[static_cast<size_t>(d)] = x.dim(d);
  return call;
}

bool Call::agrees(const Call& other) const {
  return number == other.number && pieces_hash == other.pieces_hash && detail == other.detail &&
         kind == other.kind && dtype == other.dtype && device == other.device;
}

std::string Call::name() const {
  return str(describe(), " (call ", number, ")");
}

std::string Call::describe() const {
  std::string s = kind_name(kind);
  if (kind == CallKind::kAllReduce || kind == CallKind::kReduceScatter)
    s += str(" ", reduce_name(static_cast<Reduce>(detail)));
  if (kind == CallKind::kBroadcast) s += str(" from rank ", detail);
  if (rank == 0) return s;
  s += " [";
  for (int d = 0; d < rank; ++d)
    s += (d ? "," : "") + std::to_string(shape[static_cast<size_t>(d)]);
  s += str("] ", dtype_name(dtype));
  return device == Device::kCuda ? s + " cuda" : s;
}

}  // namespace nestling
