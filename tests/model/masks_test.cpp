// A size as masks on the whole model: with hard choices equal to its slice and to the model cut out,
// and what soft ones tend to.
#include <gtest/gtest.h>

#include "tests/support/masked_model.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

struct Hard {
  std::string name;
  ElasticSpace space;
  Selection selection;
};

std::vector<Hard> hard_cases() {
  std::vector<Hard> cases;
  for (const AxisChoices& c : whole_space().axes)
    for (int64_t i = 1; i < std::ssize(c.widths); ++i)
      cases.push_back({str(axis_name(c.axis), c.layer >= 0 ? str("_layer", c.layer) : "", "_",
                           c.widths[static_cast<size_t>(i)]),
                       space_of(c),
                       {i}});
  Rng rng(17);
  for (int trial = 0; trial < 8; ++trial) {
    const ElasticSpace space = whole_space();
    Selection pick;
    for (const AxisChoices& c : space.axes)
      pick.push_back(static_cast<int64_t>(rng.below(c.widths.size())));
    pick[4] = pick[3];  // a model cut out has one state width
    cases.push_back({str("random_", trial), space, pick});
  }
  return cases;
}

class HardMasks : public ::testing::TestWithParam<Hard> {};

TEST_P(HardMasks, EqualTheSliceAndTheModelCutOut) {
  const auto& [name, space, selection] = GetParam();
  const Widths widths = widths_of(space, selection);
  Model masked;
  OneDraw masks(space, Device::kCpu);
  const BatchLoss mask_batch = masked.gradients(masks, one_hot(space, selection));
  const double mask_loss = mask_batch.loss;

  Model whole;
  const auto views = prefix_parameters(space.config, widths, whole.weights.params());
  const auto gradients = prefix_parameters(space.config, widths, whole.weights.grads());
  const double slice_loss = batch_loss(space.config, views, &gradients).loss;
  EXPECT_NEAR(mask_loss, slice_loss, kForwardBound * slice_loss);
  for (const int32_t expert : mask_batch.selected)
    EXPECT_LT(expert, widths.layers[4].experts) << "an expert of mask 0 was selected";

  // Widths that differ between layers of one kind have no config of their own.
  if (name.find("_layer") == std::string::npos) {
    CutModel cut(space.config, widths, whole.weights);
    const double cut_loss = batch_loss(cut.small, cut.alone.params()).loss;
    EXPECT_NEAR(mask_loss, cut_loss, kForwardBound * cut_loss);
  }

  const auto inside = prefix_parameters(space.config, widths, masked.weights.grads());
  const auto got = present(space.config, inside);
  const auto want = present(space.config, gradients);
  ASSERT_EQ(got.size(), want.size());
  double largest = 0;
  for (const auto& [field, gradient] : want) largest = std::max(largest, norm_of(gradient));
  for (size_t i = 0; i < got.size(); ++i) {
    // A gradient far below the largest is a difference of larger numbers: relative to those.
    EXPECT_LE(distance(got[i].second, want[i].second),
              kBackwardBound * std::max(norm_of(want[i].second), 0.01 * largest))
        << got[i].first << ", norm " << norm_of(want[i].second) << " of " << largest;
    fill_zero(got[i].second);
  }
  for (const auto& [field, gradient] : present(space.config, masked.weights.grads()))
    EXPECT_EQ(norm_of(gradient), 0.0) << field << " has a gradient outside its prefix";
}

INSTANTIATE_TEST_SUITE_P(Masks, HardMasks, ::testing::ValuesIn(hard_cases()),
                         [](const auto& test) { return test.param.name; });

TEST(Masks, OfHardChoicesAreZerosAndOnesAndTheirSumsTheWidths) {
  const ElasticSpace space = whole_space();
  OneDraw masks(space, Device::kCpu);
  const Selection selection = {1, 1, 1, 0, 1, 1, 2, 2, 1, 1, 1};
  const Widths widths = widths_of(space, selection);
  masks.set(one_hot(space, selection));
  const auto expect_prefix = [](ConstView mask, int64_t width, const char* name) {
    const auto* m = mask.ptr<float>();
    for (int64_t e = 0; e < mask.size(); ++e)
      EXPECT_EQ(m[e], e < width ? 1.0f : 0.0f) << name << " at " << e;
  };
  const ModelMasks& m = masks.masks();
  expect_prefix(m.hidden, widths.hidden, "hidden");
  EXPECT_EQ(m.active.ptr<float>()[0], static_cast<float>(widths.hidden));
  expect_prefix(m.layers[0].state, widths.layers[0].state * 3, "state");
  expect_prefix(m.layers[3].state, widths.layers[3].state * 3, "state");
  EXPECT_EQ(m.layers[0].group_active.ptr<float>()[0],
            static_cast<float>(widths.layers[0].mamba_heads / 3 * widths.layers[0].mamba_channels));
  expect_prefix(m.layers[1].query_heads, widths.layers[1].query_heads, "query_heads");
  expect_prefix(m.layers[2].ffn, widths.layers[2].ffn, "ffn");
  expect_prefix(m.layers[4].experts, widths.layers[4].experts, "experts");
  expect_prefix(m.layers[4].expert_ffn, widths.layers[4].expert_ffn, "expert_ffn");
  expect_prefix(m.layers[4].shared_ffn, widths.layers[4].shared_ffn, "shared_ffn");
  for (size_t l = 0; l < m.layers.size(); ++l)
    expect_prefix(m.layers[l].out, widths.layers[l].kept * widths.hidden, "out");
}

TEST(Masks, AtFullWidthAreThePlainModel) {
  Model plain, masked;
  const auto g = plain.weights.grads();
  const double want = batch_loss(plain.config, plain.weights.params(), &g).loss;
  const ElasticSpace space = whole_space();
  OneDraw masks(space, Device::kCpu);
  // Multiplying by one is exact. What differs: the mixer's output is summed first and added to the
  // residual stream then, one rounding more for each of 5 layers.
  const double bound = 5 * kEps * std::sqrt(kTerms);
  EXPECT_NEAR(masked.gradients(masks, one_hot(space, Selection(space.axes.size(), 0))).loss, want,
              bound * want);
  const auto a = present(plain.config, masked.weights.grads());
  const auto b = present(plain.config, g);
  double largest = 0;
  for (const auto& [name, gradient] : b) largest = std::max(largest, norm_of(gradient));
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_LE(distance(a[i].second, b[i].second),
              2 * bound * std::max(norm_of(b[i].second), 0.01 * largest))
        << a[i].first;
}

TEST(Masks, OfAnEmptySpaceAreAbsentAndChangeNoBit) {
  Model plain, masked;
  const auto g = plain.weights.grads();
  const double want = batch_loss(plain.config, plain.weights.params(), &g).loss;
  ElasticSpace space = whole_space();
  space.axes.clear();
  OneDraw masks(space, Device::kCpu);
  EXPECT_EQ(masked.gradients(masks, {}).loss, want);
  const auto a = present(plain.config, masked.weights.grads());
  const auto b = present(plain.config, g);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(distance(a[i].second, b[i].second), 0) << a[i].first;
}

// A router that is frozen wants no gradients of masks; inference keeps no activations. No bit differs.
TEST(Masks, WithoutGradientsOrActivationsGiveTheSameBits) {
  const ElasticSpace space = whole_space();
  Model one, two;
  OneDraw masks(space, Device::kCpu);
  const double loss = one.gradients(masks, soft(space, 4)).loss;
  const auto g = two.weights.grads();
  EXPECT_EQ(batch_loss(two.config, two.weights.params(), &g, &masks.masks()).loss, loss);
  const auto a = present(one.config, one.weights.grads());
  const auto b = present(two.config, g);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(distance(a[i].second, b[i].second), 0.0) << a[i].first;
  EXPECT_EQ(inference_loss(two.config, two.weights.params(), &masks.masks()), loss);
}

// The null device walks mask mode too, and counts what the CPU does.
TEST(Masks, OnTheNullDeviceCountTheSameWork) {
  const ElasticSpace space = whole_space();
  OneDraw cpu(space, Device::kCpu), null(space, Device::kNull);
  const WorkByOp want =
      forward_backward_work(space.config, Device::kCpu, &cpu.masks(), &cpu.grads());
  expect_same_work(forward_backward_work(space.config, Device::kNull, &null.masks(), &null.grads()),
                   want);
  EXPECT_GT(want.at("mask_backward").calls, 0);
}

// As probabilities harden, the loss comes to that of the hard choice in proportion to what is left,
// and experts that are on their way out are not selected any more.
TEST(Masks, TendToHardOnesContinuously) {
  const ElasticSpace space = whole_space();
  const Selection selection = {1, 1, 1, 1, 0, 1, 1, 2, 1, 1, 1};
  const int64_t experts = widths_of(space, selection).layers[4].experts;
  Model model;
  OneDraw masks(space, Device::kCpu);
  const double hard = model.loss(masks, one_hot(space, selection)).loss;
  double before = 0;
  for (int k = 6; k <= 22; k += 4) {
    const double left = std::ldexp(1.0, -k);
    Probabilities p = one_hot(space, selection);
    const Probabilities blend = soft(space, 5);
    for (size_t a = 0; a < p.size(); ++a)
      for (size_t i = 0; i < p[a].size(); ++i) p[a][i] += left * (blend[a][i] - p[a][i]);
    const BatchLoss b = model.loss(masks, p);
    // Left falls 16-fold, and so does the distance but for terms of second order: to an eighth.
    const double gap = std::abs(b.loss - hard);
    if (k > 6) {
      EXPECT_LE(gap, before / 8 + 2 * kForwardBound * hard) << "left 2^-" << k;
    }
    before = gap;
    for (const int32_t expert : b.selected) EXPECT_LT(expert, experts);
  }
  EXPECT_LE(before, 2 * kForwardBound * hard);
}

TEST(Masks, TwoListsForOneAxisOfALayerAreRefused) {
  ElasticSpace space = whole_space();
  space.axes.push_back({.axis = Axis::kState, .widths = {32, 16}});
  EXPECT_THROW(SoftMasks(space, Device::kCpu), Error);
}

// Choices and axes in another order, and what moved with them.
struct Permuted {
  ElasticSpace space;
  Probabilities p;
};
Permuted reversed(const ElasticSpace& space, const Probabilities& p) {
  Permuted r{space, p};
  std::reverse(r.space.axes.begin(), r.space.axes.end());
  std::reverse(r.p.begin(), r.p.end());
  for (size_t a = 0; a < r.p.size(); ++a) {
    // A rotation: with three choices neither the order nor its reverse.
    std::rotate(r.p[a].begin(), r.p[a].begin() + 1, r.p[a].end());
    auto& widths = r.space.axes[a].widths;
    std::rotate(widths.begin(), widths.begin() + 1, widths.end());
  }
  return r;
}

TEST(Masks, DoNotDependOnTheOrderOfCandidates) {
  const ElasticSpace space = whole_space();
  const Probabilities p = soft(space, 2);
  const Permuted other = reversed(space, p);
  Model one, two;
  OneDraw masks(space, Device::kCpu), permuted(other.space, Device::kCpu);
  EXPECT_EQ(one.gradients(masks, p).loss, two.gradients(permuted, other.p).loss);
  const auto a = present(one.config, one.weights.grads());
  const auto b = present(two.config, two.weights.grads());
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(distance(a[i].second, b[i].second), 0.0) << a[i].first;
  Probabilities dp = zeros_like(p), dother = zeros_like(other.p);
  masks.backward(dp);
  permuted.backward(dother);
  const Permuted expected = reversed(space, dp);
  EXPECT_EQ(dother, expected.p);
}

}  // namespace
}  // namespace nestling
