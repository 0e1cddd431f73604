// Recompute changes memory and time, and no bit: whole, masked and sliced, in every kind of layer.
#include <gtest/gtest.h>

#include "tests/support/masked_model.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

void expect_same_bits(const ModelConfig& config, const ModelParams<View>& got,
                      const ModelParams<View>& want) {
  const auto a = present(config, got);
  const auto b = present(config, want);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(dense_values(a[i].second) == dense_values(b[i].second)) << a[i].first;
    // Equal because something was computed: every parameter of the batch has a gradient.
    EXPECT_GT(norm_of(b[i].second), 0.0) << b[i].first;
  }
}

TEST(Recompute, OfAPlainModelGivesTheSameBits) {
  Model keeps, forgets;
  const auto kept = keeps.weights.grads(), again = forgets.weights.grads();
  const BatchLoss want = batch_loss(keeps.config, keeps.weights.params(), &kept);
  const BatchLoss got = batch_loss(forgets.config, forgets.weights.params(), &again, nullptr,
                                   nullptr, /*recompute=*/true);
  EXPECT_EQ(got.loss, want.loss);
  EXPECT_LT(got.peak_bytes, want.peak_bytes);
  expect_same_bits(keeps.config, again, kept);
}

TEST(Recompute, UnderSoftMasksGivesTheSameBitsToThemToo) {
  const ElasticSpace space = whole_space();
  const Probabilities p = soft(space, 4);
  Model keeps, forgets;
  OneDraw masks(space, Device::kCpu);
  const BatchLoss want = keeps.gradients(masks, p);
  Probabilities dp = zeros_like(p), again = zeros_like(p);
  masks.backward(dp);
  masks.zero_gradients();
  const auto g = forgets.weights.grads();
  const BatchLoss got = batch_loss(forgets.config, forgets.weights.params(), &g, &masks.masks(),
                                   &masks.grads(), true);
  masks.backward(again);
  EXPECT_EQ(got.loss, want.loss);
  EXPECT_LT(got.peak_bytes, want.peak_bytes);
  EXPECT_TRUE(again == dp);
  expect_same_bits(keeps.config, g, keeps.weights.grads());
}

TEST(Recompute, OfASliceGivesTheSameBits) {
  Model keeps, forgets;
  const Widths widths = widths_of(whole_space(), {1, 1, 1, 1, 0, 1, 1, 2, 1, 1, 1});
  const auto views = [&](Model& m) {
    return std::pair{prefix_parameters(m.config, widths, m.weights.params()),
                     prefix_parameters(m.config, widths, m.weights.grads())};
  };
  const auto [w, g] = views(keeps);
  const auto [v, again] = views(forgets);
  const double want = batch_loss(keeps.config, w, &g).loss;
  EXPECT_EQ(batch_loss(forgets.config, v, &again, nullptr, nullptr, true).loss, want);
  expect_same_bits(keeps.config, again, g);
}

// One more layer costs its input: T * D floats, in units of the arena's 256 bytes; a layer of experts
// also the E + 1 offsets.
TEST(Recompute, ALayerMoreCostsItsInputAlone) {
  const auto peak = [](const std::string& pattern) {
    ModelConfig c = elastic_config();
    c.pattern = pattern;
    Weights weights(c, Device::kCpu, {.compute = DType::kF32, .gradients = true});
    weights.initialize(1);
    const auto g = weights.grads();
    return batch_loss(c, weights.params(), &g, nullptr, nullptr, true).peak_bytes;
  };
  const auto rounded = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const ModelConfig c = elastic_config();
  const int64_t input = rounded(kBatchTokens * c.hidden * int64_t{sizeof(float)});
  for (const char* kind : {"M", "*", "-"}) {
    const std::string one = kind;
    EXPECT_EQ(peak(one + one + one) - peak(one + one), input) << kind;
  }
  EXPECT_EQ(peak("EEE") - peak("EE"), input + rounded((c.experts + 1) * int64_t{sizeof(int32_t)}));
}

}  // namespace
}  // namespace nestling
