// What the CUDA backend does beyond the contracts that the operators' own tests check on each device:
// memory, bf16 products, and the one clear line where there is no device.
#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>

#include "kernels/core/host_view.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/event.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/product_ceiling.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/linear.h"
#include "kernels/reference/linear.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

TEST(CudaDevice, MissingIsOneClearLineAndExitCodeTwo) {
  const std::string reason = cuda::unavailable_reason();
  if (reason.empty()) GTEST_SKIP() << "there is a CUDA device";
  EXPECT_EQ(reason.find('\n'), std::string::npos);
  try {
    const Context ctx(Device::kCuda);
    FAIL() << "made a CUDA context: " << reason;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInput);
    EXPECT_EQ(std::string(e.what()).find("device cuda: "), 0u) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  }
}

TEST(CudaTiming, EventsDeviceAndTheCeilingOfProducts) {
  NESTLING_SKIP_WITHOUT_CUDA();
  const cuda::DeviceInfo info = cuda::device_info();
  EXPECT_FALSE(info.name.empty());
  EXPECT_GE(info.capability_major, 8);
  EXPECT_GT(info.l2_bytes, 0);
  Context ctx(Device::kCuda);
  const Tensor a(Device::kCuda, DType::kBF16, {64, 32}), b(Device::kCuda, DType::kBF16, {48, 32});
  Tensor d(Device::kCuda, DType::kBF16, {64, 48});
  cuda::Event begin, middle, end;
  begin.record(ctx);
  linear_forward(ctx, {.y = d, .x = a, .w = b});
  middle.record(ctx);
  const double best = cuda::best_product_seconds(ctx, d, a, b, cuda::ProductMath::kAsOperands);
  end.record(ctx);
  EXPECT_GT(best, 0.0);
  EXPECT_GT(seconds_between(begin, middle), 0.0);
  EXPECT_GT(seconds_between(begin, end), seconds_between(begin, middle));
  const cuda::DeviceMemory memory = cuda::device_memory();
  EXPECT_GT(memory.free_bytes, 0);
  EXPECT_LT(memory.free_bytes, memory.total_bytes);
}

// A [2, 3, 4, 5] window cut out of a larger tensor on every axis.
View window(Tensor& t) {
  return t.view().slice(0, 1, 2).slice(1, 0, 3).slice(2, 2, 4).slice(3, 1, 5);
}

TEST(CudaMemory, CopiesAndFillsKeepGaps) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Tensor from(Device::kCpu, DType::kI32, {3, 4, 6, 7}), to(Device::kCpu, DType::kI32, {3, 4, 6, 7});
  for (int64_t i = 0; i < from.size(); ++i) from.ptr<int32_t>()[i] = static_cast<int32_t>(i) + 1;
  Tensor first(Device::kCuda, DType::kI32, {3, 4, 6, 7});
  Tensor second(Device::kCuda, DType::kI32, {2, 3, 4, 5});
  Tensor third(Device::kCuda, DType::kI32, {3, 4, 6, 7});
  copy(first, from.view());
  copy(second, window(first));         // device to device, with gaps to without
  copy(window(third), second.view());  // and back
  copy(to, third.view());
  int64_t inside = 0;
  for (int64_t i = 0; i < to.size(); ++i) {
    const int64_t a = i / 168, b = i / 42 % 4, c = i / 7 % 6, d = i % 7;
    const bool in = a >= 1 && b < 3 && c >= 2 && d >= 1 && d < 6;
    inside += in;
    EXPECT_EQ(to.ptr<int32_t>()[i], in ? i + 1 : 0) << i;
  }
  EXPECT_EQ(inside, 2 * 3 * 4 * 5);
  fill_zero(window(first));
  copy(to, first.view());
  int64_t zeros = 0;
  for (int64_t i = 0; i < to.size(); ++i) zeros += to.ptr<int32_t>()[i] == 0 ? 1 : 0;
  EXPECT_EQ(zeros, inside);
}

// Matrices without gaps, with gaps between them.
TEST(CudaMemory, RunsOfSeveralMatricesAreEachTheirOwn) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Tensor from(Device::kCpu, DType::kI32, {3, 6, 7}), to(Device::kCpu, DType::kI32, {3, 6, 7});
  for (int64_t i = 0; i < from.size(); ++i) from.ptr<int32_t>()[i] = static_cast<int32_t>(i) + 1;
  Tensor device(Device::kCuda, DType::kI32, {3, 6, 7});
  copy(device.view().slice(1, 1, 4), from.view().slice(1, 1, 4));
  fill_zero(device.view().slice(1, 2, 2));
  copy(to, device.view());
  for (int64_t i = 0; i < to.size(); ++i) {
    const int64_t row = i / 7 % 6;
    EXPECT_EQ(to.ptr<int32_t>()[i], row == 1 || row == 4 ? i + 1 : 0) << i;
  }
}

// The 2-D calls refuse rows 2 GB apart; of one row it does not matter where the next would be.
TEST(CudaMemory, OneRowIsOneRunHoweverFarTheNext) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Tensor device(Device::kCuda, DType::kU8, {16}), host(Device::kCpu, DType::kU8, {1, 16});
  const View far(device.view().data(), DType::kU8, Device::kCuda, {2, int64_t{1} << 31});
  const View row = far.prefix(0, 1).prefix(1, 16);
  for (int64_t i = 0; i < 16; ++i) host.ptr<uint8_t>()[i] = static_cast<uint8_t>(i + 1);
  copy(row.prefix(1, 9), host.view().prefix(1, 9));
  fill_zero(row.prefix(1, 4));
  copy(host.view(), row);
  for (int64_t i = 0; i < 16; ++i)
    EXPECT_EQ(host.ptr<uint8_t>()[i], i >= 4 && i < 9 ? i + 1 : 0) << i;
}

TEST(CudaMemory, IsZeroWhenGivenOutAndNobodysWhenGivenBack) {
  NESTLING_SKIP_WITHOUT_CUDA();
  const std::string before = cuda::held_table();
  Tensor ones(Device::kCpu, DType::kU8, {10000});
  std::memset(ones.view().data(), 0xff, 10000);
  for (int turn = 0; turn < 2; ++turn) {  // the second is likely to get what the first had
    Tensor device(Device::kCuda, DType::kU8, {10000}, {Pool::kOther, "given back"});
    Tensor host(Device::kCpu, DType::kU8, {10000});
    copy(host.view(), device.view());
    EXPECT_EQ(std::count(host.ptr<uint8_t>(), host.ptr<uint8_t>() + 10000, 0), 10000);
    EXPECT_NE(cuda::held_table(), before);
    copy(device.view(), ones.view());
  }
  EXPECT_EQ(cuda::held_table(), before);
}

// More than the ring of pinned memory holds (4 MiB), so that its slots are used again.
TEST(CudaMemory, UploadsLongerThanTheirRingArrive) {
  NESTLING_SKIP_WITHOUT_CUDA();
  std::vector<int32_t> values((5 << 20) / sizeof(int32_t) + 3), got(values.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i);
  Context ctx(Device::kCuda);
  Tensor device(Device::kCuda, DType::kI32, {std::ssize(values)});
  send(ctx, device.view(), host_view(values));
  ctx.synchronize();
  copy(host_view(got), device.view());
  EXPECT_EQ(got, values);
}

// What several fetches bring is all there after one synchronize; then their memory is used again.
TEST(CudaMemory, FetchesLandBesideEachOther) {
  NESTLING_SKIP_WITHOUT_CUDA();
  constexpr int64_t kCount = 5000;  // 40,000 bytes of the 64 KiB that are taken at least
  Context ctx(Device::kCuda);
  std::vector<Tensor> device;
  for (int64_t k = 0; k < 4; ++k) {
    std::vector<int64_t> values(kCount);
    for (int64_t i = 0; i < kCount; ++i) values[static_cast<size_t>(i)] = kCount * k + i;
    copy(device.emplace_back(Device::kCuda, DType::kI64, std::initializer_list<int64_t>{kCount})
             .view(),
         host_view(values));
  }
  std::vector<View> first;
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<View> got;
    for (Tensor& t : device) {
      got.push_back(fetch(ctx, t.view().prefix(0, 3)));  // 24 bytes: the next is aligned
      got.push_back(fetch(ctx, t.view()));
    }
    ctx.synchronize();
    for (size_t g = 0; g < got.size(); ++g)
      for (int64_t i = 0; i < got[g].size(); ++i)
        ASSERT_EQ(got[g].ptr<int64_t>()[i], kCount * static_cast<int64_t>(g / 2) + i) << g;
    if (turn == 0) first = got;
    for (size_t g = 0; g < got.size(); ++g) EXPECT_EQ(got[g].data(), first[g].data()) << g;
  }
}

Tensor half_on_device(const Mat<double>& m) {
  GuardedHalf host(m, 0);
  Tensor device = Tensor::pitched(Device::kCuda, DType::kBF16, m.rows, m.cols);
  copy(device, host.view());
  return device;
}
Mat<double> read_half(Tensor& t) {
  GuardedHalf host(t.view().dim(0), t.view().dim(1), 0);
  copy(host.view(), t.view());
  return host.read();
}

struct Case {
  int64_t t, k, n;
  bool half;  // activations bf16, else f32
};
class CudaLinearBf16 : public ::testing::TestWithParam<Case> {};

TEST_P(CudaLinearBf16, MatchesTheReferenceOnRoundedOperands) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, LinearForward, LinearBackward);
  const Case s = GetParam();
  Rng rng(9, static_cast<uint64_t>(s.k));
  const auto raw_x = random_mat(rng, s.t, s.k), raw_dy = random_mat(rng, s.t, s.n);
  const auto x = rounded(raw_x), dy = rounded(raw_dy), w = rounded(random_mat(rng, s.n, s.k));
  const auto bias = random_mat(rng, 1, s.n);
  Context ctx(Device::kCuda);
  Tensor w16 = half_on_device(w), x16 = half_on_device(x), dy16 = half_on_device(dy);
  Tensor y16 = Tensor::pitched(Device::kCuda, DType::kBF16, s.t, s.n);
  Tensor dx16 = Tensor::pitched(Device::kCuda, DType::kBF16, s.t, s.k);
  Guarded x32(Device::kCuda, raw_x), dy32(Device::kCuda, raw_dy), gbias(Device::kCuda, bias);
  Guarded y32(Device::kCuda, s.t, s.n), dx32(Device::kCuda, s.t, s.k), dw(Device::kCuda, s.n, s.k),
      dbias(Device::kCuda, 1, s.n);
  dw.fill(2.0f);
  dbias.fill(3.0f);
  const ConstView gx = s.half ? ConstView(x16) : ConstView(x32.view());
  const ConstView gdy = s.half ? ConstView(dy16) : ConstView(dy32.view());
  linear_forward(ctx,
                 {.y = s.half ? y16.view() : y32.view(), .x = gx, .w = w16, .bias = gbias.row()});
  linear_backward(ctx, {.dx = s.half ? dx16.view() : dx32.view(),
                        .dw = dw.view(),
                        .dbias = dbias.row(),
                        .dy = gdy,
                        .x = gx,
                        .w = w16});
  ctx.synchronize();
  const auto want_y = reference::linear_forward(x, w, bias);
  auto want = reference::linear_backward(x, w, dy);
  const auto want_dbias = reference::linear_backward(x, w, s.half ? dy : raw_dy).dbias;
  for (auto& g : want.dw.v) g += 2.0;
  // As in linear_test: sqrt(K) roundings of the products, then one of the result.
  const auto bound = [](const Mat<double>& a, const Mat<double>& b, int64_t k) {
    return std::sqrt(static_cast<double>(k)) * kEps32 * norm(a) * norm(b);
  };
  const double round = s.half ? kEpsHalf : kEps32;
  expect_close("y", s.half ? read_half(y16) : y32.read(), want_y, round, bound(x, w, s.k));
  expect_close("dx", s.half ? read_half(dx16) : dx32.read(), want.dx, round, bound(dy, w, s.n));
  expect_close("dw", dw.read(), want.dw, kEps32, bound(dy, x, s.t));
  Mat<double> sums = want_dbias;
  for (auto& g : sums.v) g += 3.0;
  expect_close("dbias", dbias.read(), sums, kEps32,
               std::sqrt(static_cast<double>(s.t)) * kEps32 *
                   (norm(raw_dy) + 3.0 * std::sqrt(static_cast<double>(s.n))));
  for (auto* g : {&y32, &dx32, &dw, &dbias}) g->expect_guards_intact("f32");
}

INSTANTIATE_TEST_SUITE_P(All, CudaLinearBf16,
                         ::testing::Values(Case{1, 64, 32, false}, Case{17, 48, 65, true},
                                           Case{64, 64, 64, false}, Case{129, 149, 70, true},
                                           Case{33, 210, 300, false}),
                         [](const auto& test) {
                           const Case& s = test.param;
                           return str(s.half ? "half_" : "float_", s.t, "x", s.k, "x", s.n);
                         });

// A choice of cuBLASLt is kept for products of one shape, and is good for one pitch and alignment of each matrix: 16
// bytes where its first column is left out of none, 4 where it is. Gaps of 3 and 7 make other pitches of the same kind.
TEST(CudaLinear, EveryPitchAndAlignmentHasItsOwnAlgorithm) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, LinearForward);
  Rng rng(11);
  Context ctx(Device::kCuda);
  const auto x = random_mat(rng, 9, 17), w = random_mat(rng, 5, 17);
  const auto from = [](const Mat<double>& m, int64_t first) {
    Mat<double> part(m.rows, 16);
    for (int64_t i = 0; i < part.size(); ++i) part[i] = m(i / 16, first + i % 16);
    return part;
  };
  for (const int64_t gap : {3, 7})
    for (int odd = 0; odd < 8; ++odd) {
      const int64_t in_x = odd & 1, in_w = odd >> 1 & 1, in_y = odd >> 2;
      Guarded gx(Device::kCuda, x, gap), gw(Device::kCuda, w, gap), y(Device::kCuda, 9, 9, gap);
      linear_forward(ctx, {.y = y.view().slice(1, in_y, 5),
                           .x = gx.view().slice(1, in_x, 16),
                           .w = gw.view().slice(1, in_w, 16)});
      ctx.synchronize();
      const auto want = reference::linear_forward(from(x, in_x), from(w, in_w), Mat<double>(1, 5));
      const auto all = y.read();
      Mat<double> got(9, 5);
      for (int64_t i = 0; i < got.size(); ++i) got[i] = all(i / 5, in_y + i % 5);
      expect_close("y", got, want, kEps32, 4 * kEps32 * norm(x) * norm(w));
    }
}

// More than any device has.
TEST(CudaMemory, RunningOutNamesWhoHoldsIt) {
  NESTLING_SKIP_WITHOUT_CUDA();
  const Tensor masters(Device::kCuda, DType::kF32, {1 << 20}, {Pool::kWeights, "masters"});
  testing::expect_error(
      [] {
        Tensor(Device::kCuda, DType::kU8, {int64_t{1} << 50}, {Pool::kOptimizer, "moments"});
      },
      {"out of CUDA memory: 1125899906842624 bytes asked for moments (optimizer)",
       "memory held on the device, MiB", "    masters                         4.0\n", "  sum  "},
      ErrorKind::kRuntime);
}

TEST(CudaMemory, AReservedArenaThatIsTooSmallNamesWhoHoldsIt) {
  NESTLING_SKIP_WITHOUT_CUDA();
  Arena arena(Device::kCuda, {Pool::kActivations, "activations"});
  arena.reserve(1 << 20);
  const Arena::Mark mark(arena);
  arena.alloc(DType::kU8, {1 << 19});
  testing::expect_error([&] { arena.alloc(DType::kU8, {(1 << 19) + 1}); },
                        {"activations: 524544 bytes more than the 1048576 that were reserved; "
                         "524288 are in use",
                         "  activations                       1.0\n"},
                        ErrorKind::kRuntime);
  arena.alloc(DType::kU8, {1 << 19});  // all of it
}

TEST(CudaAdamW, WritesTheLowCopyAtItsOwnPitch) {
  NESTLING_SKIP_WITHOUT(Device::kCuda, AdamWStep);
  Rng rng(5);
  const auto zeros = Mat<double>(1, 33 * 517);
  Guarded w(Device::kCuda, random_mat(rng, 1, 33 * 517)), g(Device::kCuda, zeros),
      m(Device::kCuda, zeros), v(Device::kCuda, zeros);
  Tensor low = Tensor::pitched(Device::kCuda, DType::kBF16, 33, 517);
  const AdamWTensor tensor{.master = w.row().reshape({33, 517}),
                           .m = m.row().reshape({33, 517}),
                           .v = v.row().reshape({33, 517}),
                           .grad = g.row().reshape({33, 517}),
                           .low = low,
                           .lr = 1e-2f,
                           .decay = 0.1f};
  Context ctx(Device::kCuda);
  adamw_step(ctx,
             {.tensors = {&tensor, 1}, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .step = 3});
  ctx.synchronize();
  const auto got = w.read();
  const auto copied = read_half(low);
  const auto want = rounded(got);
  for (int64_t i = 0; i < got.size(); ++i) ASSERT_EQ(copied[i], want[i]) << i;
}

}  // namespace
}  // namespace nestling
