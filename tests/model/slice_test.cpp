// A smaller size is a prefix view of the full weights: forward and backward on the views equal those
// of the model cut out, and gradients outside the prefix stay exactly zero.
#include <gtest/gtest.h>

#include "tests/support/elastic_model.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// One axis a number: the same width in every layer that has the axis; kLayers names a layer left out.
using Cut = std::map<Axis, int64_t>;

Widths widths_of(const ModelConfig& config, const Cut& cut) {
  Widths widths = full_widths(config);
  for (const auto& [axis, width] : cut) {
    if (axis == Axis::kHidden) widths.hidden = width;
    if (axis == Axis::kLayers) width_of(widths, width, axis) = 0;
    for (int64_t l = 0; l < config.layers(); ++l)
      for (const Axis mine : axes_of(config, config.kind(l)))
        if (mine == axis) width_of(widths, l, axis) = width;
  }
  return widths;
}

void expect_views_equal_the_model_cut_out(const ModelConfig& full, const Cut& by) {
  const Widths widths = widths_of(full, by);
  Weights whole(full, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  whole.initialize(9);
  CutModel cut(full, widths, whole);
  const auto alone_gradients = cut.alone.grads();

  const double sliced = batch_loss(full, cut.views, &cut.gradients).loss;
  const double cut_out = batch_loss(cut.small, cut.alone.params(), &alone_gradients).loss;
  // The same products in another memory layout: a few roundings of sums of at most 72 terms.
  EXPECT_NEAR(sliced, cut_out, 1e-6 * cut_out);
  const auto inner = present(full, cut.gradients);
  const auto outer = present(cut.small, alone_gradients);
  ASSERT_EQ(inner.size(), outer.size());
  for (size_t i = 0; i < inner.size(); ++i) {
    EXPECT_LE(distance(inner[i].second, outer[i].second), 1e-5 * norm_of(outer[i].second) + 1e-9)
        << inner[i].first;
    fill_zero(inner[i].second);
  }
  for (const auto& [name, gradient] : present(full, whole.grads()))
    EXPECT_EQ(norm_of(gradient), 0.0) << name << " has a gradient outside its prefix";
}

class Slice : public ::testing::TestWithParam<std::pair<const char*, Cut>> {};

TEST_P(Slice, PrefixViewsEqualTheModelCutOut) {
  expect_views_equal_the_model_cut_out(elastic_config(), GetParam().second);
}

TEST(TiedSlice, CutsTheHeadWithTheEmbeddings) {
  ModelConfig tied = elastic_config();
  tied.tied = true;
  expect_views_equal_the_model_cut_out(tied, {{Axis::kHidden, 16}});
}

INSTANTIATE_TEST_SUITE_P(
    Axes, Slice,
    ::testing::Values(std::pair{"full", Cut{}}, std::pair{"hidden", Cut{{Axis::kHidden, 16}}},
                      std::pair{"mamba_heads", Cut{{Axis::kMambaHeads, 6}}},
                      std::pair{"mamba_channels", Cut{{Axis::kMambaChannels, 5}}},
                      std::pair{"state", Cut{{Axis::kState, 16}}},
                      std::pair{"query_heads", Cut{{Axis::kQueryHeads, 4}}},
                      std::pair{"ffn", Cut{{Axis::kFfn, 16}}},
                      std::pair{"experts", Cut{{Axis::kExperts, 3}}},
                      std::pair{"expert_ffn", Cut{{Axis::kExpertFfn, 16}}},
                      std::pair{"shared_ffn", Cut{{Axis::kSharedFfn, 16}}},
                      std::pair{"layers", Cut{{Axis::kLayers, 3}}},
                      std::pair{"all", Cut{{Axis::kHidden, 16},
                                           {Axis::kMambaHeads, 3},
                                           {Axis::kMambaChannels, 4},
                                           {Axis::kState, 16},
                                           {Axis::kQueryHeads, 2},
                                           {Axis::kFfn, 32},
                                           {Axis::kExperts, 4},
                                           {Axis::kExpertFfn, 16},
                                           {Axis::kSharedFfn, 16},
                                           {Axis::kLayers, 1}}}),
    [](const auto& test) { return test.param.first; });

// The null device walks the same code, checks the same shapes and counts the same work.
TEST(NullDevice, CountsWhatTheCpuDoes) {
  const ModelConfig config = elastic_config();
  expect_same_work(forward_backward_work(config, Device::kNull),
                   forward_backward_work(config, Device::kCpu));
}

}  // namespace
}  // namespace nestling
