#include "kernels/comm/comm.h"

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "kernels/core/rng.h"
#include "tests/support/ranks.h"

namespace nestling {
namespace {

using nestling::testing::world;

// What rank `rank` holds at element i: small whole numbers and halves, negative ones too, plus for
// floats a part that makes every addition round.
template <class T>
T value(int rank, int64_t i) {
  Rng rng(5, static_cast<uint64_t>(rank) << 32 | static_cast<uint64_t>(i));
  if constexpr (std::is_same_v<T, uint8_t>)
    return static_cast<T>(rng.below(256));
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(rng.below(2001)) - 1000;
  else
    return static_cast<T>(static_cast<float>(rng.normal()));
}

// A [rows, cols] operand, dense or with gaps that must survive.
template <class T>
class Operand {
 public:
  Operand(int64_t rows, int64_t cols, int64_t gap)
      : memory_(Device::kCpu, DTypeOf<T>::kValue, {rows, cols + gap}), cols_(cols) {
    if (memory_.allocated_bytes() > 0)
      std::memset(memory_.view().data(), 0xab, static_cast<size_t>(memory_.allocated_bytes()));
  }
  View view() { return memory_.view().prefix(1, cols_); }
  T& operator[](int64_t i) {
    return memory_.template ptr<T>()[i / cols_ * memory_.view().dim(1) + i % cols_];
  }
  void fill(int rank) {
    for (int64_t i = 0; i < view().size(); ++i) (*this)[i] = value<T>(rank, i);
  }
  bool holds(int64_t i, T wanted) { return std::memcmp(&(*this)[i], &wanted, sizeof(T)) == 0; }
  bool gaps_intact() {
    const auto* bytes = memory_.view().data();
    const int64_t pitch = memory_.view().dim(1) * static_cast<int64_t>(sizeof(T));
    const int64_t used = cols_ * static_cast<int64_t>(sizeof(T));
    for (int64_t b = 0; b < memory_.allocated_bytes(); ++b)
      if (b % pitch >= used && bytes[b] != std::byte{0xab}) return false;
    return true;
  }

 private:
  Tensor memory_;
  int64_t cols_;
};

// The reduction in rank order, as the contract states it.
template <class T>
T reduced(int ranks, int64_t i, Reduce op) {
  using Sum = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  auto sum = static_cast<Sum>(value<T>(0, i));
  for (int r = 1; r < ranks; ++r) {
    const auto x = static_cast<Sum>(value<T>(r, i));
    sum = op == Reduce::kMax ? std::max(sum, x) : static_cast<Sum>(sum + x);
  }
  if (op == Reduce::kMean) sum = static_cast<Sum>(sum / static_cast<Sum>(ranks));
  return static_cast<T>(sum);
}

struct Case {
  int64_t rows, cols, gap;
};
// 192 bytes travel with the opening exchange; 4 MiB are reduced at a time.
const Case kCases[] = {{1, 1, 0}, {1, 7, 0},   {3, 5, 2},     {2, 24, 0},
                       {7, 7, 0}, {13, 77, 3}, {3, 400001, 0}};

template <class T>
class Typed : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16, int32_t, int64_t, uint8_t>;
TYPED_TEST_SUITE(Typed, Types);

TYPED_TEST(Typed, AllReduceAddsInRankOrder) {
  using T = TypeParam;
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  for (const Reduce op : {Reduce::kSum, Reduce::kMean, Reduce::kMax})
    for (const Case& c : kCases) {
      if (op == Reduce::kMean && std::is_integral_v<T>) continue;
      if (op == Reduce::kSum && std::is_same_v<T, uint8_t>) continue;
      if (c.cols > 1000 && (!std::is_same_v<T, float> || op != Reduce::kMean)) continue;
      Operand<T> x(c.rows, c.cols, c.gap);
      x.fill(world().rank());
      world().all_reduce(ctx, x.view(), op);
      int64_t wrong = 0;
      for (int64_t i = 0; i < c.rows * c.cols; ++i)
        wrong += x.holds(i, reduced<T>(world().size(), i, op)) ? 0 : 1;
      EXPECT_EQ(wrong, 0) << x.view().describe() << " " << reduce_name(op);
      EXPECT_TRUE(x.gaps_intact());
    }
  EXPECT_EQ(ctx.scratch().used_bytes(), 0);
}

TYPED_TEST(Typed, ReduceScatterGivesEachRankItsPiece) {
  using T = TypeParam;
  Context ctx(Device::kCpu);
  const int n = world().size();
  const int me = world().rank();
  for (const int64_t gap : {0, 3}) {
    Operand<T> full(n * 4, 9, gap);
    full.fill(me);
    Operand<T> shard(4, 9, gap);
    world().reduce_scatter(ctx, shard.view(), full.view(), Reduce::kMax);
    for (int64_t i = 0; i < 36; ++i)
      EXPECT_TRUE(shard.holds(i, reduced<T>(n, me * 36 + i, Reduce::kMax))) << i;
    EXPECT_TRUE(shard.gaps_intact());

    // Uneven pieces, the result over the rank's own piece: rank r has r rows, rank 0 none.
    Operand<T> uneven(n * (n - 1) / 2 + 1, 9, gap);
    uneven.fill(me);
    std::vector<ConstView> pieces;
    for (int r = 0; r < n; ++r) pieces.emplace_back(uneven.view().slice(0, r * (r - 1) / 2, r));
    const int64_t begin = me * (me - 1) / 2;
    world().reduce_scatter(ctx, uneven.view().slice(0, begin, me), pieces, Reduce::kMax);
    for (int64_t i = begin * 9; i < (begin + me) * 9; ++i)
      EXPECT_TRUE(uneven.holds(i, reduced<T>(n, i, Reduce::kMax))) << i;
    EXPECT_TRUE(uneven.gaps_intact());
  }
}

TYPED_TEST(Typed, AllGatherBringsEveryShard) {
  using T = TypeParam;
  Context ctx(Device::kCpu);
  const int n = world().size();
  for (const int64_t gap : {0, 5}) {
    Operand<T> shard(6, 50, gap);
    shard.fill(world().rank());
    Operand<T> full(6 * n, 50, gap);
    world().all_gather(ctx, full.view(), shard.view());
    for (int64_t i = 0; i < 300 * n; ++i)
      EXPECT_TRUE(full.holds(i, value<T>(static_cast<int>(i / 300), i % 300))) << i;
    EXPECT_TRUE(full.gaps_intact());

    // Columns, uneven: rank r holds r + 1 of them; its own are already in place.
    Operand<T> wide(3, n * (n + 1) / 2, gap);
    std::vector<View> pieces;
    for (int r = 0; r < n; ++r) pieces.push_back(wide.view().slice(1, r * (r + 1) / 2, r + 1));
    const int64_t first = world().rank() * (world().rank() + 1) / 2;
    const int64_t cols = n * (n + 1) / 2;
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t c = first; c <= first + world().rank(); ++c)
        wide[row * cols + c] = value<T>(9, row * cols + c);
    world().all_gather(ctx, pieces, pieces[static_cast<size_t>(world().rank())]);
    for (int64_t i = 0; i < 3 * cols; ++i) EXPECT_TRUE(wide.holds(i, value<T>(9, i))) << i;
    EXPECT_TRUE(wide.gaps_intact());
  }
}

TYPED_TEST(Typed, AllToAllMovesUnevenPieces) {
  using T = TypeParam;
  Context ctx(Device::kCpu);
  const int n = world().size();
  const int me = world().rank();
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
    Operand<T> sent(all_out, 11, gap), received(all_in, 11, gap);
    sent.fill(me);
    world().all_to_all(ctx, received.view(), in, sent.view(), out);
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
  using T = TypeParam;
  Context ctx(Device::kCpu);
  for (const Case& c : kCases) {
    if (c.cols > 1000 && !std::is_same_v<T, bf16>) continue;
    for (int root = 0; root < world().size(); ++root) {
      if (c.cols > 1000 && root != world().size() - 1) continue;  // large: one root is enough
      Operand<T> x(c.rows, c.cols, c.gap);
      x.fill(world().rank());
      world().broadcast(ctx, x.view(), root);
      int64_t wrong = 0;
      for (int64_t i = 0; i < c.rows * c.cols; ++i) wrong += x.holds(i, value<T>(root, i)) ? 0 : 1;
      EXPECT_EQ(wrong, 0) << x.view().describe() << " from " << root;
      EXPECT_TRUE(x.gaps_intact());
    }
  }
}

TEST(Comm, EveryRankHasTheSameBitsTwice) {
  Context ctx(Device::kCpu);
  for (const int64_t n : {int64_t{5}, int64_t{40001}}) {
    Operand<float> first(1, n, 0), second(1, n, 0);
    first.fill(world().rank());
    second.fill(world().rank());
    world().all_reduce(ctx, first.view(), Reduce::kMean);
    world().all_reduce(ctx, second.view(), Reduce::kMean);
    Operand<float> all(world().size(), n, 0);
    world().all_gather(ctx, all.view(), second.view());
    int64_t wrong = 0;
    for (int64_t i = 0; i < all.view().size(); ++i) wrong += all.holds(i, first[i % n]) ? 0 : 1;
    EXPECT_EQ(wrong, 0) << n;
  }
}

TEST(Comm, MaximumKeepsNaN) {
  Context ctx(Device::kCpu);
  const int last = world().size() - 1;
  Tensor x(Device::kCpu, DType::kF32, {2});
  x.ptr<float>()[0] = world().rank() == 0 ? NAN : 1.0f;
  x.ptr<float>()[1] = world().rank() == last ? NAN : 1.0f;
  world().all_reduce(ctx, x, Reduce::kMax);
  EXPECT_TRUE(std::isnan(x.ptr<float>()[0]));
  EXPECT_TRUE(std::isnan(x.ptr<float>()[1]));
}

TEST(Comm, SplitOrdersByRankAndReducesApart) {
  Context ctx(Device::kCpu);
  const int color = world().rank() % 2;
  const auto part = world().split(color);
  EXPECT_EQ(part->size(), (world().size() + 1 - color) / 2);
  EXPECT_EQ(part->rank(), world().rank() / 2);
  Tensor x(Device::kCpu, DType::kI64, {300});
  for (int64_t i = 0; i < 300; ++i) x.ptr<int64_t>()[i] = world().rank();
  part->all_reduce(ctx, x, Reduce::kSum);
  int64_t want = 0;
  for (int r = color; r < world().size(); r += 2) want += r;
  EXPECT_EQ(x.ptr<int64_t>()[299], want);
  const auto alone = part->split(part->rank());
  EXPECT_EQ(alone->size(), 1);
  alone->barrier();
  world().barrier();
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

TEST(Comm, CallsThatDifferAreNamedOnEveryRank) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  Context ctx(Device::kCpu);
  const bool odd_one = world().rank() == 1;
  Tensor x(Device::kCpu, DType::kF32, {odd_one ? 1001 : 1000});
  const auto expect_both = [](const std::string& message, const char* zero, const char* one) {
    EXPECT_NE(message.find(str("rank 0: ", zero)), std::string::npos) << message;
    EXPECT_NE(message.find(str("rank 1: ", one)), std::string::npos) << message;
  };
  expect_both(message_of([&] { world().all_reduce(ctx, x, Reduce::kSum); }),
              "all_reduce sum [1000] f32", "all_reduce sum [1001] f32");
  expect_both(message_of([&] {
                world().all_reduce(ctx, x.view().prefix(0, 3),
                                   odd_one ? Reduce::kMax : Reduce::kSum);
              }),
              "all_reduce sum [3] f32", "all_reduce max [3] f32");
  expect_both(message_of([&] {
                if (odd_one)
                  world().barrier();
                else
                  world().broadcast(ctx, x, 0);
              }),
              "broadcast from rank 0 [1000] f32", "barrier");
  Tensor i(Device::kCpu, DType::kI32, {1000});
  expect_both(message_of([&] {
                world().all_reduce(ctx, odd_one ? i.view() : x.view().prefix(0, 1000),
                                   Reduce::kMax);
              }),
              "all_reduce max [1000] f32", "all_reduce max [1000] i32");
  world().barrier();  // still in step
}

TEST(Comm, IntegerSumsThatOverflowThrow) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  Context ctx(Device::kCpu);
  Tensor x(Device::kCpu, DType::kI32, {4});
  x.ptr<int32_t>()[2] = 2'000'000'000;
  const std::string message = message_of([&] { world().all_reduce(ctx, x, Reduce::kSum); });
  EXPECT_NE(message.find("the sum of i32 overflows"), std::string::npos) << message;
}

}  // namespace
}  // namespace nestling
