// self.cpp - a world of one: every collective does what it does in a larger world, alone.
#include <cstdio>
#include <cstdlib>

#include "kernels/comm/call.h"

namespace nestling {

namespace {

class SelfComm final : public Comm {
 public:
  SelfComm() : Comm(0, 1) {}

  bool moves_device_memory() const override { return true; }
  void barrier() override {}
  std::unique_ptr<Comm> split(int color) override {
    NESTLING_CHECK(color >= 0, "split: color ", color, ", needs at least 0");
    return make_self_comm();
  }
  void meet(Call& call) override { call.number = calls_++; }
  [[noreturn]] void abort(const std::string& message, ErrorKind kind) override {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::fflush(nullptr);
    std::_Exit(static_cast<int>(kind));
  }

 private:
  void run_all_reduce(Context&, View, Reduce) override {}  // x over one rank, in place, is x
  void run_reduce_scatter(Context&, View shard, std::span<const ConstView> pieces,
                          Reduce) override {
    if (shard.data() != pieces[0].data()) copy(shard, pieces[0]);
  }
  void run_all_gather(Context&, std::span<const View> pieces, ConstView shard) override {
    if (shard.data() != pieces[0].data()) copy(pieces[0], shard);
  }
  void run_all_to_all(Context&, std::span<const View> received,
                      std::span<const ConstView> sent) override {
    NESTLING_CHECK(same_shape(received[0], sent[0]), "all_to_all: rank 0 sends itself ",
                   sent[0].describe(), " and receives ", received[0].describe());
    copy(received[0], sent[0]);
  }
  void run_broadcast(Context&, View, int) override {}

  uint64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_self_comm() {
  return std::make_unique<SelfComm>();
}

}  // namespace nestling
