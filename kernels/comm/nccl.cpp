// nccl.cpp - NCCL moves bytes between devices; what is added up is added here, as in mpi.cpp.
#include "kernels/comm/nccl.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <unistd.h>
#include <vector>

#include "kernels/comm/call.h"
#include "kernels/comm/nccl_link.h"
#include "kernels/comm/piece.h"
#include "kernels/core/host_view.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/rank_reduce.h"

namespace nestling {

namespace {

constexpr int64_t kSmallBytes = int64_t{256} << 10;  // of all ranks together
constexpr int64_t kChunkBytes = int64_t{64} << 20;
constexpr int64_t kAlign = 256;  // of parts in scratch

class NcclComm final : public Comm {
 public:
  NcclComm(Comm& base, double timeout_seconds)
      : Comm(base.rank(), base.size()),
        base_(base),
        own_watchdog_(std::make_unique<Watchdog>(base.rank(), base.size(), timeout_seconds)),
        watchdog_(*own_watchdog_),
        nccl_(nccl_library()),
        link_(base, watchdog_) {}
  NcclComm(std::unique_ptr<Comm> base, Watchdog& watchdog)
      : Comm(base->rank(), base->size()),
        own_base_(std::move(base)),
        base_(*own_base_),
        watchdog_(watchdog),
        nccl_(nccl_library()),
        link_(base_, watchdog_) {}

  bool moves_device_memory() const override { return true; }
  void barrier() override { base_.barrier(); }
  std::unique_ptr<Comm> split(int color) override {
    return std::make_unique<NcclComm>(base_.split(color), watchdog_);
  }
  std::map<std::string, std::string> libraries() const override;
  void meet(Call& call) override { base_.meet(call); }
  [[noreturn]] void abort(const std::string& message, ErrorKind kind) override {
    base_.abort(message, kind);
    std::_Exit(static_cast<int>(kind));
  }

 private:
  void run_all_reduce(Context& ctx, View x, Reduce op) override;
  void run_reduce_scatter(Context& ctx, View shard, std::span<const ConstView> pieces,
                          Reduce op) override;
  void run_all_gather(Context& ctx, std::span<const View> pieces, ConstView shard) override;
  void run_all_to_all(Context& ctx, std::span<const View> received,
                      std::span<const ConstView> sent) override;
  void run_broadcast(Context& ctx, View x, int root) override;
  void rehearse_all_reduce(Context& ctx, View x) override;
  void rehearse_reduce_scatter(Context& ctx, View shard,
                               std::span<const ConstView> pieces) override;

  struct Parts {
    std::byte* data;
    int64_t step;  // bytes from rank to rank
  };
  Parts parts_of_ranks(Context& ctx, View dense);
  Parts runs_of_ranks(Context& ctx, std::span<const Piece> pieces, int64_t item);
  bool is_small(View x) const;
  void reduce_small(Context& ctx, const Call& call, View dense, Reduce op);
  void reduce_large(Context& ctx, const Call& call, View dense, Reduce op);
  void exchange(Context& ctx, const Call& call, std::span<const Piece> sent,
                std::span<const Piece> received);
  void gather(Context& ctx, const Call& call, const Piece& own, std::span<const Piece> home);
  void check_counts(std::span<const View> received, std::span<const ConstView> sent);
  Piece& to(int rank) { return to_[static_cast<size_t>(rank)]; }
  Piece& from(int rank) { return from_[static_cast<size_t>(rank)]; }

  std::unique_ptr<Comm> own_base_;
  Comm& base_;
  Context host_{Device::kCpu};  // of calls on host memory: counted once, by the caller's context
  std::unique_ptr<Watchdog> own_watchdog_;
  Watchdog& watchdog_;
  const NcclLibrary& nccl_;
  NcclLink link_;
  std::vector<Piece> to_;  // one a rank, reused by every call
  std::vector<Piece> from_;
};

std::map<std::string, std::string> NcclComm::libraries() const {
  int version = 0;
  check_nccl(nccl_.get_version(&version), "ncclGetVersion");
  return {{"nccl", str(version / 10000, ".", version / 100 % 100, ".", version % 100)}};
}

int64_t aligned(int64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// Every pair of ranks trades one piece, itself too: sent[r] goes to r, received[r] comes from it.
void NcclComm::exchange(Context& ctx, const Call& call, std::span<const Piece> sent,
                        std::span<const Piece> received) {
  link_.group(ctx, call, [&] {
    for (int k = 0; k < size(); ++k) {
      const int peer = (rank() + k) % size();
      const Piece& out = sent[static_cast<size_t>(peer)];
      const Piece& in = received[static_cast<size_t>(peer)];
      const auto bytes = [](const Piece& p) { return static_cast<size_t>(p.bytes); };
      if (peer == rank() && out.data == in.data) continue;
      if (out.bytes > 0)
        check_nccl(nccl_.send(out.data, bytes(out), ncclUint8, peer, link_.get(), link_.stream()),
                   "ncclSend", link_.get());
      if (in.bytes > 0)
        check_nccl(nccl_.recv(in.data, bytes(in), ncclUint8, peer, link_.get(), link_.stream()),
                   "ncclRecv", link_.get());
    }
  });
}

// Rank r's piece arrives at home[r] of every rank.
void NcclComm::gather(Context& ctx, const Call& call, const Piece& own,
                      std::span<const Piece> home) {
  bool even = true;
  for (int r = 0; r < size(); ++r) {
    const Piece& piece = home[static_cast<size_t>(r)];
    even &= piece.bytes == own.bytes && piece.data == home[0].data + r * own.bytes;
  }
  link_.group(ctx, call, [&] {
    if (even && own.bytes > 0) {
      check_nccl(nccl_.all_gather(own.data, home[0].data, static_cast<size_t>(own.bytes), ncclUint8,
                                  link_.get(), link_.stream()),
                 "ncclAllGather", link_.get());
      return;
    }
    for (int r = 0; r < size(); ++r) {
      const Piece& piece = home[static_cast<size_t>(r)];
      if (piece.bytes == 0) continue;
      check_nccl(nccl_.broadcast(r == rank() ? own.data : piece.data, piece.data,
                                 static_cast<size_t>(piece.bytes), ncclUint8, r, link_.get(),
                                 link_.stream()),
                 "ncclBroadcast", link_.get());
    }
  });
}

void NcclComm::run_all_reduce(Context& ctx, View x, Reduce op) {
  if (x.device() == Device::kCpu) return base_.all_reduce(host_, x, op);
  const Arena::Mark mark(ctx.scratch());
  const ConstView shape[] = {x};
  Call call = Call::of(CallKind::kAllReduce, x, static_cast<int>(op));
  call.pieces_hash = shapes_hash(shape);
  base_.meet(call);
  const View dense = dense_like(ctx, x);
  if (dense.data() != x.data()) copy(dense, x);
  if (is_small(x))
    reduce_small(ctx, call, dense, op);
  else
    reduce_large(ctx, call, dense, op);
  unpack(x, dense);
}

void NcclComm::rehearse_all_reduce(Context& ctx, View x) {
  const Arena::Mark mark(ctx.scratch());
  static_cast<void>(parts_of_ranks(ctx, dense_like(ctx, x)));
}

bool NcclComm::is_small(View x) const {
  return x.bytes() * size() <= kSmallBytes;
}

// Scratch for what all ranks send this one at once: all of a small operand, else their part of a chunk.
NcclComm::Parts NcclComm::parts_of_ranks(Context& ctx, View dense) {
  const int64_t most = std::min(kChunkBytes, dense.bytes());
  const int64_t step =
      is_small(dense)
          ? dense.bytes()
          : aligned(share_of({nullptr, most}, dtype_bytes(dense.dtype()), 0, size()).bytes);
  return {ctx.scratch().alloc(DType::kU8, {step * size()}).data(), step};
}

// Everyone gets everything and adds it up: one group instead of two.
void NcclComm::reduce_small(Context& ctx, const Call& call, View dense, Reduce op) {
  const auto [all, bytes] = parts_of_ranks(ctx, dense);
  from_.clear();
  for (int r = 0; r < size(); ++r) from_.push_back({all + r * bytes, bytes});
  gather(ctx, call, {dense.data(), bytes}, from_);
  cuda::reduce_in_rank_order(
      ctx, dense.data(),
      {.mine = dense.data(), .others = all, .step = bytes, .rank = rank(), .ranks = size()},
      dense.size(), dense.dtype(), op);
}

// Each rank adds up its share of every chunk and hands the result to all. A chunk bounds the scratch.
void NcclComm::reduce_large(Context& ctx, const Call& call, View dense, Reduce op) {
  const int64_t item = dtype_bytes(dense.dtype());
  const auto [parts, step] = parts_of_ranks(ctx, dense);
  for (int64_t at = 0; at < dense.bytes(); at += kChunkBytes) {
    const Piece chunk{dense.data() + at, std::min(kChunkBytes, dense.bytes() - at)};
    const Piece own = share_of(chunk, item, rank(), size());
    to_.clear();
    from_.clear();
    for (int r = 0; r < size(); ++r) {
      to_.push_back(share_of(chunk, item, r, size()));
      from_.push_back({parts + r * step, own.bytes});
    }
    from(rank()) = own;
    exchange(ctx, call, to_, from_);
    cuda::reduce_in_rank_order(
        ctx, own.data,
        {.mine = own.data, .others = parts, .step = step, .rank = rank(), .ranks = size()},
        own.bytes / item, dense.dtype(), op);
    gather(ctx, call, own, to_);
  }
}

void NcclComm::run_reduce_scatter(Context& ctx, View shard, std::span<const ConstView> pieces,
                                  Reduce op) {
  if (shard.device() == Device::kCpu) return base_.reduce_scatter(host_, shard, pieces, op);
  const Arena::Mark mark(ctx.scratch());
  Call call = Call::of(CallKind::kReduceScatter, shard, static_cast<int>(op));
  call.pieces_hash = shapes_hash(pieces);
  base_.meet(call);
  View dense;
  const Piece home = landing(ctx, shard, dense);
  std::vector<Piece> all;
  for (const ConstView& piece : pieces) all.push_back(packed(ctx, piece));
  const auto [parts, step] = runs_of_ranks(ctx, all, dtype_bytes(shard.dtype()));
  for (int64_t at = 0; at < most_bytes(all); at += step) {
    const Piece own = run_of(home, at, step);
    to_.clear();
    from_.clear();
    for (int r = 0; r < size(); ++r) {
      to_.push_back(run_of(all[static_cast<size_t>(r)], at, step));
      from_.push_back({parts + r * step, own.bytes});
    }
    from(rank()) = to(rank());
    exchange(ctx, call, to_, from_);
    cuda::reduce_in_rank_order(
        ctx, own.data,
        {.mine = to(rank()).data, .others = parts, .step = step, .rank = rank(), .ranks = size()},
        own.bytes / dtype_bytes(shard.dtype()), shard.dtype(), op);
  }
  unpack(shard, dense);
}

void NcclComm::rehearse_reduce_scatter(Context& ctx, View shard,
                                       std::span<const ConstView> pieces) {
  const Arena::Mark mark(ctx.scratch());
  static_cast<void>(dense_like(ctx, shard));
  std::vector<Piece> all;
  for (const ConstView& piece : pieces) all.push_back(packed(ctx, piece));
  static_cast<void>(runs_of_ranks(ctx, all, dtype_bytes(shard.dtype())));
}

// Scratch for the runs of a chunk of a reduction that is scattered: one from every rank.
NcclComm::Parts NcclComm::runs_of_ranks(Context& ctx, std::span<const Piece> pieces, int64_t item) {
  const int64_t step =
      std::min(aligned(most_bytes(pieces)), aligned(run_bytes(kChunkBytes, item, size())));
  return {ctx.scratch().alloc(DType::kU8, {step * size()}).data(), step};
}

void NcclComm::run_all_gather(Context& ctx, std::span<const View> pieces, ConstView shard) {
  if (shard.device() == Device::kCpu) return base_.all_gather(host_, pieces, shard);
  const Arena::Mark mark(ctx.scratch());
  const std::vector<ConstView> shapes(pieces.begin(), pieces.end());
  Call call = Call::of(CallKind::kAllGather, shard, 0);
  call.pieces_hash = shapes_hash(shapes);
  base_.meet(call);
  std::vector<View> dense(pieces.size());
  from_.clear();
  for (size_t r = 0; r < pieces.size(); ++r) from_.push_back(landing(ctx, pieces[r], dense[r]));
  gather(ctx, call, packed(ctx, shard), from_);
  for (size_t r = 0; r < pieces.size(); ++r) unpack(pieces[r], dense[r]);
}

void NcclComm::check_counts(std::span<const View> received, std::span<const ConstView> sent) {
  std::vector<int64_t> leaving, arriving(sent.size());
  for (const ConstView& piece : sent) leaving.push_back(piece.size());
  const std::vector<int64_t> one_each(sent.size(), 1);
  base_.all_to_all(host_, host_view(arriving), one_each, host_view(leaving), one_each);
  for (size_t r = 0; r < sent.size(); ++r)
    NESTLING_CHECK(arriving[r] == received[r].size(), "all_to_all: rank ", r, " sends rank ",
                   rank(), " ", arriving[r], " elements, it receives into ",
                   received[r].describe());
}

void NcclComm::run_all_to_all(Context& ctx, std::span<const View> received,
                              std::span<const ConstView> sent) {
  if (sent[0].device() == Device::kCpu) return base_.all_to_all(host_, received, sent);
  const Arena::Mark mark(ctx.scratch());
  Call call{.kind = CallKind::kAllToAll, .dtype = sent[0].dtype(), .device = Device::kCuda};
  base_.meet(call);
  check_counts(received, sent);
  std::vector<View> dense(received.size());
  to_.clear();
  from_.clear();
  for (size_t r = 0; r < sent.size(); ++r) {
    to_.push_back(packed(ctx, sent[r]));
    from_.push_back(landing(ctx, received[r], dense[r]));
  }
  exchange(ctx, call, to_, from_);
  for (size_t r = 0; r < received.size(); ++r) unpack(received[r], dense[r]);
}

void NcclComm::run_broadcast(Context& ctx, View x, int root) {
  if (x.device() == Device::kCpu) return base_.broadcast(host_, x, root);
  const Arena::Mark mark(ctx.scratch());
  const ConstView shape[] = {x};
  Call call = Call::of(CallKind::kBroadcast, x, root);
  call.pieces_hash = shapes_hash(shape);
  base_.meet(call);
  const View dense = dense_like(ctx, x);
  if (rank() == root && dense.data() != x.data()) copy(dense, x);
  link_.group(ctx, call, [&] {
    check_nccl(nccl_.broadcast(dense.data(), dense.data(), static_cast<size_t>(x.bytes()),
                               ncclUint8, root, link_.get(), link_.stream()),
               "ncclBroadcast", link_.get());
  });
  if (rank() != root) unpack(x, dense);
}

// The ranks that choose among the same devices: those of one machine that see the same ones.
std::string devices_key() {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return str(host, "\n", boot, "\n", visible == nullptr ? "all" : visible);
}

struct Place {
  int rank = 0;   // among the ranks that choose among the same devices
  int ranks = 0;  // of them
};

Place place_of(Comm& base) {
  const auto own = static_cast<int64_t>(std::hash<std::string>()(devices_key()));
  std::vector<int64_t> mine = {own}, keys(static_cast<size_t>(base.size()));
  Context host(Device::kCpu);
  base.all_gather(host, host_view(keys), ConstView(host_view(mine)));
  Place place;
  for (int r = 0; r < base.size(); ++r) {
    if (keys[static_cast<size_t>(r)] != own) continue;
    if (r < base.rank()) ++place.rank;
    ++place.ranks;
  }
  return place;
}

// Empty: `place` has a device of its own.
std::string no_devices_reason(const Place& place) {
  if (std::string reason = cuda::unavailable_reason(); !reason.empty()) return reason;
  const int devices = cuda::device_count();
  if (place.ranks <= devices) return "";
  return str(place.ranks, " ranks on this machine for ", devices,
             devices == 1 ? " CUDA device" : " CUDA devices", ": every rank needs its own");
}

}  // namespace

std::string no_devices_reason(Comm& base) {
  return no_devices_reason(place_of(base));
}

std::string no_nccl_reason() {
  try {
    static_cast<void>(nccl_library());
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

std::unique_ptr<Comm> make_nccl_comm(Comm& base, double timeout_seconds) {
  const Place place = place_of(base);
  const std::string reason = no_devices_reason(place);
  NESTLING_CHECK_INPUT(reason.empty(), "device cuda: ", reason);
  NESTLING_CUDA(cudaSetDevice(place.rank));
  return std::make_unique<NcclComm>(base, timeout_seconds);
}

}  // namespace nestling
