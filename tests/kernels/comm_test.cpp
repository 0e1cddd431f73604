#include "kernels/comm/comm.h"

#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "tests/support/rank_operand.h"
#include "tests/support/ranks.h"

namespace nestling {
namespace {

using nestling::testing::device_of;
using nestling::testing::Operand;
using nestling::testing::reduced;
using nestling::testing::value;
using nestling::testing::world;

struct Case {
  int64_t rows, cols, gap;
};
// 192 bytes travel with the opening exchange; 4 MiB are reduced at a time.
const Case kCases[] = {{1, 1, 0}, {1, 7, 0},   {3, 5, 2},     {2, 24, 0},
                       {7, 7, 0}, {13, 77, 3}, {3, 400001, 0}};

// Every type on every device.
template <class T, Device kOn>
struct Kind {
  using Element = T;
  static constexpr Device kDevice = kOn;
};
struct KindName {
  template <class K>
  static std::string GetName(int) {
    return str(device_name(K::kDevice), "_", dtype_name(DTypeOf<typename K::Element>::kValue));
  }
};
template <class K>
class Typed : public ::testing::Test {
 protected:
  void SetUp() override { NESTLING_SKIP_RANKS_WITHOUT(K::kDevice); }
};
using Kinds = ::testing::Types<
    Kind<float, Device::kCpu>, Kind<double, Device::kCpu>, Kind<bf16, Device::kCpu>,
    Kind<int32_t, Device::kCpu>, Kind<int64_t, Device::kCpu>, Kind<uint8_t, Device::kCpu>,
    Kind<float, Device::kCuda>, Kind<double, Device::kCuda>, Kind<bf16, Device::kCuda>,
    Kind<int32_t, Device::kCuda>, Kind<int64_t, Device::kCuda>, Kind<uint8_t, Device::kCuda>>;
TYPED_TEST_SUITE(Typed, Kinds, KindName);

TYPED_TEST(Typed, AllReduceAddsInRankOrder) {
  using T = typename TypeParam::Element;
  constexpr Device kOn = TypeParam::kDevice;
  Comm& comm = world(kOn);
  Context ctx(kOn);
  ctx.scratch().set_poison(true);
  for (const Reduce op : {Reduce::kSum, Reduce::kMean, Reduce::kMax})
    for (const Case& c : kCases) {
      if (op == Reduce::kMean && std::is_integral_v<T>) continue;
      if (op == Reduce::kSum && std::is_same_v<T, uint8_t>) continue;
      if (c.cols > 1000 && (!std::is_same_v<T, float> || op != Reduce::kMean)) continue;
      Operand<T> x(kOn, c.rows, c.cols, c.gap);
      x.fill(comm.rank());
      comm.all_reduce(ctx, x.view(), op);
      x.fetch();
      int64_t wrong = 0;
      for (int64_t i = 0; i < c.rows * c.cols; ++i)
        wrong += x.holds(i, reduced<T>(comm.size(), i, op)) ? 0 : 1;
      EXPECT_EQ(wrong, 0) << x.view().describe() << " " << reduce_name(op);
      EXPECT_TRUE(x.gaps_intact());
    }
  EXPECT_EQ(ctx.scratch().used_bytes(), 0);
}

TYPED_TEST(Typed, ReduceScatterGivesEachRankItsPiece) {
  using T = typename TypeParam::Element;
  constexpr Device kOn = TypeParam::kDevice;
  Comm& comm = world(kOn);
  Context ctx(kOn);
  const int n = comm.size();
  const int me = comm.rank();
  for (const int64_t gap : {0, 3}) {
    Operand<T> full(kOn, n * 4, 9, gap);
    full.fill(me);
    Operand<T> shard(kOn, 4, 9, gap);
    comm.reduce_scatter(ctx, shard.view(), full.view(), Reduce::kMax);
    shard.fetch();
    for (int64_t i = 0; i < 36; ++i)
      EXPECT_TRUE(shard.holds(i, reduced<T>(n, me * 36 + i, Reduce::kMax))) << i;
    EXPECT_TRUE(shard.gaps_intact());

    // Uneven pieces, the result over the rank's own piece: rank r has r rows, rank 0 none.
    Operand<T> uneven(kOn, n * (n - 1) / 2 + 1, 9, gap);
    uneven.fill(me);
    std::vector<ConstView> pieces;
    for (int r = 0; r < n; ++r) pieces.emplace_back(uneven.view().slice(0, r * (r - 1) / 2, r));
    const int64_t begin = me * (me - 1) / 2;
    comm.reduce_scatter(ctx, uneven.view().slice(0, begin, me), pieces, Reduce::kMax);
    uneven.fetch();
    for (int64_t i = begin * 9; i < (begin + me) * 9; ++i)
      EXPECT_TRUE(uneven.holds(i, reduced<T>(n, i, Reduce::kMax))) << i;
    EXPECT_TRUE(uneven.gaps_intact());
  }
}

TYPED_TEST(Typed, AllGatherBringsEveryShard) {
  using T = typename TypeParam::Element;
  constexpr Device kOn = TypeParam::kDevice;
  Comm& comm = world(kOn);
  Context ctx(kOn);
  const int n = comm.size();
  for (const int64_t gap : {0, 5}) {
    Operand<T> shard(kOn, 6, 50, gap);
    shard.fill(comm.rank());
    Operand<T> full(kOn, 6 * n, 50, gap);
    comm.all_gather(ctx, full.view(), shard.view());
    full.fetch();
    for (int64_t i = 0; i < 300 * n; ++i)
      EXPECT_TRUE(full.holds(i, value<T>(static_cast<int>(i / 300), i % 300))) << i;
    EXPECT_TRUE(full.gaps_intact());

    // Columns, uneven: rank r holds r + 1 of them; its own are already in place.
    Operand<T> wide(kOn, 3, n * (n + 1) / 2, gap);
    const int64_t first = comm.rank() * (comm.rank() + 1) / 2;
    const int64_t cols = n * (n + 1) / 2;
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t c = first; c <= first + comm.rank(); ++c)
        wide[row * cols + c] = value<T>(9, row * cols + c);
    std::vector<View> pieces;
    for (int r = 0; r < n; ++r) pieces.push_back(wide.view().slice(1, r * (r + 1) / 2, r + 1));
    comm.all_gather(ctx, pieces, pieces[static_cast<size_t>(comm.rank())]);
    wide.fetch();
    for (int64_t i = 0; i < 3 * cols; ++i) EXPECT_TRUE(wide.holds(i, value<T>(9, i))) << i;
    EXPECT_TRUE(wide.gaps_intact());
  }
}

TYPED_TEST(Typed, AllToAllMovesUnevenPieces) {
  using T = typename TypeParam::Element;
  constexpr Device kOn = TypeParam::kDevice;
  Comm& comm = world(kOn);
  Context ctx(kOn);
  const int n = comm.size();
  const int me = comm.rank();
  const auto rows = [n](int from, int to) {
    return static_cast<int64_t>((3 * from + to) % (n + 1));
  };
  for (const int64_t gap : {0, 2}) {
    std::vector<int64_t> out, in;
    int64_t all_out = 0, all_in = 0;
    for (int r = 0; r < n; ++r) {
      all_out += out.emplace_back(rows(me, r));
      all_in += in.emplace_back(rows(r, me));
    }
    Operand<T> sent(kOn, all_out, 11, gap), received(kOn, all_in, 11, gap);
    sent.fill(me);
    comm.all_to_all(ctx, received.view(), in, sent.view(), out);
    received.fetch();
    int64_t at = 0;
    for (int r = 0; r < n; ++r) {
      int64_t begin = 0;  // where r's piece for this rank begins in what r sent
      for (int to = 0; to < me; ++to) begin += rows(r, to) * 11;
      for (int64_t i = 0; i < rows(r, me) * 11; ++i, ++at)
        EXPECT_TRUE(received.holds(at, value<T>(r, begin + i))) << "from " << r << ", " << i;
    }
    EXPECT_TRUE(received.gaps_intact());
  }
}

TYPED_TEST(Typed, BroadcastCopiesTheRoots) {
  using T = typename TypeParam::Element;
  constexpr Device kOn = TypeParam::kDevice;
  Comm& comm = world(kOn);
  Context ctx(kOn);
  for (const Case& c : kCases) {
    if (c.cols > 1000 && !std::is_same_v<T, bf16>) continue;
    for (int root = 0; root < comm.size(); ++root) {
      if (c.cols > 1000 && root != comm.size() - 1) continue;  // large: one root is enough
      Operand<T> x(kOn, c.rows, c.cols, c.gap);
      x.fill(comm.rank());
      comm.broadcast(ctx, x.view(), root);
      x.fetch();
      int64_t wrong = 0;
      for (int64_t i = 0; i < c.rows * c.cols; ++i) wrong += x.holds(i, value<T>(root, i)) ? 0 : 1;
      EXPECT_EQ(wrong, 0) << x.view().describe() << " from " << root;
      EXPECT_TRUE(x.gaps_intact());
    }
  }
}

class CommOn : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override { NESTLING_SKIP_RANKS_WITHOUT(GetParam()); }
};

TEST_P(CommOn, EveryRankHasTheSameBitsTwice) {
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  for (const int64_t n : {int64_t{5}, int64_t{40001}}) {
    Operand<float> first(GetParam(), 1, n, 0), second(GetParam(), 1, n, 0);
    first.fill(comm.rank());
    second.fill(comm.rank());
    comm.all_reduce(ctx, first.view(), Reduce::kMean);
    comm.all_reduce(ctx, second.view(), Reduce::kMean);
    Operand<float> all(GetParam(), comm.size(), n, 0);
    comm.all_gather(ctx, all.view(), second.view());
    first.fetch();
    all.fetch();
    int64_t wrong = 0;
    for (int64_t i = 0; i < comm.size() * n; ++i) wrong += all.holds(i, first[i % n]) ? 0 : 1;
    EXPECT_EQ(wrong, 0) << n;
  }
}

TEST_P(CommOn, MaximumKeepsNaN) {
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  Operand<float> x(GetParam(), 1, 2, 0);
  x[0] = comm.rank() == 0 ? NAN : 1.0f;
  x[1] = comm.rank() == comm.size() - 1 ? NAN : 1.0f;
  comm.all_reduce(ctx, x.view(), Reduce::kMax);
  x.fetch();
  EXPECT_TRUE(std::isnan(x[0]));
  EXPECT_TRUE(std::isnan(x[1]));
}

TEST_P(CommOn, SplitOrdersByRankAndReducesApart) {
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  const int color = comm.rank() % 2;
  const auto part = comm.split(color);
  EXPECT_EQ(part->size(), (comm.size() + 1 - color) / 2);
  EXPECT_EQ(part->rank(), comm.rank() / 2);
  Operand<int64_t> x(GetParam(), 1, 300, 0);
  for (int64_t i = 0; i < 300; ++i) x[i] = comm.rank();
  part->all_reduce(ctx, x.view(), Reduce::kSum);
  x.fetch();
  int64_t want = 0;
  for (int r = color; r < comm.size(); r += 2) want += r;
  EXPECT_EQ(x[299], want);
  const auto alone = part->split(part->rank());
  EXPECT_EQ(alone->size(), 1);
  alone->barrier();
  comm.barrier();
}

// One piece travels in several runs, the others end in the first; the scratch is of a run of every rank.
TEST_P(CommOn, ReductionsOfLongPiecesAreScatteredInRuns) {
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  const int n = comm.size();
  constexpr int64_t kChunk = int64_t{64} << 20;  // the largest of any communicator
  const int64_t few = 1000, many = kChunk / int64_t{sizeof(double)} / n + few;
  Operand<double> x(GetParam(), 1, (n - 1) * few + many, 0);
  x.fill(comm.rank());
  const View flat = x.view().reshape({x.view().size()});
  std::vector<ConstView> pieces;
  for (int r = 0; r < n; ++r) pieces.emplace_back(flat.slice(0, r * few, r < n - 1 ? few : many));
  const int64_t begin = comm.rank() * few, count = pieces[static_cast<size_t>(comm.rank())].size();
  comm.reduce_scatter(ctx, flat.slice(0, begin, count), pieces, Reduce::kSum);
  x.fetch();
  int64_t wrong = 0;
  for (int64_t i = begin; i < begin + count; ++i)
    wrong += x.holds(i, reduced<double>(n, i, Reduce::kSum)) ? 0 : 1;
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(ctx.scratch().peak_bytes(), kChunk + n * int64_t{256});
  EXPECT_EQ(ctx.scratch().used_bytes(), 0);
}

// Counters and sums of a step stay in host memory whatever it computes on.
TEST_P(CommOn, HostMemoryTravelsUnderAnyContext) {
  Comm& comm = world(GetParam());
  Context ctx(GetParam());
  for (const int64_t gap : {0, 3}) {
    Operand<double> x(Device::kCpu, 5, 2000, gap);
    x.fill(comm.rank());
    comm.all_reduce(ctx, x.view(), Reduce::kSum);
    int64_t wrong = 0;
    for (int64_t i = 0; i < 10000; ++i)
      wrong += x.holds(i, reduced<double>(comm.size(), i, Reduce::kSum)) ? 0 : 1;
    EXPECT_EQ(wrong, 0);
    EXPECT_TRUE(x.gaps_intact());
  }
  EXPECT_EQ(ctx.work().at("all_reduce").calls, 2);
}

template <class Fn>
std::string message_of(Fn fn) {
  try {
    fn();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

void expect_both(const std::string& message, const char* zero, const char* one) {
  EXPECT_NE(message.find(str("rank 0: ", zero)), std::string::npos) << message;
  EXPECT_NE(message.find(str("rank 1: ", one)), std::string::npos) << message;
}

TEST_P(CommOn, CallsThatDifferAreNamedOnEveryRank) {
  Comm& comm = world(GetParam());
  if (comm.size() == 1) GTEST_SKIP() << "needs two ranks";
  Context ctx(GetParam());
  const bool odd_one = comm.rank() == 1;
  Tensor x(GetParam(), DType::kF32, {odd_one ? 1001 : 1000});
  expect_both(message_of([&] { comm.all_reduce(ctx, x, Reduce::kSum); }),
              "all_reduce sum [1000] f32", "all_reduce sum [1001] f32");
  expect_both(message_of([&] {
                comm.all_reduce(ctx, x.view().prefix(0, 3), odd_one ? Reduce::kMax : Reduce::kSum);
              }),
              "all_reduce sum [3] f32", "all_reduce max [3] f32");
  expect_both(message_of([&] {
                if (odd_one)
                  comm.barrier();
                else
                  comm.broadcast(ctx, x, 0);
              }),
              "broadcast from rank 0 [1000] f32", "barrier");
  Tensor i(GetParam(), DType::kI32, {1000});
  expect_both(message_of([&] {
                comm.all_reduce(ctx, odd_one ? i.view() : x.view().prefix(0, 1000), Reduce::kMax);
              }),
              "all_reduce max [1000] f32", "all_reduce max [1000] i32");
  comm.barrier();  // still in step
}

TEST_P(CommOn, PiecesThatDifferInSizeThrow) {
  Comm& comm = world(GetParam());
  if (comm.size() == 1) GTEST_SKIP() << "needs two ranks";
  Context ctx(GetParam());
  Tensor sent(GetParam(), DType::kF32, {comm.size(), 3}),
      received(GetParam(), DType::kF32, {comm.size(), 2});
  const std::vector<int64_t> one_each(static_cast<size_t>(comm.size()), 1);
  const std::string message =
      message_of([&] { comm.all_to_all(ctx, received, one_each, sent, one_each); });
  EXPECT_NE(message.find("all_to_all: rank 0 sends rank"), std::string::npos) << message;
  comm.barrier();
}

template <class T>
std::string message_of_sums(Comm& comm, Device device, T large) {
  Context ctx(device);
  Operand<T> x(device, 1, 4, 0);
  for (int i = 0; i < 4; ++i) x[i] = i == 2 ? large : -5;
  return message_of([&] {
    comm.all_reduce(ctx, x.view(), Reduce::kSum);
    ctx.synchronize();
  });
}

TEST_P(CommOn, IntegerSumsThatOverflowThrow) {
  Comm& comm = world(GetParam());
  if (comm.size() == 1) GTEST_SKIP() << "needs two ranks";
  std::string message = message_of_sums<int32_t>(comm, GetParam(), 2'000'000'000);
  EXPECT_NE(message.find("the sum of i32 overflows"), std::string::npos) << message;
  message = message_of_sums<int64_t>(comm, GetParam(), 6'000'000'000'000'000'000);
  EXPECT_NE(message.find("the sum of i64 overflows"), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(All, CommOn, ::testing::Values(Device::kCpu, Device::kCuda), device_of);

class CommDevices : public CommOn {};

// A call on host memory is not one on a device's.
TEST_P(CommDevices, CallsOnOtherMemoryAreNamed) {
  Comm& comm = world(Device::kCuda);
  if (comm.size() == 1) GTEST_SKIP() << "needs two ranks";
  Context ctx(Device::kCuda);
  Tensor x(comm.rank() == 1 ? Device::kCuda : Device::kCpu, DType::kF32, {1000});
  expect_both(message_of([&] { comm.all_reduce(ctx, x, Reduce::kSum); }),
              "all_reduce sum [1000] f32 as call", "all_reduce sum [1000] f32 cuda as call");
  comm.barrier();
}

// More than is reduced at a time.
TEST_P(CommDevices, LargeSumsAreThoseOfRankOrder) {
  Comm& comm = world(Device::kCuda);
  if (comm.size() == 1 || comm.size() > 2) GTEST_SKIP() << "two ranks are enough";
  Context ctx(Device::kCuda);
  const int64_t n = (int64_t{64} << 20) / 8 + 12345;
  Operand<double> x(Device::kCuda, 1, n, 0);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<double>(i + comm.rank()) / 3;
  comm.all_reduce(ctx, x.view(), Reduce::kSum);
  x.fetch();
  int64_t wrong = 0;
  for (int64_t i = 0; i < n; ++i)
    wrong += x.holds(i, static_cast<double>(i) / 3 + static_cast<double>(i + 1) / 3) ? 0 : 1;
  EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(All, CommDevices, ::testing::Values(Device::kCuda), device_of);

}  // namespace
}  // namespace nestling
