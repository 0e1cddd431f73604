// The communicators that need no MPI: a world of one, and a rank of a world that is not there.
#include <array>
#include <gtest/gtest.h>

#include "kernels/comm/comm.h"

namespace nestling {
namespace {

Tensor numbers(int64_t rows, int64_t cols) {
  Tensor t(Device::kCpu, DType::kF32, {rows, cols});
  for (int64_t i = 0; i < t.size(); ++i) t.ptr<float>()[i] = static_cast<float>(i) + 0.5f;
  return t;
}

void expect_equal(ConstView got, ConstView want) {
  for (int64_t i = 0; i < want.size(); ++i)
    EXPECT_EQ(got.ptr<float>()[i], want.ptr<float>()[i]) << i;
}

TEST(SelfComm, CopiesAndNeverSkips) {
  const auto self = make_self_comm();
  Context ctx(Device::kCpu);
  const Tensor x = numbers(3, 4);
  for (int call = 0; call < 3; ++call) {
    Tensor y(Device::kCpu, DType::kF32, {3, 4});
    if (call == 0) self->all_gather(ctx, y.view(), x);
    if (call == 1) self->reduce_scatter(ctx, y, x.view(), Reduce::kMean);
    if (call == 2) {
      const std::array<int64_t, 1> rows{3};
      self->all_to_all(ctx, y, rows, x, rows);
    }
    expect_equal(y, x);
  }
  Tensor z = numbers(3, 4);
  self->all_reduce(ctx, z, Reduce::kSum);
  self->broadcast(ctx, z, 0);
  expect_equal(z, x);
  EXPECT_EQ(self->split(7)->size(), 1);
}

TEST(NullComm, ChecksAndCountsWhatARankWouldSend) {
  const auto rank = make_null_comm(1, 4);
  Context ctx(Device::kNull);
  const View full(nullptr, DType::kF32, Device::kNull, {8, 10});
  const View shard = full.prefix(0, 2);
  rank->all_reduce(ctx, full, Reduce::kSum);
  rank->reduce_scatter(ctx, shard, full, Reduce::kSum);
  rank->all_gather(ctx, full, shard);
  rank->broadcast(ctx, full, 1);
  EXPECT_EQ(ctx.work().at("all_reduce").bytes, 2 * 320 * 3 / 4.0);
  EXPECT_EQ(ctx.work().at("reduce_scatter").bytes, 240);
  EXPECT_EQ(ctx.work().at("all_gather").bytes, 240);
  EXPECT_EQ(ctx.work().at("broadcast").bytes, 960);
}

template <class Fn>
void expect_error(const char* part, Fn fn) {
  try {
    fn();
    FAIL() << "accepted: " << part;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(CommContract, NamesWhatDoesNotFit) {
  const auto comm = make_null_comm(0, 4);
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {8, 10});
  const View u8(nullptr, DType::kU8, Device::kNull, {4});
  const View i32(nullptr, DType::kI32, Device::kNull, {4});
  expect_error("4 ranks need full of 12 rows", [&] { comm->all_gather(ctx, x, x.prefix(0, 3)); });
  expect_error("no sum of u8", [&] { comm->all_reduce(ctx, u8, Reduce::kSum); });
  expect_error("no mean of i32", [&] { comm->all_reduce(ctx, i32, Reduce::kMean); });
  expect_error("root 4 of 4 ranks", [&] { comm->broadcast(ctx, x, 4); });
  expect_error("absent", [&] { comm->all_reduce(ctx, View(), Reduce::kSum); });
  const std::array<int64_t, 4> rows{1, 2, 2, 2};
  expect_error("pieces of 7 rows", [&] { comm->all_to_all(ctx, x, rows, x, rows); });
  Tensor host(Device::kCpu, DType::kF32, {4});
  expect_error("the context runs on null", [&] { comm->all_reduce(ctx, host, Reduce::kSum); });
}

}  // namespace
}  // namespace nestling
