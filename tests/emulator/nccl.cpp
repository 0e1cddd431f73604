// nccl.cpp - NCCL of the emulator: ranks are processes of one MPI world, and MPI carries the bytes.
//
// NESTLING_EMULATOR_NCCL = "stall 3", "error 3", "slow 3", "connect", or several with commas between: the third group
// of this process never ends on the device, breaks, or takes a second to settle; nobody connects.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <mpi.h>
#include <nccl.h>

#include "kernels/comm/nccl_library.h"
#include "tests/emulator/stream.h"

struct nestling_emulated_nccl {
  MPI_Comm ranks = MPI_COMM_NULL;  // null in a world of one, which needs no MPI
  int rank = 0;
  int size = 1;
  std::atomic<ncclResult_t> state = ncclSuccess;
  std::atomic<std::chrono::steady_clock::time_point> settles{};
  std::atomic<std::thread::id> inside{};  // from its call until that has settled: no other may ask
};

namespace {

using nestling::emulator::close_device_memory;
using nestling::emulator::fail;
using nestling::emulator::hold_work;
using nestling::emulator::is_device_memory;
using nestling::emulator::open_device_memory;

enum class Kind : uint8_t { kSend, kRecv, kAllGather, kBroadcast };

struct Operation {
  Kind kind;
  std::byte* from;
  std::byte* to;
  int64_t bytes;
  int peer;  // or the root
};

struct Group {
  int depth = 0;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Operation> operations;
};
thread_local Group group;

struct Id {
  int root;    // in MPI_COMM_WORLD
  int number;  // of its root
};

constexpr int kTag = 1 << 12;
constexpr int64_t kMessageBytes = int64_t{1} << 30;  // MPI counts are ints

bool fault_is(const std::string& kind, int number) {
  const char* text = std::getenv("NESTLING_EMULATOR_NCCL");
  const std::string fault = kind + (number > 0 ? " " + std::to_string(number) : "");
  return text != nullptr && ("," + std::string(text) + ",").find("," + fault + ",") != fault.npos;
}

// Meets the others of `id` at its root and opens the way among them.
MPI_Comm connect(const Id& id, int ranks, int rank) {
  std::vector<int> places(static_cast<size_t>(ranks));  // in the world, by rank
  int own[2] = {rank, 0};
  MPI_Comm_rank(MPI_COMM_WORLD, &own[1]);
  const int tag = kTag + 2 * id.number;
  if (own[1] == id.root) {
    places[static_cast<size_t>(rank)] = own[1];
    for (int i = 1; i < ranks; ++i) {
      int other[2];
      MPI_Recv(other, 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      places[static_cast<size_t>(other[0])] = other[1];
    }
    for (const int place : places)
      if (place != own[1]) MPI_Send(places.data(), ranks, MPI_INT, place, tag + 1, MPI_COMM_WORLD);
  } else {
    MPI_Send(own, 2, MPI_INT, id.root, tag, MPI_COMM_WORLD);
    MPI_Recv(places.data(), ranks, MPI_INT, id.root, tag + 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  MPI_Group world = MPI_GROUP_NULL, members = MPI_GROUP_NULL;
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_incl(world, ranks, places.data(), &members);
  MPI_Comm_create_group(MPI_COMM_WORLD, members, tag, &comm);
  MPI_Group_free(&members);
  MPI_Group_free(&world);
  return comm;
}

void post(const nestling_emulated_nccl& comm, const Operation& o,
          std::vector<MPI_Request>& posted) {
  for (int64_t at = 0; at < o.bytes; at += kMessageBytes) {
    const auto n = static_cast<int>(std::min(kMessageBytes, o.bytes - at));
    MPI_Request& request = posted.emplace_back();
    if (o.kind == Kind::kSend)
      MPI_Isend(o.from + at, n, MPI_BYTE, o.peer, kTag, comm.ranks, &request);
    else
      MPI_Irecv(o.to + at, n, MPI_BYTE, o.peer, kTag, comm.ranks, &request);
  }
}

// What NCCL does not find out: it waits for ever, or moves what nobody meant.
void expect_same_on_all(const nestling_emulated_nccl& comm, const Operation& o) {
  const int64_t mine[] = {static_cast<int64_t>(o.kind), o.bytes, o.peer};
  int64_t firsts[] = {mine[0], mine[1], mine[2]};  // of rank 0
  if (comm.size > 1) MPI_Bcast(firsts, 3, MPI_INT64_T, 0, comm.ranks);
  if (!std::equal(mine, mine + 3, firsts)) fail("ranks at collectives that differ");
}

void collect(const nestling_emulated_nccl& comm, const Operation& o) {
  expect_same_on_all(comm, o);
  const bool gathers = o.kind == Kind::kAllGather;
  for (int root = gathers ? 0 : o.peer; root < (gathers ? comm.size : o.peer + 1); ++root) {
    std::byte* to = o.to + (gathers ? root * o.bytes : 0);
    if (root == comm.rank) std::memmove(to, o.from, static_cast<size_t>(o.bytes));
    for (int64_t at = 0; comm.size > 1 && at < o.bytes; at += kMessageBytes)
      MPI_Bcast(to + at, static_cast<int>(std::min(kMessageBytes, o.bytes - at)), MPI_BYTE, root,
                comm.ranks);
  }
}

// Sends to oneself meet their receives in order, without MPI.
void copy_to_self(const nestling_emulated_nccl& comm, const std::vector<Operation>& operations) {
  std::vector<Operation> sent, received;
  for (const Operation& o : operations) {
    if (o.peer != comm.rank) continue;
    if (o.kind == Kind::kSend) sent.push_back(o);
    if (o.kind == Kind::kRecv) received.push_back(o);
  }
  if (sent.size() != received.size()) fail("a rank sends itself what it does not receive");
  for (size_t i = 0; i < sent.size(); ++i) {
    if (sent[i].bytes != received[i].bytes) fail("a rank sends itself another size");
    std::memmove(received[i].to, sent[i].from, static_cast<size_t>(sent[i].bytes));
  }
}

bool carry_out(nestling_emulated_nccl& comm, const std::vector<Operation>& operations) {
  static int groups = 0;
  ++groups;
  if (fault_is("error", groups)) comm.state = ncclRemoteError;
  if (fault_is("error", groups) || fault_is("stall", groups)) return false;
  open_device_memory();
  std::vector<MPI_Request> posted;
  copy_to_self(comm, operations);
  for (const Operation& o : operations)
    if ((o.kind == Kind::kSend || o.kind == Kind::kRecv) && o.peer != comm.rank)
      post(comm, o, posted);
  if (!posted.empty())
    MPI_Waitall(static_cast<int>(posted.size()), posted.data(), MPI_STATUSES_IGNORE);
  for (const Operation& o : operations)
    if (o.kind == Kind::kAllGather || o.kind == Kind::kBroadcast) collect(comm, o);
  close_device_memory();
  return true;
}

ncclResult_t enqueue(ncclComm_t comm, cudaStream_t stream, const Operation& o) {
  if (o.peer < 0 || o.peer >= comm->size) return ncclInvalidArgument;
  if (o.bytes > 0)
    for (const std::byte* data : {o.from, o.to})
      if (data != nullptr && !is_device_memory(data)) return ncclInvalidArgument;
  if (group.depth == 0) return ncclInvalidUsage;  // here everything is grouped
  if (!group.operations.empty() && (group.comm != comm || group.stream != stream))
    return ncclInvalidUsage;
  comm->inside = std::this_thread::get_id();
  group.comm = comm;
  group.stream = stream;
  group.operations.push_back(o);
  return ncclSuccess;
}

std::byte* bytes_of(const void* data) {
  return static_cast<std::byte*>(const_cast<void*>(data));
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int number = 0;
  Id own{0, ++number};
  int running = 0;
  MPI_Initialized(&running);
  if (running != 0) MPI_Comm_rank(MPI_COMM_WORLD, &own.root);
  std::memcpy(id->internal, &own, sizeof own);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  Id own{};
  std::memcpy(&own, id.internal, sizeof own);
  if (rank < 0 || rank >= ranks || own.number == 0) return ncclInvalidArgument;
  *comm = new nestling_emulated_nccl;
  (*comm)->rank = rank;
  (*comm)->size = ranks;
  (*comm)->inside = std::this_thread::get_id();
  if (fault_is("connect", 0)) {
    (*comm)->state = ncclInProgress;
    return ncclInProgress;
  }
  if (ranks > 1) (*comm)->ranks = connect(own, ranks, rank);
  return config->blocking != 0 ? ncclSuccess : ncclInProgress;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  comm->inside = std::this_thread::get_id();
  if (comm->ranks != MPI_COMM_NULL) MPI_Barrier(comm->ranks);
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->ranks != MPI_COMM_NULL) MPI_Comm_free(&comm->ranks);
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::thread::id inside = comm->inside;
  if (inside != std::thread::id() && inside != std::this_thread::get_id())
    fail("two threads inside one communicator of NCCL");
  const bool settled = std::chrono::steady_clock::now() >= comm->settles.load();
  *state = settled ? comm->state.load() : ncclInProgress;
  if (*state != ncclInProgress) comm->inside = std::thread::id();
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t code) {
  switch (code) {
    case ncclSuccess:
      return "no error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}
const char* ncclGetLastError(ncclComm_t) {
  return "";
}
ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0 || group.operations.empty()) return ncclSuccess;
  static int groups = 0;
  if (fault_is("slow", ++groups))
    group.comm->settles = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  const std::vector<Operation> operations = std::move(group.operations);
  group.operations.clear();
  hold_work(group.stream, [comm = group.comm, operations] { return carry_out(*comm, operations); });
  return ncclInProgress;
}
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return enqueue(comm, stream,
                 {Kind::kSend, bytes_of(data), nullptr, static_cast<int64_t>(count), peer});
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return enqueue(comm, stream,
                 {Kind::kRecv, nullptr, bytes_of(data), static_cast<int64_t>(count), peer});
}
ncclResult_t ncclAllGather(const void* own, void* all, size_t count, ncclDataType_t,
                           ncclComm_t comm, cudaStream_t stream) {
  return enqueue(comm, stream,
                 {Kind::kAllGather, bytes_of(own), bytes_of(all), static_cast<int64_t>(count), 0});
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return enqueue(
      comm, stream,
      {Kind::kBroadcast, bytes_of(from), bytes_of(to), static_cast<int64_t>(count), root});
}

// Where the program looks for NCCL's functions: these.
const nestling::NcclLibrary& nestling::nccl_library() {
  static const NcclLibrary nccl = {.get_version = ncclGetVersion,
                                   .get_unique_id = ncclGetUniqueId,
                                   .comm_init_rank_config = ncclCommInitRankConfig,
                                   .comm_finalize = ncclCommFinalize,
                                   .comm_destroy = ncclCommDestroy,
                                   .comm_abort = ncclCommAbort,
                                   .comm_get_async_error = ncclCommGetAsyncError,
                                   .get_error_string = ncclGetErrorString,
                                   .get_last_error = ncclGetLastError,
                                   .group_start = ncclGroupStart,
                                   .group_end = ncclGroupEnd,
                                   .send = ncclSend,
                                   .recv = ncclRecv,
                                   .all_gather = ncclAllGather,
                                   .broadcast = ncclBroadcast};
  return nccl;
}
