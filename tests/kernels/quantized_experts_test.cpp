#include "kernels/ops/quantized_experts.h"

#include <gtest/gtest.h>
#include <limits>

#include "kernels/core/parallel.h"
#include "kernels/cuda/quantized_experts.h"
#include "kernels/ops/fp8_linear.h"
#include "tests/support/device.h"
#include "tests/support/expect_error.h"
#include "tests/support/expert_codes.h"
#include "tests/support/soil.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

constexpr float kInputScale = 0.0013f;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// `gap`: bytes behind a row of codes. Rows of y have 3 elements more, or where `aligned` 8.
struct Shape {
  int64_t rows, experts, k, n;
  int64_t gap = 3;
  bool aligned() const { return gap % 16 == 0; }
  int64_t y_gap() const { return aligned() ? 8 : 3; }
};

// Half of all rows to one expert, none to the last of several.
std::vector<int> random_offsets(Rng& rng, int64_t rows, int64_t experts) {
  std::vector<int> offsets(static_cast<size_t>(experts) + 1);
  const int64_t open = std::max<int64_t>(1, experts - 1);
  for (int64_t r = 0; r < rows; ++r) {
    const auto e = rng.below(2) == 0 ? open / 2 : static_cast<int64_t>(rng.below(open));
    ++offsets[static_cast<size_t>(e) + 1];
  }
  for (size_t e = 0; e + 1 < offsets.size(); ++e) offsets[e + 1] += offsets[e];
  return offsets;
}

// Scales differ by more than a rounding from expert to expert; the largest weights are beyond the largest codes.
ExpertCodes random_experts(Rng& rng, CodeFormat format, const Shape& s) {
  ExpertCodes w{.format = format, .fp8 = {}, .nvfp4 = {}, .scales = {}, .offsets = {}};
  w.offsets = random_offsets(rng, s.rows, s.experts);
  for (int64_t e = 0; e < s.experts; ++e) {
    const float scale = 0.00021f * static_cast<float>(e % 7 + 1);
    const double largest = double{scale} * (format == CodeFormat::kFp8 ? 448 : 2688);
    w.add(random_mat(rng, s.n, s.k, largest / 3), scale);
  }
  return w;
}

// -3 .. 3 with a 3 in every block of 16: by scales that are powers of two all is exact.
Mat<double> random_whole(Rng& rng, int64_t rows, int64_t cols) {
  Mat<double> m(rows, cols);
  for (auto& x : m.v) x = static_cast<double>(rng.below(7)) - 3.0;
  for (int64_t b = 0; b + 16 <= m.size(); b += 16) m[b + static_cast<int64_t>(rng.below(16))] = 3.0;
  return m;
}
ExpertCodes whole_experts(Rng& rng, CodeFormat format, const Shape& s) {
  ExpertCodes w{.format = format, .fp8 = {}, .nvfp4 = {}, .scales = {}, .offsets = {}};
  w.offsets = random_offsets(rng, s.rows, s.experts);
  for (int64_t e = 0; e < s.experts; ++e) {
    const float by = static_cast<float>(1 << e % 3);
    auto m = random_whole(rng, s.n, s.k);
    for (auto& x : m.v) x *= by;
    w.add(m, 0.25f * by);
  }
  return w;
}

// As in experts_test a sum of K products errs by about sqrt(K) roundings, relative to |v_x| |v_w|; all products are
// exact. Of several experts their errors add in squares.
double sum_bound(const Mat<double>& x, const ExpertCodes& w) {
  double squares = 0;
  for (size_t e = 0; e < w.scales.size(); ++e) {
    const auto rows = reference::rows_between(x, w.offsets[e], w.offsets[e + 1]);
    const double size =
        norm(w.values_of(rows, kInputScale)) * norm(w.values(e)) * double{w.scales[e]};
    squares += size * size;
  }
  return std::sqrt(static_cast<double>(w.k()) * squares) * kEps32 * double{kInputScale};
}
// Of the product of the scales, and of a sum times it.
constexpr double kScaling = 2 * kEps32;

Mat<double> run(Device device, const ExpertCodes& w, const Mat<double>& x, float input_scale,
                int64_t gap = 0, int64_t y_gap = 4) {
  Context ctx(device);
  soil(ctx);
  Guarded gx(device, x), y(device, x.rows, w.n(), y_gap);
  ExpertStack stack(device, w, gap);
  quantized_expert_linear(ctx, stack.operands(y.view(), gx.view(), input_scale));
  ctx.synchronize();
  y.expect_guards_intact("y");
  return y.read();
}

class QuantizedExpertsOn : public ::testing::TestWithParam<std::tuple<Kind, CodeFormat, Shape>> {};

TEST_P(QuantizedExpertsOn, MatchesTheReference) {
  const auto [kind, format, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, QuantizedExpertLinear);
  Rng rng(3, static_cast<uint64_t>(s.k));
  const ExpertCodes w = random_experts(rng, format, s);
  const double largest = double{kInputScale} * (format == CodeFormat::kFp8 ? 448 : 2688);
  const auto raw = random_mat(rng, s.rows, s.k, largest / 2);  // some beyond the largest code
  const auto x = half ? rounded(raw) : raw;
  Context ctx(device);
  soil(ctx);
  Guarded x32(device, x, 3), y32(device, s.rows, s.n, s.y_gap());
  GuardedHalf x16(device, x, 3), y16(device, s.rows, s.n, s.y_gap());
  ExpertStack stack(device, w, s.gap);
  const auto a =
      stack.operands(half ? y16.view() : y32.view(), half ? x16.view() : x32.view(), kInputScale);
  quantized_expert_linear(ctx, a);
  ctx.synchronize();
  const auto first = half ? y16.read() : y32.read();
  expect_close("y", first, w.product(x, kInputScale), kScaling + (half ? kEpsHalf : 0.0),
               sum_bound(x, w));
  quantized_expert_linear(ctx, a);
  ctx.synchronize();
  EXPECT_EQ((half ? y16.read() : y32.read()).v, first.v) << "the second time";
  y32.expect_guards_intact("y");
  y16.expect_guards_intact("y");
}

// Sums of whole numbers show every misplaced, left out or doubled term, and every scale of another expert or block.
TEST_P(QuantizedExpertsOn, WholeNumbersAreExact) {
  const auto [kind, format, s] = GetParam();
  const auto [device, half] = kind;
  NESTLING_SKIP_WITHOUT(device, QuantizedExpertLinear);
  Rng rng(5, static_cast<uint64_t>(s.k));
  const ExpertCodes w = whole_experts(rng, format, s);
  const auto x = random_whole(rng, s.rows, s.k);
  Context ctx(device);
  soil(ctx);
  Guarded y(device, s.rows, s.n, s.y_gap());
  Guarded x32(device, x, s.y_gap());
  GuardedHalf x16(device, x, s.y_gap());
  ExpertStack stack(device, w, s.gap);
  quantized_expert_linear(ctx, stack.operands(y.view(), half ? x16.view() : x32.view(), 0.5f));
  ctx.synchronize();
  EXPECT_EQ(y.read().v, w.product(x, 0.5f).v);
  y.expect_guards_intact("y");
}

std::string shape_name(const ::testing::TestParamInfo<std::tuple<Kind, CodeFormat, Shape>>& test) {
  const auto& [kind, format, s] = test.param;
  return str(kind_name(kind), "_", format_name(format), "_", s.rows, "of", s.experts, "_", s.k, "x",
             s.n, s.aligned() ? "_aligned" : "");
}
constexpr CodeFormat kFormats[] = {CodeFormat::kFp8, CodeFormat::kNvfp4};
// Few rows an expert and many, more than a piece of the CPU's has, in rows that start anywhere and in aligned ones; one
// with several blocks of columns, one with more experts than a warp has lanes.
constexpr Shape kShapes[] = {{1, 1, 16, 1},        {7, 3, 48, 5},        {5, 4, 32, 8, 16},
                             {70, 3, 96, 40, 16},  {90, 40, 48, 12, 16}, {330, 3, 272, 136, 32},
                             {620, 2, 32, 24, 16}, {300, 4, 80, 50},     {6, 5, 2112, 130, 16},
                             {40, 2, 48, 33},      {200, 3, 144, 65, 16}};
INSTANTIATE_TEST_SUITE_P(All, QuantizedExpertsOn,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::ValuesIn(kFormats),
                                            ::testing::ValuesIn(kShapes)),
                         shape_name);
// FP8 takes any K.
INSTANTIATE_TEST_SUITE_P(
    Odd, QuantizedExpertsOn,
    ::testing::Combine(::testing::ValuesIn(kKinds), ::testing::Values(CodeFormat::kFp8),
                       ::testing::Values(Shape{1, 1, 1, 1}, Shape{9, 4, 37, 5, 11},
                                         Shape{100, 3, 133, 72}, Shape{90, 2, 40, 24, 8})),
    shape_name);

class QuantizedExpertsDevice : public ::testing::TestWithParam<std::tuple<Device, CodeFormat>> {};

// What a larger model holds beside the prefix is not read: there all is NaN, or codes of 6. The bits do not depend on
// where y lies either, but on the CPU, where oneDNN is asked for no such thing.
TEST_P(QuantizedExpertsDevice, PrefixIsTheStandAloneCut) {
  const auto [device, format] = GetParam();
  NESTLING_SKIP_WITHOUT(device, QuantizedExpertLinear);
  for (const int64_t rows : {21, 150}) {
    Rng rng(7);
    const ExpertCodes parent = random_experts(rng, format, {rows, 4, 96, 40});
    const int64_t kept = parent.offsets[3];
    auto x = random_mat(rng, kept, 96);
    ExpertCodes outside = parent;
    const auto keep = [](int64_t e, int64_t n, int64_t k) { return e < 3 && n < 24 && k < 64; };
    for (int64_t e = 0; e < 4; ++e)
      for (int64_t n = 0; n < 40; ++n)
        for (int64_t k = 0; k < 96; ++k) {
          if (keep(e, n, k)) continue;
          const auto at = static_cast<size_t>(e);
          if (format == CodeFormat::kFp8)
            outside.fp8[at](n, k) = kNan;
          else
            outside.nvfp4[at].scales(n, k / 16) = 0x7f;
        }
    outside.scales[3] = std::numeric_limits<float>::quiet_NaN();
    const auto x_cut = corner(x, kept, 64);
    for (int64_t t = 0; t < kept; ++t) x(t, 64) = kNan;
    const auto stands = run(device, parent.cut(3, 24, 64), x_cut, kInputScale);
    Context ctx(device);
    soil(ctx);
    Guarded gx(device, x), y(device, kept, 24, device == Device::kCpu ? 4 : 3);
    ExpertStack stack(device, outside, 16);
    auto a = stack.operands(y.view(), gx.view().prefix(1, 64), kInputScale);
    a.codes = a.codes.prefix(0, 3).prefix(1, 24).prefix(2, a.block_scales ? 32 : 64);
    if (a.block_scales) a.block_scales = a.block_scales.prefix(0, 3).prefix(1, 24).prefix(2, 4);
    a.scales = a.scales.prefix(0, 3);
    a.offsets = a.offsets.prefix(0, 4);
    quantized_expert_linear(ctx, a);
    ctx.synchronize();
    EXPECT_EQ(y.read().v, stands.v) << rows << " rows";
    y.expect_guards_intact("y");
  }
}

TEST_P(QuantizedExpertsDevice, NanStaysInItsRowAndItsExpertsColumn) {
  const auto [device, format] = GetParam();
  NESTLING_SKIP_WITHOUT(device, QuantizedExpertLinear);
  Rng rng(9);
  ExpertCodes w{.format = format, .fp8 = {}, .nvfp4 = {}, .scales = {}, .offsets = {0, 3, 3, 8}};
  for (int64_t e = 0; e < 3; ++e) {
    auto m = random_mat(rng, 6, 32, 0.1);
    if (e > 0) m(4, 30) = kNan;  // the second expert has no rows
    w.add(m, 0.0003f);
  }
  auto x = random_mat(rng, 8, 32);
  x(1, 5) = kNan;
  const auto y = run(device, w, x, kInputScale, 16);
  for (int64_t r = 0; r < 8; ++r)
    for (int64_t n = 0; n < 6; ++n)
      EXPECT_EQ(std::isnan(y(r, n)), r == 1 || (r >= 3 && n == 4)) << r << "," << n;
}

TEST_P(QuantizedExpertsDevice, NoRowsIsNoWork) {
  const auto [device, format] = GetParam();
  NESTLING_SKIP_WITHOUT(device, QuantizedExpertLinear);
  Rng rng(2);
  const ExpertCodes w = random_experts(rng, format, {0, 3, 32, 8});
  EXPECT_EQ(run(device, w, Mat<double>(0, 32), kInputScale).size(), 0);
}

std::string device_name_of(const ::testing::TestParamInfo<std::tuple<Device, CodeFormat>>& test) {
  return str(device_name(std::get<0>(test.param)), "_", format_name(std::get<1>(test.param)));
}
INSTANTIATE_TEST_SUITE_P(All, QuantizedExpertsDevice,
                         ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                                            ::testing::ValuesIn(kFormats)),
                         device_name_of);

class QuantizedExpertsCuda : public ::testing::TestWithParam<CodeFormat> {};

// Of one expert, of two and of all, with few rows an expert on average and with many.
TEST_P(QuantizedExpertsCuda, BitsDoNotDependOnGroups) {
  constexpr Device kDevice = Device::kCuda;
  NESTLING_SKIP_WITHOUT(kDevice, QuantizedExpertLinear);
  for (const Shape& s : {Shape{30, 7, 64, 40, 16}, Shape{200, 5, 48, 24}}) {
    Rng rng(17);
    const ExpertCodes w = random_experts(rng, GetParam(), s);
    Guarded x(kDevice, random_mat(rng, s.rows, s.k));
    ExpertStack stack(kDevice, w, s.gap);
    std::vector<Mat<double>> found;
    for (const int64_t experts : {s.experts, int64_t{1}, int64_t{2}}) {
      Context ctx(kDevice);
      soil(ctx);
      Guarded y(kDevice, s.rows, s.n);
      cuda::quantized_expert_linear(ctx, stack.operands(y.view(), x.view(), kInputScale),
                                    2 * experts * s.n * s.k);
      ctx.synchronize();
      found.push_back(y.read());
      EXPECT_EQ(found.back().v, found.front().v) << experts << " at a time";
    }
  }
}
INSTANTIATE_TEST_SUITE_P(All, QuantizedExpertsCuda, ::testing::ValuesIn(kFormats),
                         [](const auto& test) { return format_name(test.param); });

class QuantizedExpertsCpu : public ::testing::TestWithParam<CodeFormat> {};

// The dense operator of the format on every expert's rows; the same where sums are exact.
TEST_P(QuantizedExpertsCpu, EveryExpertIsTheLinearOfItsRows) {
  const CodeFormat format = GetParam();
  for (const bool whole : {true, false}) {
    const Shape s{300, 4, 96, 70};
    Rng rng(11);
    const ExpertCodes w = whole ? whole_experts(rng, format, s) : random_experts(rng, format, s);
    const auto x = whole ? random_whole(rng, s.rows, s.k) : random_mat(rng, s.rows, s.k);
    const float input_scale = whole ? 0.5f : kInputScale;
    const auto grouped = run(Device::kCpu, w, x, input_scale);
    Context ctx(Device::kCpu);
    Guarded gx(Device::kCpu, x), y(Device::kCpu, s.rows, s.n);
    ExpertStack stack(Device::kCpu, w, 3);
    const auto a = stack.operands(y.view(), gx.view(), input_scale);
    for (size_t e = 0; e < w.scales.size(); ++e) {
      const int64_t first = w.offsets[e], count = w.offsets[e + 1] - first;
      const auto of_expert = [&](ConstView v) {
        return v.slice(0, static_cast<int64_t>(e), 1).reshape({v.dim(1), v.dim(2)});
      };
      const View to = y.view().slice(0, first, count);
      const ConstView from = a.x.slice(0, first, count);
      if (format == CodeFormat::kFp8)
        fp8_linear(ctx, {.y = to,
                         .x = from,
                         .w = of_expert(a.codes),
                         .input_scale = input_scale,
                         .weight_scale = w.scales[e]});
      else
        nvfp4_linear(ctx, {.y = to,
                           .x = from,
                           .w = {of_expert(a.codes), of_expert(a.block_scales), w.scales[e]},
                           .input_scale = input_scale});
    }
    if (whole)
      EXPECT_EQ(grouped.v, y.read().v);
    else
      expect_close("y", grouped, y.read(), kScaling, 2 * sum_bound(x, w));
  }
}

TEST_P(QuantizedExpertsCpu, BitsDoNotDependOnThreads) {
  const int before = thread_count();
  for (const Shape& s : {Shape{700, 5, 288, 330}, Shape{9, 3, 2112, 130}, Shape{40, 1, 32, 16},
                         Shape{6, 40, 272, 130}}) {
    Rng rng(13);
    const ExpertCodes w = random_experts(rng, GetParam(), s);
    const auto x = random_mat(rng, s.rows, s.k);
    set_thread_count(1);
    const auto one = run(Device::kCpu, w, x, kInputScale);
    for (const int threads : {2, 3, 7}) {
      set_thread_count(threads);
      EXPECT_EQ(run(Device::kCpu, w, x, kInputScale).v, one.v) << threads << " threads";
    }
    set_thread_count(before);
  }
}

TEST_P(QuantizedExpertsCpu, NamesOffsetsAndScalesThatAreNone) {
  const CodeFormat format = GetParam();
  Rng rng(15);
  const ExpertCodes good = random_experts(rng, format, {8, 3, 32, 4});
  const auto refused = [&](auto change, std::initializer_list<const char*> parts, ErrorKind kind) {
    ExpertCodes w = good;
    change(w);
    expect_error([&] { run(Device::kCpu, w, Mat<double>(8, 32), kInputScale); }, parts, kind);
  };
  const char* op = "quantized_expert_linear";
  refused(
      [](auto& w) {
        w.offsets = {0, 3, 2, 8};
      },
      {op, "offsets fall from 3 to 2 at expert 1"}, ErrorKind::kRuntime);
  refused(
      [](auto& w) {
        w.offsets = {0, 3, 4, 7};
      },
      {op, "offsets run from 0 to 7, needs 0 to 8"}, ErrorKind::kRuntime);
  refused([](auto& w) { w.scales[2] = NAN; }, {op, "the scale of expert 2 is nan"},
          ErrorKind::kInput);
  refused([](auto& w) { w.scales[0] = 0; }, {op, "the scale of expert 0 is 0"}, ErrorKind::kInput);
  refused([](auto& w) { w.scales[1] = 7e-36f; },
          {op, "input_scale 0.0013 times the scale of expert 1 7e-36 is no normal f32"},
          ErrorKind::kInput);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedExpertsCpu, ::testing::ValuesIn(kFormats),
                         [](const auto& test) { return format_name(test.param); });

TEST(QuantizedExpertsContract, NamesWhatDoesNotFit) {
  const auto view = [](DType dtype, std::initializer_list<int64_t> shape) {
    return View(nullptr, dtype, Device::kNull, shape);
  };
  Context ctx(Device::kNull);
  const QuantizedExpertLinear fp8{.y = view(DType::kF32, {8, 6}),
                                  .x = view(DType::kBF16, {8, 48}),
                                  .codes = view(DType::kF8E4M3, {4, 6, 48}),
                                  .block_scales = {},
                                  .scales = view(DType::kF32, {4}),
                                  .offsets = view(DType::kI32, {5}),
                                  .input_scale = 0.1f};
  QuantizedExpertLinear nvfp4 = fp8;
  nvfp4.codes = view(DType::kU8, {4, 6, 24});
  nvfp4.block_scales = view(DType::kF8E4M3, {4, 6, 3});
  const double beside = 4.0 * 8 * 6 + 2.0 * 8 * 48 + 4 * 4 + 4 * 5;
  quantized_expert_linear(ctx, fp8);
  EXPECT_EQ(ctx.work().at("quantized_expert_linear").flops, 2.0 * 8 * 6 * 48);
  EXPECT_EQ(ctx.work().at("quantized_expert_linear").bytes, beside + 4 * 6 * 48);
  ctx.reset_work();
  quantized_expert_linear(ctx, nvfp4);
  EXPECT_EQ(ctx.work().at("quantized_expert_linear").flops, 2.0 * 8 * 6 * 48);
  EXPECT_EQ(ctx.work().at("quantized_expert_linear").bytes, beside + 4 * 6 * (24 + 3));
  const auto refused = [&](const QuantizedExpertLinear& good, auto change, const char* part,
                           ErrorKind kind = ErrorKind::kRuntime) {
    QuantizedExpertLinear a = good;
    change(a);
    expect_error([&] { quantized_expert_linear(ctx, a); }, {"quantized_expert_linear: ", part},
                 kind);
  };
  refused(
      fp8,
      [&](auto& a) {
        a.codes = view(DType::kF8E4M3, {6, 48});
      },
      "need three dims");
  refused(
      fp8,
      [&](auto& a) {
        a.codes = view(DType::kBF16, {4, 6, 48});
      },
      "codes is [4,6,48] bf16 null, needs f8_e4m3");
  refused(
      fp8, [&](auto& a) { a.block_scales = nvfp4.block_scales; }, "FP8 has none");
  refused(
      nvfp4, [](auto& a) { a.block_scales = {}; }, "NVFP4 has them");
  refused(
      nvfp4,
      [&](auto& a) {
        a.block_scales = view(DType::kF8E4M3, {4, 6, 4});
      },
      "block_scales is [4,6,4] f8_e4m3 null, needs [4,6,3]");
  refused(
      nvfp4,
      [&](auto& a) {
        a.block_scales = view(DType::kU8, {4, 6, 3});
      },
      "block_scales is [4,6,3] u8 null, needs f8_e4m3");
  refused(
      nvfp4,
      [&](auto& a) {
        a.codes = view(DType::kU8, {4, 6, 20});
      },
      "40 columns are no whole blocks of 16");
  for (const auto& good : {fp8, nvfp4}) {
    refused(
        good,
        [&](auto& a) {
          a.x = view(DType::kF32, {8, 32});
        },
        "x is [8,32] f32 null, needs [8,48]");
    refused(
        good,
        [&](auto& a) {
          a.y = view(DType::kF32, {8, 7});
        },
        "y is [8,7] f32 null, needs [8,6]");
    refused(
        good, [&](auto& a) { a.scales = view(DType::kF32, {3}); },
        "scales is [3] f32 null, needs [4]");
    refused(
        good, [&](auto& a) { a.scales = {}; }, "scales [] f32 cpu, offsets [5]");
    refused(
        good, [&](auto& a) { a.offsets = view(DType::kI32, {4}); },
        "offsets is [4] i32 null, needs [5]");
    refused(
        good, [&](auto& a) { a.offsets = view(DType::kF32, {5}); },
        "offsets is [5] f32 null, needs i32");
    refused(
        good,
        [&](auto& a) {
          a.x = view(DType::kF16, {8, 48});
        },
        "off the CPU bf16");
    refused(
        good,
        [&](auto& a) {
          a.y = view(DType::kF16, {8, 6});
        },
        "off the CPU bf16");
    refused(
        good, [](auto& a) { a.input_scale = 0; }, "input_scale is 0", ErrorKind::kInput);
    refused(
        good, [&](auto& a) { a.scales = View(nullptr, DType::kF32, Device::kCpu, {4}); }, "cpu");
  }
  refused(
      nvfp4, [](auto& a) { a.input_scale = 1e36f; }, "2688 times it finite", ErrorKind::kInput);
}

}  // namespace
}  // namespace nestling
