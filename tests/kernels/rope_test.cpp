#include "kernels/ops/rope.h"

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>

#include "data/safetensors.h"
#include "kernels/reference/rope.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/half_operands.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Complex = std::complex<double>;

TEST(RopeReference, InverseIsTheComplexStepDerivative) {
  Rng rng(1);
  const auto x = random_mat(rng, 4, 9);
  const auto dy = random_mat(rng, 4, 9);
  const std::vector<float> inv_freq = {1.0f, 0.3f, 0.02f};
  const std::vector<int32_t> positions = {0, 1, 5, 1000};
  expect_gradient("dx", reference::rope(dy, inv_freq, positions, true),
                  complex_step_gradient(x, [&](const Mat<Complex>& z) {
                    const auto y = reference::rope(z, inv_freq, positions, false);
                    Complex sum = 0;
                    for (int64_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
                    return sum;
                  }));
}

enum class Cut : uint8_t { kWhole, kDocuments, kTokens };

struct Shape {
  int64_t tokens, heads, width, rotary;
  Cut cut = Cut::kWhole;
  bool starts = false;
  int64_t gap = 3;  // with 4 or 0, rows of whole packs
};

// Where the tokens of a shape are: segments, where they start, and what follows for every token.
struct Places {
  std::vector<int32_t> offsets{0}, starts, positions;

  explicit Places(const Shape& shape) {
    const auto tokens = static_cast<int32_t>(shape.tokens);
    while (offsets.back() < tokens) {
      const auto i = static_cast<int32_t>(offsets.size()) - 1;
      const int32_t begin = offsets.back();
      const int32_t length = shape.cut == Cut::kWhole    ? tokens
                             : shape.cut == Cut::kTokens ? 1
                                                         : 1 + i * 5 % 7;  // of documents
      offsets.push_back(std::min(begin + length, tokens));
      // Every third far beyond any context.
      if (shape.starts) starts.push_back(i % 3 == 0 ? 1'000'000 : i * 37);
      for (int32_t t = begin; t < offsets.back(); ++t)
        positions.push_back((shape.starts ? starts.back() : 0) + t - begin);
    }
  }
  Rope rope(View x, const std::vector<float>& inv_freq, bool inverse = false) const {
    return {.x = x,
            .inv_freq = inv_freq,
            .segments = Segments(offsets),
            .starts = starts,
            .inverse = inverse};
  }
};

Mat<double> rotated(const Mat<double>& x, const Shape& shape,
                    const std::vector<float>& frequencies) {
  Mat<double> y(x.rows, x.cols);
  for (int64_t head = 0; head < shape.heads; ++head) {
    Mat<double> part(x.rows, shape.width);
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t c = 0; c < shape.width; ++c) part(t, c) = x(t, head * shape.width + c);
    part = reference::rope(part, frequencies, Places(shape).positions, false);
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t c = 0; c < shape.width; ++c) y(t, head * shape.width + c) = part(t, c);
  }
  return y;
}

View heads_of(View x, const Shape& shape) {
  return x.reshape({shape.tokens, shape.heads, shape.width});
}

// `rounding`: of what is stored, beside what f32 does.
template <class Act>
void expect_rotation_and_back(Device device, const Shape& shape, const Mat<double>& x,
                              double rounding) {
  const auto frequencies = rope_inverse_frequencies(shape.rotary, 10000.0, {});
  const Places places(shape);
  Act g(device, x, shape.gap);
  const View heads = heads_of(g.view(), shape);
  Context ctx(device);
  ctx.scratch().set_poison(true);
  rope(ctx, places.rope(heads, frequencies));
  ctx.synchronize();
  // cos and sin rounded once, two products and a sum: at most 3 roundings of each term.
  expect_close("y", g.read(), rotated(x, shape, frequencies), 3 * kEps32 + rounding);
  rope(ctx, places.rope(heads, frequencies, true));
  ctx.synchronize();
  // Both turns round, the second what the first stored, and cos^2 + sin^2 of the rounded pair misses
  // 1 by 2 roundings.
  expect_close("turned back", g.read(), x, 8 * kEps32 + (2 + rounding) * rounding);
  g.expect_guards_intact("x");
}

class RopeOp : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

TEST_P(RopeOp, MatchesTheReferenceAndTurnsBack) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Rope);
  Rng rng(2, static_cast<uint64_t>(shape.width));
  const auto x = random_mat(rng, shape.tokens, shape.heads * shape.width);
  expect_rotation_and_back<Guarded>(device, shape, x, 0.0);
}

class RopeHalf : public RopeOp {};

TEST_P(RopeHalf, MatchesTheReferenceAndTurnsBack) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Rope);
  Rng rng(2, static_cast<uint64_t>(shape.width));
  const auto x = rounded(random_mat(rng, shape.tokens, shape.heads * shape.width));
  expect_rotation_and_back<GuardedHalf>(device, shape, x, kEpsHalf);
}

TEST_P(RopeOp, PrefixOfHeadsLeavesTheRestAlone) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Rope);
  if (shape.heads == 1) return;
  Rng rng(3);
  const auto x = random_mat(rng, shape.tokens, shape.heads * shape.width);
  const auto inv_freq = rope_inverse_frequencies(shape.rotary, 500000.0, {});
  const Places places(shape);
  Guarded all(device, x, shape.gap);
  Guarded part(device, x, shape.gap);
  Context ctx(device);
  rope(ctx, places.rope(heads_of(all.view(), shape), inv_freq));
  rope(ctx, places.rope(heads_of(part.view(), shape).prefix(1, 1), inv_freq));
  ctx.synchronize();
  const auto whole = all.read();
  const auto got = part.read();
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t c = 0; c < x.cols; ++c)
      ASSERT_EQ(got(t, c), c < shape.width ? whole(t, c) : x(t, c)) << t << ", " << c;
}

// A token has the bits of a segment of its own that starts at its position, as when it is decoded.
TEST_P(RopeOp, ATokenDependsOnItsPositionAlone) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Rope);
  Rng rng(4);
  const auto x = random_mat(rng, shape.tokens, shape.heads * shape.width);
  const auto inv_freq = rope_inverse_frequencies(shape.rotary, 10000.0, {});
  const Places places(shape);
  Places alone({.tokens = shape.tokens, .heads = 1, .width = 1, .rotary = 1, .cut = Cut::kTokens});
  alone.starts = places.positions;
  Guarded together(device, x, shape.gap);
  Guarded apart(device, x, shape.gap);
  Context ctx(device);
  rope(ctx, places.rope(heads_of(together.view(), shape), inv_freq));
  rope(ctx, alone.rope(heads_of(apart.view(), shape), inv_freq));
  ctx.synchronize();
  EXPECT_EQ(together.read().v, apart.read().v);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, s] = test.param;
  constexpr const char* kCuts[] = {"whole", "documents", "tokens"};
  return str(device_name(device), "_T", s.tokens, "_heads", s.heads, "_h", s.width, "_r", s.rotary,
             "_", kCuts[static_cast<int>(s.cut)], s.starts ? "_starts" : "", "_gap", s.gap);
}
std::vector<Shape> shapes() {
  return {{1, 1, 2, 2},
          {5, 3, 7, 6, Cut::kWhole, true},
          {40, 2, 64, 64, Cut::kTokens, true},
          {33, 5, 80, 20, Cut::kDocuments},
          {70, 1, 128, 128, Cut::kDocuments, true},
          {70, 1, 128, 128, Cut::kDocuments, true, 4},
          {37, 3, 80, 24, Cut::kWhole, false, 0},
          {3, 2, 600, 520, Cut::kTokens, true, 4},
          {1000, 2, 4, 2, Cut::kDocuments, true, 4},
          {300, 2, 4, 2, Cut::kTokens, false, 4},
          {19, 4, 128, 128, Cut::kDocuments, true, 0},
          {5, 2, 10, 8, Cut::kTokens, true, 0}};  // of heads 10 apart
}
INSTANTIATE_TEST_SUITE_P(All, RopeOp,
                         ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                                            ::testing::ValuesIn(shapes())),
                         case_name);
// On the CPU activations are f32.
INSTANTIATE_TEST_SUITE_P(All, RopeHalf,
                         ::testing::Combine(::testing::Values(Device::kCuda),
                                            ::testing::ValuesIn(shapes())),
                         case_name);

// transformers' LlamaRotaryEmbedding and apply_rotary_pos_emb (tests/golden/ops.py).
std::filesystem::path golden_path(const char* file) {
  const char* root = std::getenv("NESTLING_SOURCE_DIR");
  return std::filesystem::path(root != nullptr ? root : ".") / "tests/golden/ops" / file;
}

class RopeGolden : public ::testing::TestWithParam<std::tuple<Device, const char*>> {
 protected:
  RopeGolden() : file_(golden_path(std::get<1>(GetParam()))) {}
  // Heads of the golden `from`, rotated, against the golden `to`.
  void expect_rotated(const char* from, const char* to, bool inverse) {
    const Device device = std::get<0>(GetParam());
    const ConstView x = file_.at(from).view();
    const ConstView want = file_.at(to).view();
    const ConstView inv_freq = file_.at("inv_freq").view();
    const ConstView at = file_.at("positions").view();
    Tensor y(Device::kCpu, DType::kF32, {x.dim(0), x.dim(1), x.dim(2)});
    Tensor turned(device, DType::kF32, {x.dim(0), x.dim(1), x.dim(2)});
    copy(turned, x);
    std::vector<int32_t> positions, offsets{0};  // each token a segment
    for (int64_t t = 0; t < at.size(); ++t) {
      positions.push_back(static_cast<int32_t>(at.ptr<int64_t>()[t]));
      offsets.push_back(static_cast<int32_t>(t) + 1);
    }
    Context ctx(device);
    rope(ctx, {.x = turned,
               .inv_freq = {inv_freq.ptr<float>(), static_cast<size_t>(inv_freq.size())},
               .segments = Segments(offsets),
               .starts = positions,
               .inverse = inverse});
    ctx.synchronize();
    copy(y, turned);
    const int64_t half = inv_freq.size();
    const int64_t per_token = x.dim(1) * x.dim(2);
    for (int64_t i = 0; i < y.size(); ++i) {
      const int64_t c = i % x.dim(2);
      const int64_t pair = c < half ? i + half : i - half;
      // The library rounds the angle to f32, which shifts cos and sin by that much.
      const double angle =
          positions[static_cast<size_t>(i / per_token)] * double{inv_freq.ptr<float>()[c % half]};
      const double size = std::abs(x.ptr<float>()[i]) + std::abs(x.ptr<float>()[pair]);
      ASSERT_NEAR(y.ptr<float>()[i], want.ptr<float>()[i], (angle + 4) * kEps32 * size)
          << to << "[" << i << "]";
    }
  }
  SafetensorsFile file_;
};

TEST_P(RopeGolden, Rotation) {
  NESTLING_SKIP_WITHOUT(std::get<0>(GetParam()), Rope);
  expect_rotated("q", "q_out", false);
  expect_rotated("k", "k_out", false);
  expect_rotated("dq_out", "dq", true);
  expect_rotated("dk_out", "dk", true);
}
INSTANTIATE_TEST_SUITE_P(Transformers, RopeGolden,
                         ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                                            ::testing::Values("rope_default.safetensors",
                                                              "rope_llama3.safetensors")),
                         [](const auto& test) {
                           return str(device_name(std::get<0>(test.param)), "_",
                                      std::string(std::get<1>(test.param)).substr(0, 11));
                         });

class RopeFrequencies : public ::testing::TestWithParam<const char*> {};

TEST_P(RopeFrequencies, MatchTransformers) {
  const SafetensorsFile file(golden_path(GetParam()));
  const auto parameter = [&](const std::string& name) {
    const auto* found = file.find("param." + name);
    return found != nullptr ? found->view().ptr<double>()[0] : 0.0;
  };
  const ConstView want = file.at("inv_freq").view();
  const auto got = rope_inverse_frequencies(
      2 * want.size(), parameter("rope_theta"),
      {.factor = parameter("factor"),
       .low_freq_factor = parameter("low_freq_factor"),
       .high_freq_factor = parameter("high_freq_factor"),
       .original_max_positions = parameter("original_max_position_embeddings")});
  // The library works in f32. Its power multiplies a rounded exponent by log(theta) (below 14, one
  // rounding of at most 1/2 of that); blending adds a few.
  for (int64_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(got[static_cast<size_t>(i)], want.ptr<float>()[i],
                (14 + 8) * kEps32 * want.ptr<float>()[i])
        << i;
}
INSTANTIATE_TEST_SUITE_P(Transformers, RopeFrequencies,
                         ::testing::Values("rope_default.safetensors", "rope_llama3.safetensors"),
                         [](const auto& test) { return std::string(test.param).substr(0, 11); });

void expect_refused(Device device, const Rope& a, const std::string& why) {
  Context ctx(device);
  try {
    rope(ctx, a);
    FAIL() << "accepted what should fail with: " << why;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
  }
}

TEST(RopeContract, NamesWhatDoesNotFit) {
  const View x(nullptr, DType::kF32, Device::kNull, {4, 2, 8});
  const std::vector<float> frequencies = {1, 1, 1, 1};
  const std::vector<float> many = {1, 1, 1, 1, 1};
  const std::vector<int32_t> offsets = {0, 1, 4}, fewer = {0, 1, 3}, starts = {5, 0, 7};
  const Rope fits{.x = x, .inv_freq = frequencies, .segments = Segments(offsets)};
  Context ctx(Device::kNull);
  rope(ctx, fits);
  EXPECT_EQ(ctx.total_work().bytes, 2 * 4 * 4 * 2 * 8);

  Rope a = fits;
  a.inv_freq = many;
  expect_refused(Device::kNull, a, "5 frequencies, needs at most half the channels of x [4,2,8]");
  a = fits;
  a.segments = Segments(fewer);
  expect_refused(Device::kNull, a, "segments cover 3 tokens of x [4,2,8]");
  a = fits;
  a.starts = starts;
  expect_refused(Device::kNull, a, "3 starts of 2 segments");
  a = fits;
  a.x = View(nullptr, DType::kF32, Device::kNull, {4, 16});
  expect_refused(Device::kNull, a, "needs [T, heads, h]");
  a = fits;
  a.x = View(nullptr, DType::kBF16, Device::kCpu, {4, 2, 8});
  expect_refused(Device::kCpu, a, "bf16 cpu, needs f32, or off the CPU bf16");
  EXPECT_THROW(rope_inverse_frequencies(7, 10000.0, {}), Error);
}

}  // namespace
}  // namespace nestling
