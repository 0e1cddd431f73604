// What the CUDA backend does beyond the contracts that the operators' own tests check on each device:
// memory, bf16 products, and the one clear line where there is no device.
#include <gtest/gtest.h>

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
