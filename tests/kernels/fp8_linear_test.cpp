#include "kernels/ops/fp8_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>

#include "kernels/cuda/device_info.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/fp8_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// Whether codes of whole pieces are multiplied as they are; others become bf16.
bool card_has_fp8() {
  const cuda::DeviceInfo card = cuda::device_info();
  return card.capability_major * 10 + card.capability_minor >= 89;
}

// -3 .. 3: small sums of their products are exact in the bits a card keeps.
Mat<double> random_whole(Rng& rng, int64_t rows, int64_t cols) {
  Mat<double> m(rows, cols);
  for (auto& x : m.v) x = static_cast<double>(rng.below(7)) - 3.0;
  return m;
}

struct Shape {
  int64_t t, k, n;
};
constexpr float kInputScale = 0.013f, kWeightScale = 0.0021f;

// Of the sums: f32 on the CPU; on a card what Hopper's tensor cores keep, 14 bits, the rest cut off. As in
// linear_test a sum of K products errs by about sqrt(K) of them, relative to |code(x)| |w|.
double sum_bound(Device device, const Mat<double>& x, const Mat<double>& w, int64_t k) {
  const double each = device == Device::kCpu ? kEps32 : 0x1.0p-13;
  const double scales = double{kInputScale} * double{kWeightScale};
  return std::sqrt(static_cast<double>(k)) * each * scales *
         norm(reference::e4m3_of(x, kInputScale)) * norm(w);
}
// Of the product of the scales, of a sum times it, and of adding to what is there.
constexpr double kScaling = 3 * kEps32;

class Fp8LinearOn : public ::testing::TestWithParam<std::tuple<Kind, Shape>> {};

TEST_P(Fp8LinearOn, MatchesTheReference) {
  const auto [kind, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Rng rng(3, static_cast<uint64_t>(s.k));
  const auto raw = random_mat(rng, s.t, s.k, 3.0);  // some beyond 448 input_scale = 5.8
  const auto x = half ? rounded(raw) : raw;
  const auto w = random_codes(rng, s.n, s.k);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  Guarded x32(device, x, 3), y32(device, s.t, s.n, device == Device::kCpu ? 3 : 4);
  GuardedHalf x16(device, x, 3), y16(device, s.t, s.n, 8);
  Codes gw(device, w);
  Fp8Linear a{.y = half ? y16.view() : y32.view(),
              .x = half ? x16.view() : x32.view(),
              .w = gw.view(),
              .input_scale = kInputScale,
              .weight_scale = kWeightScale};
  fp8_linear(ctx, a);
  ctx.synchronize();
  auto want = reference::fp8_linear(x, w, kInputScale, kWeightScale);
  const double bound = sum_bound(device, x, w, s.k);
  const auto first = half ? y16.read() : y32.read();
  expect_close("y", first, want, kScaling + (half ? kEpsHalf : 0.0), bound);
  fp8_linear(ctx, a);
  ctx.synchronize();
  EXPECT_EQ((half ? y16.read() : y32.read()).v, first.v) << "the second time";
  if (!half) {
    a.accumulate = true;
    fp8_linear(ctx, a);
    ctx.synchronize();
    for (auto& v : want.v) v *= 2;
    expect_close("y +=", y32.read(), want, kScaling, 2 * bound);
  }
  y32.expect_guards_intact("y");
  y16.expect_guards_intact("y");
}

// Sums of whole numbers show every misplaced, left out or doubled term, however few bits a card keeps: products
// of -3 .. 3 deviate by 4, and of the longest sums 8 deviations are 8 4 sqrt(2128), less than 2^11.
TEST_P(Fp8LinearOn, WholeNumbersAreExact) {
  const auto [kind, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Rng rng(5, static_cast<uint64_t>(s.k));
  auto x = random_whole(rng, s.t, s.k);
  for (auto& v : x.v) v *= 0.5;
  const auto w = random_whole(rng, s.n, s.k);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  Guarded x32(device, x, 4), y32(device, s.t, s.n, 4);
  GuardedHalf x16(device, x, 8);
  Codes gw(device, w, 32);
  fp8_linear(ctx, {.y = y32.view(),
                   .x = half ? x16.view() : x32.view(),
                   .w = gw.view(),
                   .input_scale = 0.5f,
                   .weight_scale = 0.25f});
  ctx.synchronize();
  EXPECT_EQ(y32.read().v, reference::fp8_linear(x, w, 0.5f, 0.25f).v);
  y32.expect_guards_intact("y");
}

std::string shape_name(const ::testing::TestParamInfo<std::tuple<Kind, Shape>>& test) {
  const auto& [kind, s] = test.param;
  return str(kind_name(kind), "_", s.t, "x", s.k, "x", s.n);
}
// What cuBLASLt takes no codes of.
constexpr Shape kOddShapes[] = {{1, 1, 1},       {1, 37, 50},
                                {3, 5, 7},       {17, 33, 65},
                                {70, 96, 1},     {40, 64, 8},
                                {129, 149, 70},  {48, 1, 40},
                                {5, 2100, 1000},  // on the CPU two blocks of the weight
                                {1, 64, 9},      {2, 71, 11},
                                {3, 127, 13},    {4, 2100, 5}};  // and codes read as they are
constexpr Shape kShapes[] = {{1, 16, 16},  {3, 32, 32},    {17, 48, 48},
                             {70, 96, 16}, {129, 160, 16}, {33, 2128, 80}};
INSTANTIATE_TEST_SUITE_P(Odd, Fp8LinearOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::ValuesIn(kOddShapes)),
                         shape_name);
INSTANTIATE_TEST_SUITE_P(All, Fp8LinearOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::ValuesIn(kShapes)),
                         shape_name);

class Fp8LinearDevice : public ::testing::TestWithParam<Device> {
 protected:
  static Mat<double> run(Device device, ConstView x, ConstView w, float input_scale = kInputScale,
                         float weight_scale = kWeightScale) {
    Context ctx(device);
    ctx.scratch().set_poison(true);
    Guarded y(device, x.dim(0), w.dim(0), 4);
    fp8_linear(
        ctx,
        {.y = y.view(), .x = x, .w = w, .input_scale = input_scale, .weight_scale = weight_scale});
    ctx.synchronize();
    y.expect_guards_intact("y");
    return y.read();
  }
};

// What a larger model holds beside the prefix is not read: here it is NaN in part. cuBLASLt may take another
// algorithm for another pitch, so that on a card only exact sums are the same bits.
TEST_P(Fp8LinearDevice, PrefixIsTheStandAloneCut) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Rng rng(7);
  for (const bool whole : {true, false}) {
    const int64_t n = 32, k = 48;
    auto x = whole ? random_whole(rng, 21, 80) : random_mat(rng, 21, 80);
    auto w = whole ? random_whole(rng, 40, 80) : random_codes(rng, 40, 80);
    Mat<double> x_cut(21, k), w_cut(n, k);
    for (int64_t c = 0; c < k; ++c) {
      for (int64_t t = 0; t < 21; ++t) x_cut(t, c) = x(t, c);
      for (int64_t r = 0; r < n; ++r) w_cut(r, c) = w(r, c);
    }
    x(0, k) = w(0, k) = w(n, 0) = std::numeric_limits<double>::quiet_NaN();
    Guarded gx(device, x), gx_cut(device, x_cut);
    Codes gw(device, w), gw_cut(device, w_cut, 0);
    const float scale = whole ? 0.5f : kInputScale;
    const auto cut = run(device, gx_cut.view(), gw_cut.view(), scale);
    const auto prefix =
        run(device, gx.view().prefix(1, k), gw.view().prefix(0, n).prefix(1, k), scale);
    if (whole || device == Device::kCpu)
      EXPECT_EQ(prefix.v, cut.v);
    else
      expect_close("prefix", prefix, cut, kScaling, 2 * sum_bound(device, x_cut, w_cut, k));
  }
}

// W = 1 in f8: y is the value of the code, times both scales.
TEST_P(Fp8LinearDevice, SaturatesAndKeepsZerosAndSubnormals) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Mat<double> one(16, 16), x(3, 16);
  for (int64_t i = 0; i < 16; ++i) one(i, i) = 1.0;
  const double row[] = {224.0, 225.0,   -1e30,   std::numeric_limits<double>::infinity(),
                        0.0,   0x1p-10, 0x1p-11, 0x1.8p-10,
                        -1e-9, 0x7p-10, 0x1p-7,  1.03125};
  const double want[] = {448.0, 448.0,  -448.0, 448.0,  0.0,    0x1p-9,
                         0.0,   0x1p-8, 0.0,    0x7p-9, 0x1p-6, 2.0};
  for (size_t i = 0; i < std::size(row); ++i) x(1, static_cast<int64_t>(i)) = row[i];
  Guarded gx(device, x);
  Codes gw(device, one);
  const auto y = run(device, gx.view(), gw.view(), 0.5f, 4.0f);
  for (int64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(y(0, i), 0.0);
    EXPECT_EQ(y(1, i), i < std::ssize(want) ? 2.0 * want[i] : 0.0) << i;
  }
}

TEST_P(Fp8LinearDevice, NanStaysInItsRowAndItsColumn) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Rng rng(9);
  auto x = random_mat(rng, 7, 32);
  auto w = random_codes(rng, 16, 32);
  x(2, 5) = w(4, 30) = std::numeric_limits<double>::quiet_NaN();
  Guarded gx(device, x);
  Codes gw(device, w);
  const auto y = run(device, gx.view(), gw.view());
  for (int64_t t = 0; t < 7; ++t)
    for (int64_t n = 0; n < 16; ++n)
      EXPECT_EQ(std::isnan(y(t, n)), t == 2 || n == 4) << t << "," << n;
}

TEST_P(Fp8LinearDevice, NoTokensIsNoWork) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Context ctx(device);
  Tensor x(device, DType::kF32, {0, 16}), y(device, DType::kF32, {0, 16});
  Tensor w(device, DType::kF8E4M3, {16, 16}), codes(device, DType::kF8E4M3, {0, 16});
  fp8_linear(ctx, {.y = y, .x = x, .w = w, .input_scale = 1, .weight_scale = 1});
  fp8_quantize(ctx, {.codes = codes, .x = x, .scale = 1});
  ctx.synchronize();
}

std::string device_case(const ::testing::TestParamInfo<Device>& test) {
  return device_name(test.param);
}
INSTANTIATE_TEST_SUITE_P(All, Fp8LinearDevice, ::testing::Values(Device::kCpu, Device::kCuda),
                         device_case);

// Operands of which codes are multiplied, and the same at other places, which become bf16.
class Fp8LinearCard : public ::testing::TestWithParam<Device> {};

TEST_P(Fp8LinearCard, BothWaysAgree) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Rng rng(13);
  for (const bool whole : {true, false}) {
    const auto x = whole ? random_whole(rng, 19, 80) : random_mat(rng, 19, 80, 3.0);
    auto w = whole ? random_whole(rng, 48, 80) : random_codes(rng, 48, 80);
    const float scale = whole ? 0.5f : kInputScale;
    Codes pieces(device, w, 16), odd(device, w, 3);
    Guarded gx(device, x, 3);
    Context ctx(device);
    const auto product = [&](ConstView codes, int64_t gap) {
      ctx.scratch().set_poison(true);
      Guarded y(device, x.rows, w.rows, gap);
      fp8_linear(ctx, {.y = y.view(),
                       .x = gx.view(),
                       .w = codes,
                       .input_scale = scale,
                       .weight_scale = kWeightScale});
      ctx.synchronize();
      y.expect_guards_intact("y");
      return y.read();
    };
    const auto want = product(pieces.view(), 4);
    for (const auto& got : {product(odd.view(), 4), product(pieces.view(), 3)}) {
      if (whole)
        EXPECT_EQ(got.v, want.v);
      else
        expect_close("y", got, want, kScaling, 2 * sum_bound(device, x, w, 80));
    }
  }
}

// Codes of x, or what bf16 takes: the larger of both is what a rehearsal does.
TEST_P(Fp8LinearCard, TakesScratchForTheWayItGoes) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  Context real(device);
  const auto peak = [](Context&& ctx, int64_t n, int64_t k, int64_t begin, int64_t y_begin) {
    const Device on = ctx.device();
    const Tensor x(on, DType::kF32, {64, k}), w(on, DType::kF8E4M3, {n, 256});
    Tensor y(on, DType::kF32, {64, n + 16});
    fp8_linear(ctx, {.y = y.view().slice(1, y_begin, n),
                     .x = x,
                     .w = w.view().slice(1, begin, k),
                     .input_scale = 1,
                     .weight_scale = 1});
    ctx.synchronize();
    return ctx.scratch().peak_bytes();
  };
  const auto real_peak = [&](int64_t n, int64_t k, int64_t begin = 0, int64_t y_begin = 0) {
    const int64_t rehearsed = peak(Context::rehearsal_of(real), n, k, begin, y_begin);
    const int64_t taken = peak(Context(device), n, k, begin, y_begin);
    EXPECT_GE(rehearsed, taken) << n << "," << k << "," << begin << "," << y_begin;
    return taken;
  };
  const auto values = [](int64_t n, int64_t k) {
    const int64_t codes = 64 * ((k + 15) / 16 * 16);
    return 2 * 64 * k + std::max(codes, 2 * n * k);
  };
  EXPECT_EQ(real_peak(64, 128), card_has_fp8() ? 64 * 128 : values(64, 128));
  EXPECT_EQ(real_peak(64, 128, 8), values(64, 128));     // w begins elsewhere
  EXPECT_EQ(real_peak(64, 128, 0, 2), values(64, 128));  // y does
  EXPECT_EQ(real_peak(8, 128), values(8, 128));          // no whole 16 rows of w
  EXPECT_EQ(real_peak(64, 120), values(64, 120));        // or columns
}

// Rows of the weights in blocks of 64: each of its own value, in the one column that x has.
TEST_P(Fp8LinearCard, MakesBlocksOfTheWeightOneAfterAnother) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Fp8Linear);
  const int64_t n = 200, k = int64_t{9} << 14, at = k - 3;
  Tensor host(Device::kCpu, DType::kF8E4M3, {n, k}), host_x(Device::kCpu, DType::kF32, {2, k});
  for (int64_t r = 0; r < n; ++r)
    std::memset(host.view().data() + r * k, static_cast<int>(r % 126 + 1), static_cast<size_t>(k));
  host_x.view().ptr<float>()[k + at] = 1.0f;
  Tensor w(device, DType::kF8E4M3, {n, k}), x(device, DType::kF32, {2, k});
  copy(w.view(), host.view());
  copy(x.view(), host_x.view());
  Guarded y(device, 2, n, 4);
  Context ctx(device);
  fp8_linear(ctx, {.y = y.view(), .x = x, .w = w, .input_scale = 1, .weight_scale = 1});
  ctx.synchronize();
  const auto got = y.read();
  for (int64_t r = 0; r < n; ++r) {
    EXPECT_EQ(got(0, r), 0.0);
    EXPECT_EQ(got(1, r), reference::e4m3_value(static_cast<int>(r % 126 + 1))) << r;
  }
  y.expect_guards_intact("y");
}
INSTANTIATE_TEST_SUITE_P(All, Fp8LinearCard, ::testing::Values(Device::kCuda), device_case);

// One to four rows are multiplied with codes read as they are: each in every place of a row, and of a row of x and of
// the weights the same bits beside any others.
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
Mat<double> few_rows(const Mat<double>& x, const Mat<double>& w, float scale = 1.0f) {
  Context ctx(Device::kCpu);
  ctx.scratch().set_poison(true);
  Guarded gx(Device::kCpu, x, 3), y(Device::kCpu, x.rows, w.rows, 3);
  Codes gw(Device::kCpu, w, 3);
  fp8_linear(
      ctx,
      {.y = y.view(), .x = gx.view(), .w = gw.view(), .input_scale = scale, .weight_scale = 1});
  y.expect_guards_intact("y");
  return y.read();
}

TEST(Fp8LinearFewRows, ReadEveryCodeInEveryPlace) {
  for (const int64_t k : {1, 8, 77, 160}) {
    Mat<double> w(254, k);
    for (int64_t n = 0; n < w.rows; ++n)
      for (int64_t i = 0; i < k; ++i) {
        const auto code = static_cast<int>((n + i) % 254);
        w(n, i) = reference::e4m3_value(code < 0x7f ? code : code + 1);
      }
    for (int64_t first = 0; first < k; first += 4) {
      const int64_t rows = std::min<int64_t>(4, k - first);
      Mat<double> x(rows, k);
      for (int64_t t = 0; t < rows; ++t) x(t, first + t) = 1.0;
      const auto y = few_rows(x, w);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t n = 0; n < w.rows; ++n) ASSERT_EQ(y(t, n), w(n, first + t)) << k << ": " << n;
    }
  }
}

TEST(Fp8LinearFewRows, KeepNanOfEveryPlaceInItsColumn) {
  for (const int64_t k : {1, 8, 77, 160})
    for (int64_t at = 0; at < k; ++at) {
      Mat<double> x(1 + at % 4, k), w(9, k);
      for (int64_t n = 0; n < w.rows; ++n) w(n, k - 1 - at) = 448.0;
      w(at % 9, at) = at % 2 == 0 ? kNan : -kNan;
      const auto y = few_rows(x, w);
      for (int64_t i = 0; i < y.size(); ++i)
        ASSERT_EQ(std::isnan(y[i]), i % 9 == at % 9) << k << ": " << at << ", " << i;
    }
}

TEST(Fp8LinearFewRows, AreTheSameBitsBesideOthers) {
  Rng rng(11);
  const int64_t k = 333;
  const auto x = random_mat(rng, 4, k, 3.0);
  const auto w = random_codes(rng, 70, k);
  const auto part = [](const Mat<double>& m, int64_t first, int64_t rows) {
    Mat<double> out(rows, m.cols);
    for (int64_t i = 0; i < out.size(); ++i) out[i] = m[first * m.cols + i];
    return out;
  };
  const auto all = few_rows(x, w, kInputScale);
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t rows = 1; t + rows <= 4; ++rows)
      EXPECT_EQ(few_rows(part(x, t, rows), w, kInputScale).v, part(all, t, rows).v);
    for (int64_t n = 0; n < w.rows; ++n)
      ASSERT_EQ(few_rows(part(x, t, 1), part(w, n, 1), kInputScale)[0], all(t, n));
  }
}

TEST(Fp8LinearContract, NamesWhatDoesNotFit) {
  const auto view = [](DType dtype, int64_t rows, int64_t cols, Device device = Device::kNull) {
    return View(nullptr, dtype, device, {rows, cols});
  };
  const View y = view(DType::kF32, 5, 16), x = view(DType::kF32, 5, 8);
  const View w = view(DType::kF8E4M3, 16, 8);
  Context ctx(Device::kNull);
  const auto refused = [&](const Fp8Linear& a, const char* part, ErrorKind kind) {
    expect_error([&] { fp8_linear(ctx, a); }, {part}, kind);
  };
  const Fp8Linear good{.y = y, .x = x, .w = w, .input_scale = 0.1f, .weight_scale = 0.01f};
  const auto with = [&](auto change) {
    Fp8Linear a = good;
    change(a);
    return a;
  };
  fp8_linear(ctx, good);
  EXPECT_EQ(ctx.work().at("fp8_linear").flops, 2.0 * 5 * 16 * 8);
  EXPECT_EQ(ctx.work().at("fp8_linear").bytes, 4.0 * 5 * 16 + 4.0 * 5 * 8 + 16 * 8);
  constexpr ErrorKind kRun = ErrorKind::kRuntime, kIn = ErrorKind::kInput;
  refused(with([&](auto& a) { a.x = view(DType::kF32, 5, 9); }), "x is [5,9] f32 null, needs [5,8]",
          kRun);
  refused(with([&](auto& a) { a.w = view(DType::kU8, 16, 8); }),
          "w is [16,8] u8 null, needs f8_e4m3", kRun);
  refused(with([&](auto& a) { a.x = view(DType::kF16, 5, 8); }), "off the CPU bf16", kRun);
  refused(with([&](auto& a) { a.y = view(DType::kBF16, 5, 16), a.accumulate = true; }), "needs f32",
          kRun);
  refused(with([](auto& a) { a.input_scale = 0; }), "input_scale is 0", kIn);
  refused(with([](auto& a) { a.weight_scale = -1; }), "weight_scale is -1", kIn);
  refused(with([](auto& a) { a.weight_scale = NAN; }), "weight_scale is nan", kIn);
  refused(with([](auto& a) { a.input_scale = a.weight_scale = 1e-30f; }), "is no normal f32", kIn);
  Context cpu(Device::kCpu);
  const View low = view(DType::kBF16, 5, 8, Device::kCpu);
  expect_error(
      [&] {
        fp8_quantize(cpu,
                     {.codes = view(DType::kF8E4M3, 5, 8, Device::kCpu), .x = low, .scale = 1});
      },
      {"fp8_quantize: x is [5,8] bf16 cpu"}, kRun);
  expect_error(
      [&] { fp8_quantize(ctx, {.codes = view(DType::kF8E4M3, 5, 9), .x = x, .scale = 1}); },
      {"codes are [5,9]"}, kRun);
}

}  // namespace
}  // namespace nestling
