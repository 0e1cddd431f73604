#include "kernels/comm/comm.h"

#include <vector>

#include "kernels/comm/call.h"
#include "kernels/comm/reduce.h"

namespace nestling {

namespace {

void check_operands(const Comm& comm, Context& ctx, const char* call,
                    std::span<const ConstView> views) {
  for (const ConstView& v : views) {
    NESTLING_CHECK(v, call, ": an operand of rank ", comm.rank(), " is absent");
    NESTLING_CHECK(v.dtype() == views[0].dtype(), call, ": operands ", views[0].describe(), " and ",
                   v.describe(), " differ in dtype");
    // Host memory travels under a CUDA context too: counters and sums of a step.
    if (v.device() != Device::kCpu || ctx.device() != Device::kCuda) check_device(ctx, call, {v});
    NESTLING_CHECK(v.device() == views[0].device(), call, ": operands ", views[0].describe(),
                   " and ", v.describe(), " are on different devices");
    NESTLING_CHECK(v.device() != Device::kCuda || comm.moves_device_memory(), call, ": ",
                   v.describe(), ": this communicator moves host memory only");
  }
}

void check_reduction(const char* call, DType dtype, Reduce op) {
  NESTLING_CHECK(can_reduce(dtype, op), call, ": no ", reduce_name(op), " of ", dtype_name(dtype));
}

void check_piece_count(const char* call, size_t pieces, int size) {
  NESTLING_CHECK(pieces == static_cast<size_t>(size), call, ": ", pieces, " pieces for ", size,
                 " ranks");
}

template <class V>
std::vector<ConstView> with(std::span<const V> pieces, ConstView one) {
  std::vector<ConstView> all{one};
  all.insert(all.end(), pieces.begin(), pieces.end());
  return all;
}

// Equal runs of rows of `full`, one a rank.
template <class V>
std::vector<V> rows_by_rank(const char* call, V full, ConstView shard, int size) {
  NESTLING_CHECK(full && shard, call, ": an operand is absent");
  const int64_t n = shard.dim(0);
  NESTLING_CHECK(full.dim(0) == n * size, call, ": full is ", full.describe(), ", shard is ",
                 shard.describe(), ", ", size, " ranks need full of ", n * size, " rows");
  std::vector<V> pieces;
  pieces.reserve(static_cast<size_t>(size));
  for (int r = 0; r < size; ++r) pieces.push_back(full.slice(0, r * n, n));
  return pieces;
}

template <class V>
std::vector<V> rows_by_count(const char* call, V all, std::span<const int64_t> rows) {
  NESTLING_CHECK(all, call, ": an operand is absent");
  std::vector<V> pieces;
  int64_t begin = 0;
  for (const int64_t n : rows) {
    pieces.push_back(all.slice(0, begin, n));
    begin += n;
  }
  NESTLING_CHECK(begin == all.dim(0), call, ": pieces of ", begin, " rows in all, the view is ",
                 all.describe());
  return pieces;
}

}  // namespace

const char* reduce_name(Reduce op) {
  switch (op) {
    case Reduce::kSum:
      return "sum";
    case Reduce::kMean:
      return "mean";
    case Reduce::kMax:
      return "max";
  }
  return "unknown";
}

void Comm::at_root(const std::function<void()>& work) {
  if (size_ == 1) return work();
  barrier();
  if (rank_ == 0) work();
  Call end{.kind = CallKind::kAtRoot};
  meet(end);
}

void Comm::all_reduce(Context& ctx, View x, Reduce op) {
  constexpr const char* kCall = "all_reduce";
  const ConstView operands[] = {x};
  check_operands(*this, ctx, kCall, operands);
  check_reduction(kCall, x.dtype(), op);
  ctx.count(kCall, 0, 2.0 * static_cast<double>(x.bytes()) * (size_ - 1) / size_);
  if (ctx.device() != Device::kNull)
    run_all_reduce(ctx, x, op);
  else if (ctx.code() == Device::kCuda)
    rehearse_all_reduce(ctx, x);
}

void Comm::reduce_scatter(Context& ctx, View shard, ConstView full, Reduce op) {
  reduce_scatter(ctx, shard, rows_by_rank("reduce_scatter", full, shard, size_), op);
}

void Comm::reduce_scatter(Context& ctx, View shard, std::span<const ConstView> pieces, Reduce op) {
  constexpr const char* kCall = "reduce_scatter";
  check_piece_count(kCall, pieces.size(), size_);
  check_operands(*this, ctx, kCall, with(pieces, shard));
  check_reduction(kCall, shard.dtype(), op);
  const ConstView own = pieces[static_cast<size_t>(rank_)];
  NESTLING_CHECK(same_shape(shard, own), kCall, ": shard is ", shard.describe(), ", pieces[", rank_,
                 "] is ", own.describe());
  double bytes = 0;
  for (const ConstView& piece : pieces) bytes += static_cast<double>(piece.bytes());
  ctx.count(kCall, 0, bytes - static_cast<double>(own.bytes()));
  if (ctx.device() != Device::kNull)
    run_reduce_scatter(ctx, shard, pieces, op);
  else if (ctx.code() == Device::kCuda)
    rehearse_reduce_scatter(ctx, shard, pieces);
}

void Comm::all_gather(Context& ctx, View full, ConstView shard) {
  all_gather(ctx, rows_by_rank("all_gather", full, shard, size_), shard);
}

void Comm::all_gather(Context& ctx, std::span<const View> pieces, ConstView shard) {
  constexpr const char* kCall = "all_gather";
  check_piece_count(kCall, pieces.size(), size_);
  check_operands(*this, ctx, kCall, with(pieces, shard));
  const ConstView own = pieces[static_cast<size_t>(rank_)];
  NESTLING_CHECK(same_shape(shard, own), kCall, ": shard is ", shard.describe(), ", pieces[", rank_,
                 "] is ", own.describe());
  ctx.count(kCall, 0, static_cast<double>(shard.bytes()) * (size_ - 1));
  if (ctx.device() != Device::kNull) run_all_gather(ctx, pieces, shard);
}

void Comm::all_to_all(Context& ctx, std::span<const View> received,
                      std::span<const ConstView> sent) {
  constexpr const char* kCall = "all_to_all";
  check_piece_count(kCall, received.size(), size_);
  check_piece_count(kCall, sent.size(), size_);
  check_operands(*this, ctx, kCall, with(received, sent[0]));
  check_operands(*this, ctx, kCall, sent);
  double bytes = 0;
  for (size_t r = 0; r < sent.size(); ++r)
    if (r != static_cast<size_t>(rank_)) bytes += static_cast<double>(sent[r].bytes());
  ctx.count(kCall, 0, bytes);
  if (ctx.device() != Device::kNull) run_all_to_all(ctx, received, sent);
}

void Comm::all_to_all(Context& ctx, View received, std::span<const int64_t> received_rows,
                      ConstView sent, std::span<const int64_t> sent_rows) {
  all_to_all(ctx, rows_by_count("all_to_all", received, received_rows),
             rows_by_count("all_to_all", sent, sent_rows));
}

void Comm::broadcast(Context& ctx, View x, int root) {
  constexpr const char* kCall = "broadcast";
  const ConstView operands[] = {x};
  check_operands(*this, ctx, kCall, operands);
  NESTLING_CHECK(root >= 0 && root < size_, kCall, ": root ", root, " of ", size_, " ranks");
  ctx.count(kCall, 0, rank_ == root ? static_cast<double>(x.bytes()) * (size_ - 1) : 0.0);
  if (ctx.device() != Device::kNull) run_broadcast(ctx, x, root);
}

}  // namespace nestling
