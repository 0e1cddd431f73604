// What holds of every size holds in every family: a hard mask equals the slice and the model cut out, soft masks have the
// gradient of the loss, a sorted parent computes the same, an elastic file gives the published bytes back.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/elastic_file.h"
#include "model/order.h"
#include "tests/support/expect_error.h"
#include "tests/support/family_models.h"
#include "tests/support/masked_model.h"
#include "tests/support/soft_difference.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

// Every axis that the family's layers have, with two widths or three.
ElasticSpace space_of_family(const ModelConfig& c) {
  ElasticSpace space{
      .config = c, .axes = {{.axis = Axis::kHidden, .widths = {32, 16}}}, .layer_order = {}};
  const std::map<Axis, std::vector<int64_t>> choices = {
      {Axis::kMambaHeads, {8, 6, 2}}, {Axis::kMambaChannels, {8, 5}}, {Axis::kState, {32, 16}},
      {Axis::kQueryHeads, {8, 4, 2}}, {Axis::kFfn, {48, 32, 16}},     {Axis::kExperts, {6, 5, 3}},
      {Axis::kExpertFfn, {32, 16}},   {Axis::kSharedFfn, {48, 16}}};
  for (const auto& [axis, widths] : choices)
    for (const LayerKind kind :
         {LayerKind::kMamba, LayerKind::kAttention, LayerKind::kDense, LayerKind::kMoe}) {
      const std::vector<Axis> mine = axes_of(c, kind);
      if (c.has(kind) && std::ranges::find(mine, axis) != mine.end())
        space.axes.push_back({.axis = axis, .widths = widths});
    }
  return space;
}

class FamilyModel : public ::testing::TestWithParam<ModelConfig> {};

TEST_P(FamilyModel, HardMasksEqualTheSliceAndTheModelCutOut) {
  const ElasticSpace space = space_of_family(GetParam());
  Rng rng(17);
  for (int trial = 0; trial < 8; ++trial) {
    Selection pick;
    for (const AxisChoices& c : space.axes)
      pick.push_back(static_cast<int64_t>(rng.below(c.widths.size())));
    const Widths widths = widths_of(space, pick);
    Model masked(space.config), whole(space.config);
    OneDraw masks(space, Device::kCpu);
    const double mask_loss = masked.gradients(masks, one_hot(space, pick)).loss;
    CutModel cut(space.config, widths, whole.weights);
    const double slice_loss = batch_loss(space.config, cut.views, &cut.gradients).loss;
    EXPECT_NEAR(mask_loss, slice_loss, kForwardBound * slice_loss) << trial;
    const double cut_loss = batch_loss(cut.small, cut.alone.params()).loss;
    EXPECT_NEAR(cut_loss, slice_loss, kForwardBound * slice_loss) << trial;

    const auto got =
        present(space.config, prefix_parameters(space.config, widths, masked.weights.grads()));
    const auto want = present(space.config, cut.gradients);
    double largest = 0;
    for (const auto& [field, gradient] : want) largest = std::max(largest, norm_of(gradient));
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(distance(got[i].second, want[i].second),
                kBackwardBound * std::max(norm_of(want[i].second), 0.01 * largest))
          << got[i].first << " of " << trial;
      fill_zero(got[i].second);
    }
    for (const auto& [field, gradient] : present(space.config, masked.weights.grads()))
      EXPECT_EQ(norm_of(gradient), 0.0) << field << " has a gradient outside its prefix";
  }
}

// A token goes to all experts, so that the loss is smooth; their number is then no axis.
TEST_P(FamilyModel, SoftMasksHaveTheGradientOfTheLoss) {
  ModelConfig config = GetParam();
  if (config.has(LayerKind::kMoe)) config.experts = config.top_k = 3;
  ElasticSpace space = space_of_family(config);
  std::erase_if(space.axes, [](const AxisChoices& c) { return c.axis == Axis::kExperts; });
  Model model(config);
  OneDraw masks(space, Device::kCpu);
  const Probabilities p = soft(space, 3);
  model.gradients(masks, p);
  Probabilities dp = zeros_like(p);
  masks.backward(dp);
  for (size_t a = 0; a < p.size(); ++a)
    expect_differences(model, masks, p, dp, a, axis_name(space.axes[a].axis));
}

TEST_P(FamilyModel, ASortedParentComputesTheSame) {
  const ModelConfig& c = GetParam();
  Model model(c);
  const double before = batch_loss(c, model.weights.params()).loss;
  const Order order = order_from_scores(c, random_scores(c, 5));
  const std::vector<float> embeddings = dense_values(model.weights.params().embeddings);
  apply_order(c, order, model.weights);
  EXPECT_NE(dense_values(model.weights.params().embeddings), embeddings);
  EXPECT_NEAR(batch_loss(c, model.weights.params()).loss, before, kForwardBound * before);
}

TEST_P(FamilyModel, AnElasticFileHoldsTheSizesAndGivesThePublishedBytesBack) {
  const ModelConfig& c = GetParam();
  const TempDir dir;
  std::filesystem::create_directories(dir.path() / "parent");
  std::filesystem::create_directories(dir.path() / "again");
  Model model(c);
  export_weights(dir.path() / "parent", c, model.weights, {.types = {}, .type = StoredType::kF32});
  ElasticModel m;
  m.config = read_model_config(dir.path() / "parent");
  m.scores = random_scores(c, 7);
  m.order = order_from_scores(c, m.scores);
  m.sizes = {make_size(c, "whole", full_widths(c)),
             make_size(c, "half",
                       cut_by(c, {{Axis::kHidden, 16}, {Axis::kQueryHeads, 2}, {Axis::kFfn, 16}}))};
  apply_order(c, m.order, model.weights);
  write_elastic(dir.path() / "e.h5", m, model.weights, StoredType::kF32);

  LoadedSize half = load_elastic(dir.path() / "e.h5", "half", DType::kF32);
  const auto views = prefix_parameters(c, m.sizes[1].widths, model.weights.params());
  EXPECT_NEAR(batch_loss(half.config, half.weights.params()).loss, batch_loss(c, views).loss,
              kForwardBound * 10);
  const ElasticModel read = read_elastic_header(dir.path() / "e.h5").model;
  LoadedSize whole = load_elastic_whole(dir.path() / "e.h5", DType::kF32);
  apply_order(read.config, inverse(read.config, read.order), whole.weights);
  export_weights(dir.path() / "again", read.config, whole.weights,
                 {.types = {}, .type = StoredType::kF32});
  for (const char* file : {"model.safetensors", "config.json"})
    EXPECT_EQ(read_bytes(dir.path() / "again" / file), read_bytes(dir.path() / "parent" / file))
        << file;
}

// What transformers itself refuses is not written.
TEST(FamilyForm, WhatTransformersRefusesIsNotPublished) {
  const TempDir dir;
  ModelConfig llama = llama_config();
  llama.query_heads = 6;
  const Weights a(llama, Device::kCpu, {});
  expect_error([&] { export_weights(dir.path(), llama, a, {}); },
               {"hidden width of 32", "6 query heads"});
  ModelConfig granite = granite_config();
  granite.mamba_heads = 6;
  const Weights b(granite, Device::kCpu, {});
  expect_error([&] { export_weights(dir.path(), granite, b, {}); },
               {"48 channels", "hidden width of 32"});
}

// A size may leave out half a block. It runs, but no published config can say it.
TEST_P(FamilyModel, HalfABlockLeftOutRunsAndIsNotPublished) {
  const ModelConfig& c = GetParam();
  const TempDir dir;
  Model model(c);
  ElasticModel m;
  m.config = c;
  for (const int64_t layer : {0, 1, 2})
    m.sizes.push_back(make_size(c, str("no_", layer), cut_by(c, {{Axis::kLayers, layer}})));
  write_elastic(dir.path() / "e.h5", m, model.weights, StoredType::kF32);
  for (const Size& size : m.sizes) {
    LoadedSize part = load_elastic(dir.path() / "e.h5", size.name, DType::kF32);
    const auto views = prefix_parameters(c, size.widths, model.weights.params());
    EXPECT_EQ(batch_loss(part.config, part.weights.params()).loss, batch_loss(c, views).loss);
    expect_error([&] { export_weights(dir.path(), part.config, part.weights, {}); },
                 {"whole blocks"});
  }
}

INSTANTIATE_TEST_SUITE_P(, FamilyModel, ::testing::ValuesIn(family_configs()),
                         [](const auto& test) {
                           return std::string(family_name(test.param.family));
                         });

}  // namespace
}  // namespace nestling
