#include "kernels/ops/rope.h"

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <numeric>

#include "data/safetensors.h"
#include "kernels/reference/rope.h"
#include "tests/support/complex_step.h"
#include "tests/support/device.h"
#include "tests/support/operands.h"

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

struct Shape {
  int64_t tokens, heads, width, rotary;
  int64_t gap = 3;  // with 4 or 0, rows of whole packs
};

class RopeOp : public ::testing::TestWithParam<std::tuple<Device, Shape>> {};

std::vector<int32_t> some_positions(int64_t tokens) {
  std::vector<int32_t> positions(static_cast<size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  positions.back() = 1'000'000;  // far beyond any context
  return positions;
}

// A host vector as a device tensor.
template <class T>
Tensor to_device(Device device, const std::vector<T>& values) {
  Tensor host(Device::kCpu, DTypeOf<T>::kValue, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), host.ptr<T>());
  if (device == Device::kCpu) return host;
  Tensor there(device, DTypeOf<T>::kValue, {static_cast<int64_t>(values.size())});
  copy(there, host);
  return there;
}

TEST_P(RopeOp, MatchesTheReferenceAndTurnsBack) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Rope);
  Rng rng(2, static_cast<uint64_t>(shape.width));
  const auto x = random_mat(rng, shape.tokens, shape.heads * shape.width);
  const auto frequencies = rope_inverse_frequencies(shape.rotary, 10000.0, {});
  const auto positions = some_positions(shape.tokens);
  const Tensor inv_freq = to_device(device, frequencies);
  const Tensor at = to_device(device, positions);
  Guarded g(device, x, shape.gap);
  const View heads = g.view().reshape({shape.tokens, shape.heads, shape.width});
  Context ctx(device);
  ctx.scratch().set_poison(true);
  rope(ctx, {.x = heads, .inv_freq = inv_freq, .positions = at});
  ctx.synchronize();
  Mat<double> want(x.rows, x.cols);
  for (int64_t head = 0; head < shape.heads; ++head) {
    Mat<double> part(x.rows, shape.width);
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t c = 0; c < shape.width; ++c) part(t, c) = x(t, head * shape.width + c);
    part = reference::rope(part, frequencies, positions, false);
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t c = 0; c < shape.width; ++c) want(t, head * shape.width + c) = part(t, c);
  }
  // cos and sin rounded once, two products and a sum: at most 3 roundings of each term.
  expect_close("y", g.read(), want, 3 * kEps32);
  rope(ctx, {.x = heads, .inv_freq = inv_freq, .positions = at, .inverse = true});
  ctx.synchronize();
  // Both turns round, and cos^2 + sin^2 of the rounded pair misses 1 by 2 roundings.
  expect_close("turned back", g.read(), x, 8 * kEps32);
  g.expect_guards_intact("x");
}

TEST_P(RopeOp, PrefixOfHeadsLeavesTheRestAlone) {
  const auto [device, shape] = GetParam();
  NESTLING_SKIP_WITHOUT(device, Rope);
  if (shape.heads == 1) return;
  Rng rng(3);
  const auto x = random_mat(rng, shape.tokens, shape.heads * shape.width);
  const Tensor inv_freq = to_device(device, rope_inverse_frequencies(shape.rotary, 500000.0, {}));
  const Tensor at = to_device(device, some_positions(shape.tokens));
  Guarded all(device, x, shape.gap);
  Guarded part(device, x, shape.gap);
  const auto heads = [&](Guarded& g) {
    return g.view().reshape({shape.tokens, shape.heads, shape.width});
  };
  Context ctx(device);
  rope(ctx, {.x = heads(all), .inv_freq = inv_freq, .positions = at});
  rope(ctx, {.x = heads(part).prefix(1, 1), .inv_freq = inv_freq, .positions = at});
  ctx.synchronize();
  const auto whole = all.read();
  const auto got = part.read();
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t c = 0; c < x.cols; ++c)
      ASSERT_EQ(got(t, c), c < shape.width ? whole(t, c) : x(t, c)) << t << ", " << c;
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, Shape>>& test) {
  const auto& [device, s] = test.param;
  return str(device_name(device), "_T", s.tokens, "_heads", s.heads, "_h", s.width, "_r", s.rotary,
             "_gap", s.gap);
}
INSTANTIATE_TEST_SUITE_P(
    All, RopeOp,
    ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                       ::testing::Values(Shape{1, 1, 2, 2}, Shape{5, 3, 7, 6}, Shape{40, 2, 64, 64},
                                         Shape{33, 5, 80, 20}, Shape{70, 1, 128, 128},
                                         Shape{70, 1, 128, 128, 4}, Shape{37, 3, 80, 24, 0},
                                         Shape{3, 2, 600, 520, 4}, Shape{300, 2, 4, 2, 4},
                                         Shape{5, 2, 10, 8, 0})),  // of heads 10 apart
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
    Tensor frequencies(device, DType::kF32, {inv_freq.dim(0)});
    copy(turned, x);
    copy(frequencies, inv_freq);
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < at.size(); ++t)
      positions.push_back(static_cast<int32_t>(at.ptr<int64_t>()[t]));
    Context ctx(device);
    rope(ctx, {.x = turned,
               .inv_freq = frequencies,
               .positions = to_device(device, positions),
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

TEST(RopeContract, NamesWhatDoesNotFit) {
  Context ctx(Device::kNull);
  const View x(nullptr, DType::kF32, Device::kNull, {4, 2, 8});
  const View inv_freq(nullptr, DType::kF32, Device::kNull, {5});
  const View positions(nullptr, DType::kI32, Device::kNull, {4});
  try {
    rope(ctx, {.x = x, .inv_freq = inv_freq, .positions = positions});
    FAIL() << "accepted 10 rotary channels of 8";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("inv_freq is [5]"), std::string::npos) << e.what();
  }
  EXPECT_THROW(rope_inverse_frequencies(7, 10000.0, {}), Error);
}

}  // namespace
}  // namespace nestling
