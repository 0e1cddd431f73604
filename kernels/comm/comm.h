// comm.h - collectives over views.
//
// Counts        counts and types come from the view, so they cannot disagree with the buffer. Views
//               with gaps are packed through the context's scratch; gaps are kept.
// Contract      every rank of a Comm makes the same calls in the same order with the same shapes: a
//               size skips arithmetic, never a collective. A call that differs (another collective,
//               shape, dtype, reduction or root) throws on every rank, naming who called what.
// Devices       host memory, under any context; device memory where moves_device_memory(): then the
//               call is enqueued, and its result is there for what the context's stream does next
//               and for copies (kernels/cuda/memory.h). The host does not wait for the device.
// Dtypes        sums and means: f32, f64, and bf16 (added in f32, rounded once). Sums of i32 and
//               i64 throw when they overflow. Maxima: these and u8; a NaN on any rank gives NaN.
//               Everything that only moves data takes any dtype.
// Determinism   reductions add in rank order 0, 1, 2, ... whatever the size, shape and timing: same
//               ranks and inputs, same bits, and the same bits on every rank, in host memory and on
//               a device. No reduction is left to MPI or NCCL, whose orders may vary.
// Counting      one entry of the collective's name in the context's table; bytes are those this
//               rank sends to others. On the null device that and the checks are all that happens, and
//               in a rehearsal (kernels/core/context.h) all_reduce and reduce_scatter take the scratch they need.
// Errors        a rank that fails calls abort(): all ranks end, with the failing rank and its
//               reason on stderr, and none is left waiting.
// Threads       one Comm belongs to one thread. Calls on host memory return when the result is there.
// Backends      MpiWorld (CPU), make_nccl_comm of nccl.h (device memory too), make_self_comm (a world
//               of one: it copies, never skips), make_null_comm (a rank of a world that is not
//               there: checks and counts).
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "kernels/core/context.h"

namespace nestling {

enum class Reduce : uint8_t { kSum, kMean, kMax };
const char* reduce_name(Reduce op);  // "sum", ...
struct Call;

inline constexpr double kCommTimeoutSeconds = 1800;

class Comm {
 public:
  virtual ~Comm() = default;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual bool moves_device_memory() const { return false; }
  // Name to version of what carries the bytes, beside MPI (kernels/core/versions.h).
  virtual std::map<std::string, std::string> libraries() const { return {}; }

  void all_reduce(Context& ctx, View x, Reduce op);  // in place

  // `full` is [size * n, ...], `shard` [n, ...]: rank r gets rows r * n onward of the reduction.
  void reduce_scatter(Context& ctx, View shard, ConstView full, Reduce op);
  // The same for uneven or scattered pieces: rank r gets the reduction of pieces[r]. All ranks pass
  // the same shapes; `shard` has that of pieces[rank()] and may be that very view.
  void reduce_scatter(Context& ctx, View shard, std::span<const ConstView> pieces, Reduce op);

  // The reverse: rank r's shard arrives in rows r * n onward of every rank's `full`.
  void all_gather(Context& ctx, View full, ConstView shard);
  // The same into one view a rank: pieces[r] has the shape of rank r's shard, which may be pieces[rank()].
  void all_gather(Context& ctx, std::span<const View> pieces, ConstView shard);

  // sent[r] goes to rank r; received[r] comes from rank r and must hold as many elements as it
  // sends. Pieces may be of any sizes, empty ones too. Nothing received may overlap what is sent.
  void all_to_all(Context& ctx, std::span<const View> received, std::span<const ConstView> sent);
  // The same with the pieces as consecutive rows (dim 0) of one view on each side.
  void all_to_all(Context& ctx, View received, std::span<const int64_t> received_rows,
                  ConstView sent, std::span<const int64_t> sent_rows);

  void broadcast(Context& ctx, View x, int root);  // root's x to all
  virtual void barrier() = 0;
  // Rank 0 runs `work`, the others wait until it has, without a deadline: files are written, text is tokenised.
  // All are here before it begins, under the deadline. What it throws leaves rank 0 alone (Errors).
  void at_root(const std::function<void()>& work);

  // Ranks passing the same color (>= 0) form a new Comm, ordered by their rank here. It must be
  // destroyed before the world it came from.
  virtual std::unique_ptr<Comm> split(int color) = 0;

  // How a collective begins, for communicators built on this one: the ranks compare what they are
  // about to do. Numbers the call; throws the same text on every rank where they differ.
  virtual void meet(Call& call) = 0;

  // Ends every rank of the world: "rank 2 of 4: <message>" on stderr, exit code by kind.
  [[noreturn]] virtual void abort(const std::string& message, ErrorKind kind) = 0;

 protected:
  Comm(int rank, int size) : rank_(rank), size_(size) {}

 private:
  // Called with what the public functions have checked, never on the null device.
  virtual void run_all_reduce(Context& ctx, View x, Reduce op) = 0;
  virtual void run_reduce_scatter(Context& ctx, View shard, std::span<const ConstView> pieces,
                                  Reduce op) = 0;
  virtual void run_all_gather(Context& ctx, std::span<const View> pieces, ConstView shard) = 0;
  virtual void run_all_to_all(Context& ctx, std::span<const View> received,
                              std::span<const ConstView> sent) = 0;
  virtual void run_broadcast(Context& ctx, View x, int root) = 0;
  virtual void rehearse_all_reduce(Context&, View) {}
  virtual void rehearse_reduce_scatter(Context&, View, std::span<const ConstView>) {}

  int rank_;
  int size_;
};

std::unique_ptr<Comm> make_self_comm();
// It has no peers to ask, so split() throws: make one null communicator a group instead.
std::unique_ptr<Comm> make_null_comm(int rank, int size);

}  // namespace nestling
