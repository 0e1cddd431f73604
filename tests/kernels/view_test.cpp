#include "kernels/core/view.h"

#include <gtest/gtest.h>

#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"
#include "tests/support/expect_error.h"

namespace nestling {
namespace {

TEST(View, PrefixKeepsTheParentsPitch) {
  Tensor t(Device::kCpu, DType::kF32, {4, 6});
  const View v = t.view().prefix(0, 3).prefix(1, 5);
  EXPECT_EQ(v.dim(0), 3);
  EXPECT_EQ(v.dim(1), 5);
  EXPECT_EQ(v.pitch(), 6);
  EXPECT_FALSE(v.dense());
  EXPECT_EQ(v.ptr<float>(), t.ptr<float>());
}

TEST(View, CutThatDoesNotFitIsNamed) {
  Tensor t(Device::kCpu, DType::kF32, {4, 6});
  try {
    (void)t.view().prefix(1, 7);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("[0, 7) does not fit dim 1 of [4,6] f32 cpu"),
              std::string::npos);
  }
}

TEST(View, ReshapeSplitsRowsOfAPitchedView) {
  Tensor t(Device::kCpu, DType::kF32, {5, 12});
  const View v = t.view().prefix(1, 8).reshape({5, 4, 2});
  EXPECT_EQ(v.stride(0), 12);
  EXPECT_EQ(v.stride(1), 2);
  EXPECT_EQ(v.stride(2), 1);
  EXPECT_THROW((void)t.view().prefix(1, 8).reshape({40}), Error);
  EXPECT_EQ(t.view().reshape({10, 6}).pitch(), 6);
}

TEST(View, WrongDtypeThrows) {
  Tensor t(Device::kCpu, DType::kBF16, {2});
  EXPECT_THROW((void)t.ptr<float>(), Error);
}

TEST(Tensor, CopyKeepsGaps) {
  Tensor a(Device::kCpu, DType::kF32, {3, 4}), b(Device::kCpu, DType::kF32, {3, 2});
  for (int i = 0; i < 6; ++i) b.ptr<float>()[i] = static_cast<float>(i + 1);
  copy(a.view().prefix(1, 2), b.view());
  EXPECT_EQ(a.ptr<float>()[4], 3.0f);
  EXPECT_EQ(a.ptr<float>()[2], 0.0f);
}

TEST(Arena, MarksGiveBackAndAReservationForbidsGrowth) {
  Arena arena(Device::kCpu, {Pool::kActivations, "activations"});
  const std::byte* first = nullptr;
  {
    const Arena::Mark mark(arena);
    first = arena.alloc(DType::kF32, {1000}).data();
  }
  {
    const Arena::Mark mark(arena);
    EXPECT_EQ(arena.alloc(DType::kF32, {10}).data(), first);
    EXPECT_THROW(arena.reserve(1 << 20), Error);  // while some of it is in use
  }
  arena.reserve(arena.peak_bytes());
  const Arena::Mark mark(arena);
  (void)arena.alloc(DType::kF32, {1000});
  testing::expect_error(
      [&] { (void)arena.alloc(DType::kU8, {1}); },
      {"activations: 256 bytes more than the 4096 that were reserved; 4096 are in "
       "use"},
      ErrorKind::kRuntime);
}

TEST(ParallelFor, CoversOnceAndRethrows) {
  std::vector<int> hits(1000);
  parallel_for(1000, 7, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
  });
  for (int h : hits) EXPECT_EQ(h, 1);
  EXPECT_THROW(
      parallel_for(100, 1, [](int64_t, int64_t end) { NESTLING_CHECK(end < 100, "part failed"); }),
      Error);
}

TEST(Rng, IsAPureFunctionOfItsKeys) {
  // Known answer of Philox4x32-10 for zero key and counter (Random123 kat_vectors).
  const auto zero = philox(0, 0, 0);
  EXPECT_EQ(zero[0], 0x6627e8d5u);
  EXPECT_EQ(zero[1], 0xe169c58du);
  EXPECT_EQ(zero[2], 0xbc57ac4cu);
  EXPECT_EQ(zero[3], 0x9b00dbd8u);
  Rng a(5, 1), b(5, 1), c(5, 2);
  EXPECT_EQ(a.bits64(), b.bits64());
  EXPECT_NE(a.bits64(), c.bits64());
}

}  // namespace
}  // namespace nestling
