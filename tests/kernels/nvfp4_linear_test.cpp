#include "kernels/ops/nvfp4_linear.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <limits>

#include "data/safetensors.h"
#include "kernels/cuda/device_info.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/nvfp4_operands.h"
#include "tests/support/soil.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// Whether codes of whole pieces are multiplied as they are; others become bf16.
bool card_has_fp4() {
  return cuda::device_info().capability_major >= 10;
}

constexpr float kInputScale = 0.0013f, kWeightScale = 0.00021f;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// -3 .. 3 with a 3 in every block: scales of blocks are powers of two where those of tensors are, and small sums
// exact in the bits a card keeps.
Mat<double> random_whole(Rng& rng, int64_t rows, int64_t cols) {
  Mat<double> m(rows, cols);
  for (auto& x : m.v) x = static_cast<double>(rng.below(7)) - 3.0;
  for (int64_t b = 0; b < m.size(); b += 16) m[b + static_cast<int64_t>(rng.below(16))] = 3.0;
  return m;
}
Mat<double> random_weight(Rng& rng, int64_t rows, int64_t cols) {
  return random_mat(rng, rows, cols, 0.1);  // the largest beyond 2688 kWeightScale = 0.56
}

// Of the sums: f32 on the CPU; on a card 14 bits, those of Hopper, as NVIDIA states none. As in linear_test a sum of
// K products errs by about sqrt(K) of them, relative to |x| |w|.
double sum_bound(Device device, const reference::Nvfp4& x, const reference::Nvfp4& w,
                 double scales = double{kInputScale} * double{kWeightScale}) {
  const double each = device == Device::kCpu ? kEps32 : 0x1.0p-13;
  return std::sqrt(static_cast<double>(w.codes.cols)) * each * scales *
         norm(reference::nvfp4_values(x)) * norm(reference::nvfp4_values(w));
}
// Of the product of the scales, of a sum times it, and of adding to what is there.
constexpr double kScaling = 3 * kEps32;

struct Shape {
  int64_t t, k, n;
};
class Nvfp4LinearOn : public ::testing::TestWithParam<std::tuple<Kind, Shape>> {};

TEST_P(Nvfp4LinearOn, MatchesTheReference) {
  const auto [kind, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Rng rng(3, static_cast<uint64_t>(s.k));
  const auto raw = random_mat(rng, s.t, s.k, 1.5);  // some beyond 2688 input_scale = 3.5
  const auto x = half ? rounded(raw) : raw;
  const auto w = reference::nvfp4_of(random_weight(rng, s.n, s.k), kWeightScale);
  Context ctx(device);
  soil(ctx);
  Guarded x32(device, x, 3), y32(device, s.t, s.n, device == Device::kCpu ? 3 : 4);
  GuardedHalf x16(device, x, 3), y16(device, s.t, s.n, 8);
  GuardedNvfp4 gw(device, w, kWeightScale);
  Nvfp4Linear a{.y = half ? y16.view() : y32.view(),
                .x = half ? x16.view() : x32.view(),
                .w = gw.view(),
                .input_scale = kInputScale};
  nvfp4_linear(ctx, a);
  ctx.synchronize();
  auto want = reference::nvfp4_linear(x, w, kInputScale, kWeightScale);
  const double bound = sum_bound(device, reference::nvfp4_of(x, kInputScale), w);
  const auto first = half ? y16.read() : y32.read();
  expect_close("y", first, want, kScaling + (half ? kEpsHalf : 0.0), bound);
  nvfp4_linear(ctx, a);
  ctx.synchronize();
  EXPECT_EQ((half ? y16.read() : y32.read()).v, first.v) << "the second time";
  if (!half) {
    a.accumulate = true;
    nvfp4_linear(ctx, a);
    ctx.synchronize();
    for (auto& v : want.v) v *= 2;
    expect_close("y +=", y32.read(), want, kScaling, 2 * bound);
  }
  y32.expect_guards_intact("y");
  y16.expect_guards_intact("y");
}

// Sums of whole numbers show every misplaced, left out or doubled term, however few bits a card keeps: products
// of -3 .. 3 deviate by 4, and of the longest sums 8 deviations are 8 4 sqrt(2112), less than 2^11. In shorter rows
// blocks are 1, 2, 4 or 8 times as large, so that a scale read from another's place shows: their squares are 21 in
// the mean, and 8 deviations 8 4 21 sqrt(320), less than 2^14.
TEST_P(Nvfp4LinearOn, WholeNumbersAreExact) {
  const auto [kind, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Rng rng(5, static_cast<uint64_t>(s.k));
  auto x = random_whole(rng, s.t, s.k);
  auto w = random_whole(rng, s.n, s.k);
  if (s.k <= 320)
    for (Mat<double>* m : {&x, &w})
      for (int64_t b = 0; b < m->size(); b += 16) {
        const auto by = static_cast<double>(int64_t{1} << rng.below(4));
        for (int64_t i = b; i < b + 16; ++i) (*m)[i] *= by;
      }
  const auto codes = reference::nvfp4_of(w, 0.25f);
  Context ctx(device);
  soil(ctx);
  Guarded x32(device, x, 4), y32(device, s.t, s.n, 4);
  GuardedHalf x16(device, x, 8);
  GuardedNvfp4 gw(device, codes, 0.25f, 32);
  nvfp4_linear(
      ctx,
      {.y = y32.view(), .x = half ? x16.view() : x32.view(), .w = gw.view(), .input_scale = 0.5f});
  ctx.synchronize();
  const auto got = y32.read();
  for (int64_t t = 0; t < s.t; ++t)
    for (int64_t n = 0; n < s.n; ++n) {
      double want = 0;
      for (int64_t k = 0; k < s.k; ++k) want += x(t, k) * w(n, k);
      ASSERT_EQ(got(t, n), want) << t << "," << n;
    }
  y32.expect_guards_intact("y");
}

std::string shape_name(const ::testing::TestParamInfo<std::tuple<Kind, Shape>>& test) {
  const auto& [kind, s] = test.param;
  return str(kind_name(kind), "_", s.t, "x", s.k, "x", s.n);
}
// What cuBLASLt takes no codes of, most of it. On the CPU the first is two blocks of the weight; after it, codes read as
// they are.
constexpr Shape kOddShapes[] = {{5, 2112, 1000}, {1, 16, 1},   {1, 48, 50},    {3, 16, 7},
                                {1, 128, 9},     {2, 144, 11}, {3, 240, 6},    {4, 2112, 5},
                                {17, 48, 65},    {70, 96, 1},  {129, 144, 70}, {48, 16, 40}};
// Tiles of scales: 128 rows, 64 columns.
constexpr Shape kShapes[] = {{1, 32, 8},    {3, 64, 24},    {17, 96, 40}, {70, 192, 16},
                             {129, 160, 8}, {33, 2112, 72}, {5, 64, 136}, {150, 320, 264}};
INSTANTIATE_TEST_SUITE_P(Odd, Nvfp4LinearOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::ValuesIn(kOddShapes)),
                         shape_name);
INSTANTIATE_TEST_SUITE_P(All, Nvfp4LinearOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::ValuesIn(kShapes)),
                         shape_name);
// In f32 a row of y is whole 16 bytes at multiples of 4.
INSTANTIATE_TEST_SUITE_P(Four, Nvfp4LinearOn,
                         ::testing::Combine(::testing::Values(Kind{Device::kCuda, false}),
                                            ::testing::Values(Shape{5, 64, 4}, Shape{19, 96, 36})),
                         shape_name);

class Nvfp4LinearDevice : public ::testing::TestWithParam<Device> {
 protected:
  static Mat<double> run(Device device, ConstView x, const Nvfp4& w, float input_scale) {
    Context ctx(device);
    soil(ctx);
    Guarded y(device, x.dim(0), w.rows(), 4);
    nvfp4_linear(ctx, {.y = y.view(), .x = x, .w = w, .input_scale = input_scale});
    ctx.synchronize();
    y.expect_guards_intact("y");
    return y.read();
  }
};

// What a larger model holds beside the prefix is not read: there all is NaN. cuBLASLt may take another
// algorithm for another pitch, so that on a card only exact sums are the same bits.
TEST_P(Nvfp4LinearDevice, PrefixIsTheStandAloneCut) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Rng rng(7);
  for (const int64_t k : {32, 96, 48, 128})
    for (const bool whole : {true, false}) {
      const int64_t n = 136;
      auto x = whole ? random_whole(rng, 21, 160) : random_mat(rng, 21, 160);
      const auto w = whole ? random_whole(rng, 200, 160) : random_weight(rng, 200, 160);
      const float scale = whole ? 0.25f : kWeightScale;
      auto parent = reference::nvfp4_of(w, scale);
      const auto cut = reference::nvfp4_of(corner(w, n, k), scale);
      EXPECT_EQ(corner(parent.codes, n, k).v, cut.codes.v);
      EXPECT_EQ(corner(parent.scales, n, k / 16).v, cut.scales.v);
      for (int64_t r = 0; r < 200; ++r)
        for (int64_t b = 0; b < 10; ++b)
          if (r >= n || b >= k / 16) parent.scales(r, b) = 0x7f;
      const auto x_cut = corner(x, 21, k);
      for (int64_t t = 0; t < 21; ++t) x(t, k) = kNan;
      Guarded gx(device, x), gx_cut(device, x_cut);
      GuardedNvfp4 gw(device, parent, scale), gw_cut(device, cut, scale, 0);
      const float by = whole ? 0.5f : kInputScale;
      const auto stands = run(device, gx_cut.view(), gw_cut.view(), by);
      const auto prefix =
          run(device, gx.view().prefix(1, k), gw.view().prefix(1, k).prefix(0, n), by);
      if (whole || device == Device::kCpu)
        EXPECT_EQ(prefix.v, stands.v);
      else
        expect_close("prefix", prefix, stands, kScaling,
                     2 * sum_bound(device, reference::nvfp4_of(x_cut, by), cut));
    }
}

// W = 1: y is what x becomes, times the scale of w.
TEST_P(Nvfp4LinearDevice, SaturatesAndKeepsZerosAndSmallBlocks) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  const double inf = std::numeric_limits<double>::infinity();
  Mat<double> one(32, 32), x(3, 32);
  for (int64_t i = 0; i < 32; ++i) one(i, i) = 6.0;
  const double row[] = {inf, -inf, 3000, -1344, 1343.9, 112, 111, 0};
  const double want[] = {2688, -2688, 2688, -1344, 1344, 0, 0, 0};
  const double small[] = {0x1p-9, -0x1p-10, 0x1p-11, 0x1.8p-10, -1e-30};
  const double want_small[] = {0x1p-9, -0x1p-10, 0, 0x1p-9, 0};  // 0.75 is a tie, and becomes 1
  for (int64_t i = 0; i < std::ssize(row); ++i) x(1, i) = row[i];
  for (int64_t i = 0; i < std::ssize(small); ++i) x(1, 16 + i) = small[i];
  Guarded gx(device, x);
  GuardedNvfp4 gw(device, reference::nvfp4_of(one, 0.25f), 0.25f);
  const auto y = run(device, gx.view(), gw.view(), 1.0f);
  for (int64_t i = 0; i < 32; ++i) {
    EXPECT_EQ(y(0, i), 0.0);
    const int64_t j = i % 16;
    if (i < 16)
      EXPECT_EQ(y(1, i), j < std::ssize(want) ? 6 * want[j] : 0.0) << i;
    else
      EXPECT_EQ(y(1, i), j < std::ssize(want_small) ? 6 * want_small[j] : 0.0) << i;
  }
}

TEST_P(Nvfp4LinearDevice, NanStaysInItsRowAndItsColumn) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Rng rng(9);
  auto x = random_mat(rng, 7, 64);
  auto w = random_weight(rng, 12, 64);
  x(2, 5) = w(4, 62) = kNan;
  Guarded gx(device, x);
  GuardedNvfp4 gw(device, reference::nvfp4_of(w, kWeightScale), kWeightScale);
  const auto y = run(device, gx.view(), gw.view(), kInputScale);
  for (int64_t t = 0; t < 7; ++t)
    for (int64_t n = 0; n < 12; ++n)
      EXPECT_EQ(std::isnan(y(t, n)), t == 2 || n == 4) << t << "," << n;
}

TEST_P(Nvfp4LinearDevice, NoTokensIsNoWork) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Context ctx(device);
  Tensor x(device, DType::kF32, {0, 32}), y(device, DType::kF32, {0, 8});
  Tensor w(device, DType::kU8, {8, 16}), w_scales(device, DType::kF8E4M3, {8, 2});
  Tensor codes(device, DType::kU8, {0, 16}), scales(device, DType::kF8E4M3, {0, 2});
  nvfp4_linear(ctx, {.y = y, .x = x, .w = {w.view(), w_scales.view(), 1.0f}, .input_scale = 1.0f});
  nvfp4_quantize(ctx, {.codes = codes, .scales = scales, .x = x, .scale = 1.0f});
  ctx.synchronize();
}

// tests/golden/nvfp4.py: a product in float64, by ml_dtypes' E2M1 and E4M3.
TEST_P(Nvfp4LinearDevice, Golden) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  const char* root = std::getenv("NESTLING_SOURCE_DIR");
  const SafetensorsFile file(std::filesystem::path(root != nullptr ? root : ".") /
                             "tests/golden/ops/nvfp4.safetensors");
  const auto on_device = [&](const char* name) {
    const ConstView from = file.at(name).view();
    Tensor to(device, from.dtype(), {from.dim(0), from.dim(1)});
    copy(to.view(), from);
    return to;
  };
  const Tensor x = on_device("act"), weight = on_device("weight");
  const Tensor scales = on_device("weight_scale");
  const auto number = [&](const char* name) { return file.at(name).view().ptr<float>()[0]; };
  const int64_t n = weight.view().dim(0);
  const Nvfp4 w{.codes = weight.view(), .scales = scales.view(), .scale = number("weight_scale_2")};
  const auto y = run(device, x.view(), w, number("input_scale"));
  const auto values = [&](const char* name) {
    const ConstView from = file.at(name).view();
    Mat<double> m(from.dim(0), from.dim(1));
    for (int64_t i = 0; i < m.size(); ++i)
      m[i] = from.dtype() == DType::kF64 ? from.ptr<double>()[i] : double{from.ptr<float>()[i]};
    return m;
  };
  const auto codes = reference::nvfp4_of(values("act"), number("input_scale"));
  const auto w_codes = reference::nvfp4_of(values("x"), w.scale);
  const double scales_of_tensors = double{number("input_scale")} * double{w.scale};
  expect_close("y", y, corner(values("y"), y.rows, n), kScaling,
               sum_bound(device, codes, w_codes, scales_of_tensors));
}

std::string device_case(const ::testing::TestParamInfo<Device>& test) {
  return device_name(test.param);
}
INSTANTIATE_TEST_SUITE_P(All, Nvfp4LinearDevice, ::testing::Values(Device::kCpu, Device::kCuda),
                         device_case);

// Operands of which codes are multiplied, and the same at other places, which become bf16.
class Nvfp4LinearCard : public ::testing::TestWithParam<Device> {};

TEST_P(Nvfp4LinearCard, BothWaysAgree) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Rng rng(13);
  for (const bool whole : {true, false}) {
    const auto x = whole ? random_whole(rng, 19, 160) : random_mat(rng, 19, 160, 1.5);
    const float scale = whole ? 0.25f : kWeightScale, by = whole ? 0.5f : kInputScale;
    const auto w = reference::nvfp4_of(
        whole ? random_whole(rng, 40, 160) : random_weight(rng, 40, 160), scale);
    GuardedNvfp4 pieces(device, w, scale, 16), odd(device, w, scale, 3);
    Guarded gx(device, x, 3);
    Context ctx(device);
    const auto product = [&](const Nvfp4& codes, int64_t gap) {
      Guarded y(device, x.rows, w.codes.rows, gap);
      nvfp4_linear(ctx, {.y = y.view(), .x = gx.view(), .w = codes, .input_scale = by});
      ctx.synchronize();
      y.expect_guards_intact("y");
      return y.read();
    };
    const auto want = product(pieces.view(), 4);
    for (const auto& got : {product(odd.view(), 4), product(pieces.view(), 3)}) {
      if (whole)
        EXPECT_EQ(got.v, want.v);
      else
        expect_close("y", got, want, kScaling,
                     2 * sum_bound(device, reference::nvfp4_of(x, by), w));
    }
  }
}

// Codes of x and tiles of scales, or what bf16 takes: the larger of both is what a rehearsal does.
TEST_P(Nvfp4LinearCard, TakesScratchForTheWayItGoes) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  Context real(device);
  const auto peak = [](Context&& ctx, int64_t n, int64_t k, int64_t begin, int64_t y_begin) {
    const Device on = ctx.device();
    const Tensor x(on, DType::kF32, {64, k}), w(on, DType::kU8, {n, 128});
    const Tensor scales(on, DType::kF8E4M3, {n, k / 16});
    Tensor y(on, DType::kF32, {64, n + 16});
    const Nvfp4 weight{w.view().slice(1, begin, k / 2), scales.view(), 1.0f};
    nvfp4_linear(ctx,
                 {.y = y.view().slice(1, y_begin, n), .x = x, .w = weight, .input_scale = 1.0f});
    ctx.synchronize();
    return ctx.scratch().peak_bytes();
  };
  const auto real_peak = [&](int64_t n, int64_t k, int64_t begin = 0, int64_t y_begin = 0) {
    const int64_t rehearsed = peak(Context::rehearsal_of(real), n, k, begin, y_begin);
    const int64_t taken = peak(Context(device), n, k, begin, y_begin);
    EXPECT_GE(rehearsed, taken) << n << "," << k << "," << begin << "," << y_begin;
    return taken;
  };
  const int64_t codes = 64 * 64 + 2 * 128 * 8, values = 2 * (64 * 128 + 32 * 128);
  EXPECT_EQ(real_peak(32, 128), card_has_fp4() ? codes : values);
  EXPECT_EQ(real_peak(32, 128, 8), values);            // w begins elsewhere
  EXPECT_EQ(real_peak(32, 128, 0, 2), values);         // y does
  EXPECT_EQ(real_peak(30, 128), 2 * (64 + 30) * 128);  // its rows are no whole pieces
  EXPECT_EQ(real_peak(32, 112), 2 * (64 + 32) * 112);  // nor those of w
}

// Rows of the weights in blocks of 64: each of its own value, in the one column that x has.
TEST_P(Nvfp4LinearCard, MakesBlocksOfTheWeightOneAfterAnother) {
  const Device device = GetParam();
  NESTLING_SKIP_WITHOUT(device, Nvfp4Linear);
  const int64_t n = 199, k = int64_t{9} << 14, at = k - 3;
  Tensor host(Device::kCpu, DType::kU8, {n, k / 2}), host_x(Device::kCpu, DType::kF32, {2, k});
  Tensor host_scales(Device::kCpu, DType::kF8E4M3, {n, k / 16});
  const auto code = [](int64_t r) { return static_cast<int>(r % 15 + 1); };
  const auto scale = [](int64_t r) { return static_cast<int>(r % 126 + 1); };
  for (int64_t r = 0; r < n; ++r) {
    std::memset(host.view().data() + r * k / 2, code(r) * 0x11, static_cast<size_t>(k / 2));
    std::memset(host_scales.view().data() + r * k / 16, scale(r), static_cast<size_t>(k / 16));
  }
  host_x.view().ptr<float>()[k + at] = 6.0f;
  Tensor w(device, DType::kU8, {n, k / 2}), x(device, DType::kF32, {2, k});
  Tensor scales(device, DType::kF8E4M3, {n, k / 16});
  copy(w.view(), host.view());
  copy(scales.view(), host_scales.view());
  copy(x.view(), host_x.view());
  Guarded y(device, 2, n, 4);
  Context ctx(device);
  nvfp4_linear(ctx,
               {.y = y.view(), .x = x, .w = {w.view(), scales.view(), 1.0f}, .input_scale = 1.0f});
  ctx.synchronize();
  const auto got = y.read();
  for (int64_t r = 0; r < n; ++r) {
    EXPECT_EQ(got(0, r), 0.0);
    EXPECT_EQ(got(1, r), 6 * reference::e2m1_value(code(r)) * reference::e4m3_value(scale(r))) << r;
  }
  y.expect_guards_intact("y");
}
INSTANTIATE_TEST_SUITE_P(All, Nvfp4LinearCard, ::testing::Values(Device::kCuda), device_case);

// One to four rows are multiplied with codes read as they are.
Mat<double> few_rows(const Mat<double>& x, const reference::Nvfp4& w, float scale = 1.0f) {
  Context ctx(Device::kCpu);
  soil(ctx);
  Guarded gx(Device::kCpu, x, 3), y(Device::kCpu, x.rows, w.codes.rows, 3);
  GuardedNvfp4 gw(Device::kCpu, w, 1.0f, 3);
  nvfp4_linear(ctx, {.y = y.view(), .x = gx.view(), .w = gw.view(), .input_scale = scale});
  y.expect_guards_intact("y");
  return y.read();
}

// Each byte of codes and each scale that there is, NaN among them, in every place of a row.
TEST(Nvfp4LinearFewRows, ReadEveryCodeAndScaleInEveryPlace) {
  for (const int64_t k : {16, 128, 272}) {
    reference::Nvfp4 w{Mat<int>(256, k), Mat<int>(256, k / 16)};
    for (int64_t n = 0; n < 256; ++n) {
      for (int64_t i = 0; i < k; ++i)
        w.codes(n, i) = static_cast<int>((n + i / 2) % 256 >> (i % 2 * 4) & 15);
      for (int64_t b = 0; b < k / 16; ++b) w.scales(n, b) = static_cast<int>((n + b) % 128);
    }
    const auto values = reference::nvfp4_values(w);
    for (int64_t first = 0; first < k; first += 4) {
      Mat<double> x(4, k);  // a block of one 6 has the scale 1, and all others are zeros
      for (int64_t t = 0; t < 4; ++t) x(t, first + t) = t % 2 == 0 ? 6.0 : -6.0;
      const auto y = few_rows(x, w);
      for (int64_t n = 0; n < 256; ++n) {
        bool nan = false;
        for (int64_t b = 0; b < k / 16; ++b) nan = nan || w.scales(n, b) == 0x7f;
        for (int64_t t = 0; t < 4; ++t) {
          ASSERT_EQ(std::isnan(y(t, n)), nan) << k << ": " << n;
          if (nan) continue;
          ASSERT_EQ(y(t, n), x(t, first + t) * values(n, first + t)) << k << ": " << n;
        }
      }
    }
  }
}

TEST(Nvfp4LinearFewRows, AreTheSameBitsBesideOthers) {
  Rng rng(11);
  const int64_t k = 336;
  const auto x = random_mat(rng, 4, k, 1.5);
  const auto w = reference::nvfp4_of(random_weight(rng, 70, k), kWeightScale);
  const auto part = [](const auto& m, int64_t first, int64_t rows) {
    auto out = corner(m, rows, m.cols);
    for (int64_t i = 0; i < out.size(); ++i) out[i] = m[first * m.cols + i];
    return out;
  };
  const auto all = few_rows(x, w, kInputScale);
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t rows = 1; t + rows <= 4; ++rows)
      EXPECT_EQ(few_rows(part(x, t, rows), w, kInputScale).v, part(all, t, rows).v);
    for (int64_t n = 0; n < 70; ++n) {
      const reference::Nvfp4 one{part(w.codes, n, 1), part(w.scales, n, 1)};
      ASSERT_EQ(few_rows(part(x, t, 1), one, kInputScale)[0], all(t, n));
    }
  }
}

View null_view(DType dtype, int64_t rows, int64_t cols, Device device = Device::kNull) {
  return View(nullptr, dtype, device, {rows, cols});
}

TEST(Nvfp4LinearContract, NamesWhatDoesNotFit) {
  const View y = null_view(DType::kF32, 5, 16), x = null_view(DType::kF32, 5, 48);
  const View codes = null_view(DType::kU8, 16, 24), scales = null_view(DType::kF8E4M3, 16, 3);
  Context ctx(Device::kNull);
  const Nvfp4Linear good{.y = y, .x = x, .w = {codes, scales, 0.01f}, .input_scale = 0.1f};
  nvfp4_linear(ctx, good);
  EXPECT_EQ(ctx.work().at("nvfp4_linear").flops, 2.0 * 5 * 16 * 48);
  EXPECT_EQ(ctx.work().at("nvfp4_linear").bytes, 4.0 * 5 * 16 + 4.0 * 5 * 48 + 16 * 24 + 16 * 3);
  const auto refused = [&](auto change, const char* part, ErrorKind kind = ErrorKind::kRuntime) {
    Nvfp4Linear a = good;
    change(a);
    expect_error([&] { nvfp4_linear(ctx, a); }, {"nvfp4_linear: ", part}, kind);
  };
  constexpr ErrorKind kIn = ErrorKind::kInput;
  refused([](auto& a) { a.x = null_view(DType::kF32, 5, 32); },
          "x is [5,32] f32 null, needs [5,48]");
  refused([](auto& a) { a.w.codes = null_view(DType::kF8E4M3, 16, 24); },
          "codes is [16,24] f8_e4m3 null, needs u8");
  refused([](auto& a) { a.w.scales = null_view(DType::kU8, 16, 3); },
          "scales is [16,3] u8 null, needs f8_e4m3");
  refused([](auto& a) { a.w.scales = null_view(DType::kF8E4M3, 16, 4); },
          "scales is [16,4] f8_e4m3 null, needs [16,3]");
  refused([](auto& a) { a.w.codes = null_view(DType::kU8, 16, 20); },
          "40 columns are no whole blocks of 16");
  refused([](auto& a) { a.x = null_view(DType::kF16, 5, 48); }, "off the CPU bf16");
  refused([](auto& a) { a.y = null_view(DType::kBF16, 5, 16), a.accumulate = true; }, "needs f32");
  refused([](auto& a) { a.input_scale = 0; }, "input_scale is 0", kIn);
  refused([](auto& a) { a.w.scale = -1; }, "the scale of w is -1", kIn);
  refused([](auto& a) { a.w.scale = NAN; }, "the scale of w is nan", kIn);
  refused([](auto& a) { a.input_scale = 1e-36f; }, "its 512th part a normal f32", kIn);
  refused([](auto& a) { a.input_scale = 1e36f; }, "2688 times it finite", kIn);
  refused([](auto& a) { a.input_scale = a.w.scale = 1e-30f; }, "is no normal f32", kIn);
}

TEST(Nvfp4LinearContract, QuantizeAndPrefixesTakeWholeBlocks) {
  const View codes = null_view(DType::kU8, 16, 24), scales = null_view(DType::kF8E4M3, 16, 3);
  Context ctx(Device::kNull);
  const auto refused = [&](Context& on, ConstView x, View to, const char* part) {
    expect_error(
        [&] { nvfp4_quantize(on, {.codes = to, .scales = scales, .x = x, .scale = 1.0f}); },
        {"nvfp4_quantize: ", part}, ErrorKind::kRuntime);
  };
  refused(ctx, null_view(DType::kF32, 16, 40), codes, "40 columns are no whole blocks of 16");
  refused(ctx, null_view(DType::kF32, 16, 32), codes, "codes is [16,24] u8 null, needs [16,16]");
  Context cpu(Device::kCpu);
  refused(cpu, null_view(DType::kBF16, 16, 48, Device::kCpu), codes, "x is [16,48] bf16 cpu");
  const Nvfp4 w{codes, scales, 0.5f};
  const Nvfp4 small = w.prefix(0, 3).prefix(1, 32);
  EXPECT_EQ(small.codes.describe(), "[3,16] u8 null");
  EXPECT_EQ(small.scales.describe(), "[3,2] f8_e4m3 null");
  EXPECT_EQ(small.scale, 0.5f);
  expect_error([&] { static_cast<void>(w.prefix(1, 24)); },
               {"24 columns of NVFP4 are no whole blocks of 16"}, ErrorKind::kRuntime);
}

}  // namespace
}  // namespace nestling
