// mpi.cpp - the CPU communicator. MPI moves bytes between ranks; what is added up is added here.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

#include <mpi.h>

#include "kernels/comm/meeting.h"
#include "kernels/comm/mpi_check.h"
#include "kernels/comm/mpi_world.h"
#include "kernels/comm/piece.h"
#include "kernels/comm/reduce.h"

namespace nestling {

namespace {

constexpr int64_t kMessageBytes = int64_t{1} << 30;  // MPI counts are ints
constexpr int64_t kSmallBytes = int64_t{32} << 10;   // of all ranks together
constexpr int64_t kChunkBytes = int64_t{4} << 20;
constexpr int kTag = 1;

class MpiComm final : public Comm {
 public:
  // Owns `comm`.
  MpiComm(MPI_Comm comm, int rank, int size, Watchdog& watchdog)
      : Comm(rank, size), comm_(comm), meeting_(comm, watchdog), watchdog_(watchdog) {}
  ~MpiComm() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0) MPI_Comm_free(&comm_);
  }

  static std::unique_ptr<MpiComm> adopt(MPI_Comm comm, Watchdog& watchdog) {
    int rank = 0;
    int size = 0;
    NESTLING_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
    NESTLING_MPI(MPI_Comm_rank(comm, &rank));
    NESTLING_MPI(MPI_Comm_size(comm, &size));
    return std::make_unique<MpiComm>(comm, rank, size, watchdog);
  }

  void barrier() override { meet(CallKind::kBarrier); }
  void finalize() { meet(CallKind::kFinalize); }
  void meet(Call& call) override { meeting_.meet(call); }

  std::unique_ptr<Comm> split(int color) override {
    NESTLING_CHECK(color >= 0, "split: color ", color, ", needs at least 0");
    meet(CallKind::kSplit);
    MPI_Comm part = MPI_COMM_NULL;
    NESTLING_MPI(MPI_Comm_split(comm_, color, rank(), &part));
    return adopt(part, watchdog_);
  }

  [[noreturn]] void abort(const std::string& message, ErrorKind kind) override {
    int world_rank = 0;
    int world_size = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    std::fprintf(stderr, "rank %d of %d: %s\n", world_rank, world_size, message.c_str());
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(kind));
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

  void meet(CallKind kind) {
    Call call{.kind = kind};
    meeting_.meet(call);
  }
  void reduce_small(Context& ctx, View dense, Reduce op);
  void reduce_large(Context& ctx, View dense, Reduce op);
  void exchange(std::span<const Piece> sent, std::span<const Piece> received);

  MPI_Comm comm_;
  Meeting meeting_;
  Watchdog& watchdog_;
  std::vector<MPI_Request> requests_;
  std::vector<Piece> to_;  // one a rank, reused by every call
  std::vector<Piece> from_;
  std::vector<const std::byte*> parts_;
  std::vector<int64_t> counts_;
};

// Every pair of ranks trades one piece: sent[r] goes to r, received[r] comes from it.
void MpiComm::exchange(std::span<const Piece> sent, std::span<const Piece> received) {
  requests_.clear();
  const auto post = [&](const Piece& piece, int peer, bool send) {
    for (int64_t at = 0; at < piece.bytes; at += kMessageBytes) {
      const auto n = static_cast<int>(std::min(kMessageBytes, piece.bytes - at));
      MPI_Request& request = requests_.emplace_back();
      if (send)
        NESTLING_MPI(MPI_Isend(piece.data + at, n, MPI_BYTE, peer, kTag, comm_, &request));
      else
        NESTLING_MPI(MPI_Irecv(piece.data + at, n, MPI_BYTE, peer, kTag, comm_, &request));
    }
  };
  for (int k = 1; k < size(); ++k) {
    const int from = (rank() - k + size()) % size();
    post(received[static_cast<size_t>(from)], from, false);
  }
  for (int k = 1; k < size(); ++k) {
    const int to = (rank() + k) % size();
    post(sent[static_cast<size_t>(to)], to, true);
  }
  NESTLING_MPI(
      MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE));
  const Piece& own = sent[static_cast<size_t>(rank())];
  const Piece& home = received[static_cast<size_t>(rank())];
  if (own.data != home.data && own.bytes > 0)
    std::memmove(home.data, own.data, static_cast<size_t>(own.bytes));
}

void MpiComm::run_all_reduce(Context& ctx, View x, Reduce op) {
  const Arena::Mark mark(ctx.scratch());
  const ConstView shape[] = {x};
  Call call = Call::of(CallKind::kAllReduce, x, static_cast<int>(op));
  call.pieces_hash = shapes_hash(shape);
  const View dense = dense_like(ctx, x);
  if (dense.data() != x.data()) copy(dense, x);
  if (x.bytes() <= Meeting::kInlineBytes) {
    meeting_.meet(call, dense);
    parts_.clear();
    for (int r = 0; r < size(); ++r) parts_.push_back(meeting_.payload(r));
    reduce_in_rank_order(dense.data(), parts_, x.size(), x.dtype(), op);
  } else {
    meeting_.meet(call);
    if (x.bytes() * size() <= kSmallBytes)
      reduce_small(ctx, dense, op);
    else if (size() > 1)  // one rank's sum, mean and maximum are its own
      reduce_large(ctx, dense, op);
  }
  unpack(x, dense);
}

// Everyone gets everything and adds it up: one exchange instead of two.
void MpiComm::reduce_small(Context& ctx, View dense, Reduce op) {
  const auto bytes = static_cast<int>(dense.bytes());
  std::byte* scratch = ctx.scratch().alloc(DType::kU8, {dense.bytes() * size()}).data();
  NESTLING_MPI(MPI_Allgather(dense.data(), bytes, MPI_BYTE, scratch, bytes, MPI_BYTE, comm_));
  parts_.clear();
  for (int r = 0; r < size(); ++r) parts_.push_back(scratch + r * dense.bytes());
  reduce_in_rank_order(dense.data(), parts_, dense.size(), dense.dtype(), op);
}

// Part r of every chunk goes to rank r, which adds up the ranks' versions of it and hands the
// result to all. A chunk bounds the scratch and keeps what is added in cache.
void MpiComm::reduce_large(Context& ctx, View dense, Reduce op) {
  const int64_t item = dtype_bytes(dense.dtype());
  const int64_t most = (kChunkBytes / item + size() - 1) / size();  // elements of a part
  std::byte* scratch = ctx.scratch().alloc(DType::kU8, {most * item * size()}).data();
  const auto part_of = [&](int64_t chunk, int64_t elements, int r) {
    return share_of({dense.data() + chunk * item, elements * item}, item, r, size());
  };
  for (int64_t chunk = 0; chunk < dense.size(); chunk += most * size()) {
    const int64_t elements = std::min(most * size(), dense.size() - chunk);
    const Piece own = part_of(chunk, elements, rank());
    to_.clear();
    from_.clear();
    parts_.clear();
    for (int r = 0; r < size(); ++r) {
      to_.push_back(part_of(chunk, elements, r));
      from_.push_back(r == rank() ? own : Piece{scratch + r * most * item, own.bytes});
      parts_.push_back(from_.back().data);
    }
    exchange(to_, from_);
    reduce_in_rank_order(own.data, parts_, own.bytes / item, dense.dtype(), op);
    std::swap(to_, from_);
    std::fill(to_.begin(), to_.end(), own);
    for (int r = 0; r < size(); ++r) from_[static_cast<size_t>(r)] = part_of(chunk, elements, r);
    exchange(to_, from_);
  }
}

void MpiComm::run_reduce_scatter(Context& ctx, View shard, std::span<const ConstView> pieces,
                                 Reduce op) {
  const Arena::Mark mark(ctx.scratch());
  Call call = Call::of(CallKind::kReduceScatter, shard, static_cast<int>(op));
  call.pieces_hash = shapes_hash(pieces);
  meeting_.meet(call);
  View dense;
  const Piece home = landing(ctx, shard, dense);
  std::vector<Piece> all;
  for (const ConstView& piece : pieces) all.push_back(packed(ctx, piece));
  const int64_t item = dtype_bytes(shard.dtype());
  const int64_t most = most_bytes(all);
  const int64_t step = std::min(most, run_bytes(kChunkBytes, item, size()));
  std::byte* scratch = ctx.scratch().alloc(DType::kU8, {step * size()}).data();
  for (int64_t at = 0; at < most; at += step) {  // a chunk bounds the scratch
    const Piece own = run_of(home, at, step);
    to_.clear();
    from_.clear();
    parts_.clear();
    for (int r = 0; r < size(); ++r) {
      to_.push_back(run_of(all[static_cast<size_t>(r)], at, step));
      from_.push_back(r == rank() ? to_.back() : Piece{scratch + r * step, own.bytes});
      parts_.push_back(from_.back().data);
    }
    exchange(to_, from_);
    reduce_in_rank_order(own.data, parts_, own.bytes / item, shard.dtype(), op);
  }
  unpack(shard, dense);
}

void MpiComm::run_all_gather(Context& ctx, std::span<const View> pieces, ConstView shard) {
  const Arena::Mark mark(ctx.scratch());
  const std::vector<ConstView> shapes(pieces.begin(), pieces.end());
  Call call = Call::of(CallKind::kAllGather, shard, 0);
  call.pieces_hash = shapes_hash(shapes);
  meeting_.meet(call);
  std::vector<View> dense(pieces.size());
  to_.assign(pieces.size(), packed(ctx, shard));
  from_.clear();
  for (size_t r = 0; r < pieces.size(); ++r) from_.push_back(landing(ctx, pieces[r], dense[r]));
  exchange(to_, from_);
  for (size_t r = 0; r < pieces.size(); ++r) unpack(pieces[r], dense[r]);
}

void MpiComm::run_all_to_all(Context& ctx, std::span<const View> received,
                             std::span<const ConstView> sent) {
  const Arena::Mark mark(ctx.scratch());
  Call call{.kind = CallKind::kAllToAll, .dtype = sent[0].dtype()};
  meeting_.meet(call);
  counts_.resize(2 * sent.size());
  for (size_t r = 0; r < sent.size(); ++r) counts_[r] = sent[r].size();
  int64_t* arriving = counts_.data() + sent.size();
  NESTLING_MPI(MPI_Alltoall(counts_.data(), 1, MPI_INT64_T, arriving, 1, MPI_INT64_T, comm_));
  for (size_t r = 0; r < sent.size(); ++r)
    NESTLING_CHECK(arriving[r] == received[r].size(), "all_to_all: rank ", r, " sends rank ",
                   rank(), " ", arriving[r], " elements, it receives into ",
                   received[r].describe());
  std::vector<View> dense(received.size());
  to_.clear();
  from_.clear();
  for (size_t r = 0; r < sent.size(); ++r) {
    to_.push_back(packed(ctx, sent[r]));
    from_.push_back(landing(ctx, received[r], dense[r]));
  }
  exchange(to_, from_);
  for (size_t r = 0; r < received.size(); ++r) unpack(received[r], dense[r]);
}

void MpiComm::run_broadcast(Context& ctx, View x, int root) {
  const Arena::Mark mark(ctx.scratch());
  const ConstView shape[] = {x};
  Call call = Call::of(CallKind::kBroadcast, x, root);
  call.pieces_hash = shapes_hash(shape);
  const View dense = dense_like(ctx, x);
  if (rank() == root && dense.data() != x.data()) copy(dense, x);
  if (x.bytes() <= Meeting::kInlineBytes) {
    meeting_.meet(call, dense);
    std::memcpy(dense.data(), meeting_.payload(root), static_cast<size_t>(x.bytes()));
  } else {
    meeting_.meet(call);
    for (int64_t at = 0; at < x.bytes(); at += kMessageBytes) {
      const auto n = static_cast<int>(std::min(kMessageBytes, x.bytes() - at));
      NESTLING_MPI(MPI_Bcast(dense.data() + at, n, MPI_BYTE, root, comm_));
    }
  }
  if (rank() != root) unpack(x, dense);
}

}  // namespace

MpiWorld::MpiWorld(double timeout_seconds) {
  // Alone, Open MPI starts a daemon that could start others through ssh or rsh, and ends the program where neither is
  // installed. This one starts none.
  if (!launched_as_rank()) ::setenv("OMPI_MCA_plm", "isolated", 0);
  int provided = MPI_THREAD_SINGLE;
  NESTLING_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided));
  NESTLING_CHECK(provided >= MPI_THREAD_FUNNELED, "MPI_Init_thread: thread level ", provided,
                 ", needs MPI_THREAD_FUNNELED (", MPI_THREAD_FUNNELED, ")");
  int rank = 0;
  int size = 0;
  NESTLING_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
  NESTLING_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
  watchdog_ = std::make_unique<Watchdog>(rank, size, timeout_seconds);
  MPI_Comm world = MPI_COMM_NULL;
  NESTLING_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &world));
  comm_ = MpiComm::adopt(world, *watchdog_);
}

MpiWorld::~MpiWorld() {
  // Finalizing while an exception passes would wait for peers that wait for this rank.
  if (std::uncaught_exceptions() > 0)
    comm_->abort("an exception left the scope of the MPI world", ErrorKind::kRuntime);
  try {
    static_cast<MpiComm&>(*comm_).finalize();
  } catch (const std::exception& e) {
    comm_->abort(e.what(), ErrorKind::kRuntime);
  }
  comm_.reset();
  watchdog_.reset();
  MPI_Finalize();
}

namespace {

// The first of these variables that is there.
std::optional<int> number_in_environment(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* text = std::getenv(name)) return std::atoi(text);
  return std::nullopt;
}

std::optional<int> rank_by_launcher() {
  return number_in_environment({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"});
}

}  // namespace

bool launched_as_rank() {
  return rank_by_launcher().has_value();
}

LaunchedRank launched_rank() {
  const std::optional<int> rank = rank_by_launcher();
  if (!rank) return {};
  // Slurm's PMIx says the rank and leaves the number to Slurm's own variables.
  const std::optional<int> size = number_in_environment(
      {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
  return {.rank = *rank, .size = size.value_or(0)};
}

namespace {

// What an exception says of itself and the exit code it asks for.
void abort_for(Comm& comm, const std::exception_ptr& thrown) {
  ErrorKind kind = ErrorKind::kRuntime;
  std::string reason;
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& e) {
    kind = e.kind();
    reason = e.what();
  } catch (const std::exception& e) {
    reason = e.what();
  }
  comm.abort(reason, kind);
}

}  // namespace

int run_on_ranks(const std::function<int(Comm&)>& body, double timeout_seconds) {
  std::exception_ptr thrown;
  {
    MpiWorld world(timeout_seconds);
    const auto self = make_self_comm();  // alone: it takes device memory too
    try {
      return body(world.comm().size() > 1 ? world.comm() : *self);
    } catch (const std::exception&) {
      thrown = std::current_exception();
    }
    if (world.comm().size() > 1) abort_for(world.comm(), thrown);
  }
  std::rethrow_exception(thrown);  // the world ended in order: there is nobody else to end
}

}  // namespace nestling
