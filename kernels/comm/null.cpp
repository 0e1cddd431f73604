// null.cpp - one rank of a world that is not there: for dry runs on the null device.
#include <cstdio>
#include <cstdlib>

#include "kernels/comm/comm.h"

namespace nestling {

namespace {

class NullComm final : public Comm {
 public:
  NullComm(int rank, int size) : Comm(rank, size) {
    NESTLING_CHECK(rank >= 0 && rank < size, "null communicator: rank ", rank, " of ", size);
  }

  void barrier() override {}
  std::unique_ptr<Comm> split(int) override {
    throw Error("split: a null communicator has no peers to split from; make one a group");
  }
  void meet(Call&) override { no_peers(); }
  [[noreturn]] void abort(const std::string& message, ErrorKind kind) override {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::fflush(nullptr);
    std::_Exit(static_cast<int>(kind));
  }

 private:
  [[noreturn]] static void no_peers() {
    throw Error("a null communicator holds no peers: it serves the null device alone");
  }
  void run_all_reduce(Context&, View, Reduce) override { no_peers(); }
  void run_reduce_scatter(Context&, View, std::span<const ConstView>, Reduce) override {
    no_peers();
  }
  void run_all_gather(Context&, std::span<const View>, ConstView) override { no_peers(); }
  void run_all_to_all(Context&, std::span<const View>, std::span<const ConstView>) override {
    no_peers();
  }
  void run_broadcast(Context&, View, int) override { no_peers(); }
};

}  // namespace

std::unique_ptr<Comm> make_null_comm(int rank, int size) {
  return std::make_unique<NullComm>(rank, size);
}

}  // namespace nestling
