// The study's mechanics on a random model: what is dead is cut for nothing, the parent is put back.
#include "trainer/order_study.h"

#include <cstring>
#include <gtest/gtest.h>

#include "kernels/core/rng.h"
#include "model/order.h"
#include "tests/support/tiny_model.h"
#include "trainer/calibration.h"

namespace nestling {
namespace {

constexpr int64_t kVocab = 40, kLength = 24;

Batch random_batch(uint64_t seed) {
  Batch b;
  b.sequences = 1;
  b.seq_len = b.counted_targets = kLength;
  b.cu_seqlens = {0, 9, kLength};
  Rng rng(seed);
  for (int64_t t = 0; t < kLength; ++t) {
    b.tokens.push_back(static_cast<int32_t>(rng.below(kVocab)));
    b.targets.push_back(static_cast<int32_t>(rng.below(kVocab)));
  }
  return b;
}

class OrderStudyTest : public ::testing::Test {
 protected:
  OrderStudyTest() : config_(testing::tiny_config(kVocab)), weights_(config_, Device::kCpu, {}) {
    weights_.initialize(1);
    for (int64_t i = 0; i < weights_.count(); ++i) {  // layers that matter beside the embedding
      const View w = weights_.master(i);
      const float factor = weights_.specs()[static_cast<size_t>(i)].product ? 8.0f : 1.0f;
      for (int64_t k = 0; k < w.size(); ++k) w.ptr<float>()[k] *= factor;
    }
  }
  View named(const std::string& name) {
    for (int64_t i = 0; i < weights_.count(); ++i)
      if (weights_.specs()[static_cast<size_t>(i)].name == name) return weights_.master(i);
    ADD_FAILURE() << name;
    return {};
  }
  Scores importance() {
    const auto self = make_self_comm();
    Arena arena(Device::kCpu);
    return run_importance(
        ctx_, arena, config_, weights_.params(),
        [](int64_t position, int64_t) { return random_batch(static_cast<uint64_t>(position)); },
        {.samples = 4, .depth_samples = 2}, *self);
  }
  std::vector<float> masters() const {
    std::vector<float> all;
    for (int64_t i = 0; i < weights_.count(); ++i) {
      const ConstView w = weights_.master(i);
      all.insert(all.end(), w.ptr<float>(), w.ptr<float>() + w.size());
    }
    return all;
  }

  ModelConfig config_;
  Weights weights_;
  Context ctx_{Device::kCpu};
  std::vector<Batch> held_out_ = {random_batch(100), random_batch(101)};
};

// Sums of at most 64 terms without some that are zero, or in another order.
constexpr double kBound = 4 * 64 * 0x1p-24;

TEST_F(OrderStudyTest, WhatIsDeadIsCutForNothing) {
  // Every second channel of the dense layer, expert 1 and the shared expert's last half do nothing.
  const View up = named("backbone.layers.3.mixer.up_proj.weight");
  for (int64_t f = 0; f < config_.ffn; f += 2) fill_zero(up.slice(0, f, 1));
  fill_zero(named("backbone.layers.1.mixer.experts.{e}.down_proj.weight").slice(0, 1, 1));
  fill_zero(named("backbone.layers.1.mixer.gate.weight").slice(0, 1, 1));
  named("backbone.layers.1.mixer.gate.e_score_correction_bias").ptr<float>()[1] = -100;
  fill_zero(named("backbone.layers.1.mixer.shared_experts.up_proj.weight").slice(0, 0, 8));
  const std::vector<Cut> cuts = {{Axis::kFfn, 24}, {Axis::kExperts, 5}, {Axis::kSharedFfn, 8}};
  OrderStudy study(ctx_, config_, weights_, held_out_);
  const Scores scores = importance();
  const double parent = study.parent_loss();
  for (const double loss : study.losses(scores, cuts)) EXPECT_NEAR(loss, parent, kBound * parent);
  for (const double loss : study.losses(reversed(scores), cuts))
    EXPECT_GT(std::abs(loss - parent), 10 * kBound * parent);
}

TEST_F(OrderStudyTest, EveryAxisAtItsFullWidthIsTheParent) {
  OrderStudy study(ctx_, config_, weights_, held_out_);
  const std::vector<Cut> cuts = {
      {Axis::kHidden, 32},    {Axis::kMambaHeads, 4}, {Axis::kMambaChannels, 8}, {Axis::kState, 8},
      {Axis::kQueryHeads, 4}, {Axis::kExpertFfn, 16}, {Axis::kLayers, 4}};
  const double parent = study.parent_loss();
  for (const double loss : study.losses(random_scores(config_, 4), cuts))
    EXPECT_NEAR(loss, parent, kBound * parent);
}

TEST_F(OrderStudyTest, CutsOfEveryAxisMoveTheLossAndRepeat) {
  OrderStudy study(ctx_, config_, weights_, held_out_);
  const std::vector<Cut> cuts = {{Axis::kHidden, 16},       {Axis::kMambaHeads, 2},
                                 {Axis::kMambaChannels, 4}, {Axis::kState, 4},
                                 {Axis::kQueryHeads, 2},    {Axis::kFfn, 24},
                                 {Axis::kExperts, 3},       {Axis::kExpertFfn, 8},
                                 {Axis::kSharedFfn, 8},     {Axis::kLayers, 2}};
  const Scores scores = importance();
  const double parent = study.parent_loss();
  const std::vector<double> losses = study.losses(scores, cuts);
  for (size_t i = 0; i < cuts.size(); ++i) EXPECT_NE(losses[i], parent) << "cut " << i;
  EXPECT_EQ(study.losses(scores, cuts), losses);
}

TEST_F(OrderStudyTest, ThePartsThatStayAreTheFirstOfTheDepthOrder) {
  Scores scores = random_scores(config_, 4);
  scores.depth = {3, 1, 0, 2};
  OrderStudy study(ctx_, config_, weights_, held_out_);
  const std::vector<Cut> cut = {{Axis::kLayers, 2}};
  const double kept = study.losses(scores, cut)[0];
  fill_zero(named("backbone.layers.1.mixer.experts.{e}.down_proj.weight"));
  fill_zero(named("backbone.layers.1.mixer.shared_experts.down_proj.weight"));
  fill_zero(named("backbone.layers.2.mixer.o_proj.weight"));
  EXPECT_NEAR(study.parent_loss(), kept, kBound * kept);
}

TEST_F(OrderStudyTest, PutsTheParentBack) {
  const std::vector<float> before = masters();
  OrderStudy study(ctx_, config_, weights_, held_out_);
  const std::vector<Cut> cuts = {{Axis::kHidden, 16}};
  study.losses(random_scores(config_, 9), cuts);
  const std::vector<float> after = masters();
  EXPECT_EQ(0, std::memcmp(before.data(), after.data(), before.size() * sizeof(float)));
}

}  // namespace
}  // namespace nestling
