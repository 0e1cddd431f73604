// A parent in importance order computes what the parent does; undone, it is the parent bit for bit.
#include "model/order.h"

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>

#include "kernels/core/rng.h"
#include "model/model.h"
#include "model/widths.h"
#include "runtime/loaded_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"

namespace nestling {
namespace {

ModelConfig all_kinds(int64_t groups, int64_t kv_heads, int64_t gate_groups) {
  ModelConfig c;
  c.pattern = "M*-ME";
  c.vocab = 40;
  c.hidden = 24;
  c.query_heads = 3 * kv_heads;
  c.kv_heads = kv_heads;
  c.head_dim = 8;
  c.mamba_heads = 3 * groups;
  c.mamba_head_dim = 5;
  c.state = 7;
  c.groups = groups;
  c.conv_kernel = 4;
  c.chunk = 8;
  c.ffn = 20;
  c.experts = 8;
  c.top_k = 3;
  c.expert_ffn = 12;
  c.shared_ffn = 14;
  c.gate.groups = gate_groups;
  c.gate.top_groups = gate_groups;
  c.validate("all kinds");
  return c;
}

// Nothing symmetric: norms, biases and D differ from unit to unit, so that a tensor that was
// forgotten shows in the logits.
void fill(Weights& weights) {
  weights.initialize(4);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    Rng rng(8, static_cast<uint64_t>(i));
    float* w = weights.master(i).ptr<float>();
    for (int64_t k = 0; k < spec.size(); ++k)
      w[k] = spec.product ? 8.0f * w[k] : w[k] + 0.3f * static_cast<float>(rng.normal());
  }
}

Scores random_scores(const ModelConfig& c, uint64_t seed) {
  Rng rng(seed);
  const auto draw = [&](int64_t n) {
    std::vector<double> list(static_cast<size_t>(n));
    for (double& s : list) s = rng.uniform();
    return list;
  };
  Scores scores{.hidden = draw(c.hidden), .layers = {}, .depth = draw(c.layers())};
  for (int64_t l = 0; l < c.layers(); ++l) {
    auto& layer = scores.layers.emplace_back();
    for (const Axis axis : axes_of(c, c.kind(l))) layer[axis] = draw(unit_count(c, axis));
  }
  return scores;
}

std::vector<float> logits_of(const ModelConfig& c, Weights& weights) {
  constexpr int64_t kTokens = 37;
  Rng rng(5);
  Tensor ids(Device::kCpu, DType::kI32, {kTokens});
  for (int64_t t = 0; t < kTokens; ++t)
    ids.ptr<int32_t>()[t] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(c.vocab)));
  const int32_t offsets[] = {0, 9, kTokens};
  Context ctx(Device::kCpu);
  Arena arena(Device::kCpu);
  LayerRun run{
      .ctx = ctx, .arena = arena, .config = c, .segments = Segments(offsets), .save = false};
  const auto w = weights.params();
  const ModelActs acts = model_forward(run, w, ids.view());
  Tensor out(Device::kCpu, DType::kF32, {kTokens, c.vocab});
  model_logits(ctx, w, acts.final_norm.normed, out.view());
  return {out.ptr<float>(), out.ptr<float>() + out.size()};
}

std::vector<float> masters_of(const Weights& weights) {
  std::vector<float> all;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ConstView w = weights.master(i);
    all.insert(all.end(), w.ptr<float>(), w.ptr<float>() + w.size());
  }
  return all;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / norm);
}

// A token passes at most five sums a layer (norm, product in, convolution or scan, norm or softmax,
// product out) and two at the end. Each adds the same K terms in another order, which moves it by
// sqrt(K) roundings of 2^-24 on either side, as a random walk; norms keep the stream at its scale,
// so the relative error of the logits is at most the sum over the path, times 2 for the squares and
// products inside mixers that double a relative error.
double summation_bound(const ModelConfig& c) {
  const int64_t longest =
      std::max({c.hidden, c.inner(), c.query_heads * c.head_dim, c.ffn, c.expert_ffn});
  return 2.0 * 2.0 * static_cast<double>(5 * c.layers() + 2) *
         std::sqrt(static_cast<double>(longest)) * 0x1p-24;
}

// Sorts, compares the logits, undoes, compares the weights.
void expect_equal_and_undone(const ModelConfig& c, Weights& weights, const Order& order) {
  const std::vector<float> before = masters_of(weights);
  const std::vector<float> logits = logits_of(c, weights);
  apply_order(c, order, weights);
  const std::vector<float> sorted = masters_of(weights);
  EXPECT_NE(before, sorted);
  EXPECT_LE(distance(logits_of(c, weights), logits), summation_bound(c));
  apply_order(c, inverse(c, order), weights);
  const std::vector<float> after = masters_of(weights);
  EXPECT_EQ(0, std::memcmp(before.data(), after.data(), before.size() * sizeof(float)));
}

struct Groups {
  int64_t state, kv, gate;
};
class OrderOf : public ::testing::TestWithParam<Groups> {};

TEST_P(OrderOf, SortedParentComputesTheSame) {
  const ModelConfig c = all_kinds(GetParam().state, GetParam().kv, GetParam().gate);
  Weights weights(c, Device::kCpu, {});
  fill(weights);
  expect_equal_and_undone(c, weights, order_from_scores(c, random_scores(c, 3)));
}

// Each axis alone: an error in one is not hidden by, nor blamed on, another.
TEST_P(OrderOf, EveryAxisAloneComputesTheSame) {
  const ModelConfig c = all_kinds(GetParam().state, GetParam().kv, GetParam().gate);
  Weights weights(c, Device::kCpu, {});
  fill(weights);
  const Scores all = random_scores(c, 6);
  for (const Axis axis :
       {Axis::kHidden, Axis::kMambaHeads, Axis::kMambaChannels, Axis::kState, Axis::kQueryHeads,
        Axis::kFfn, Axis::kExperts, Axis::kExpertFfn, Axis::kSharedFfn}) {
    SCOPED_TRACE(axis_name(axis));
    Scores one = all;
    if (axis != Axis::kHidden) one.hidden.assign(one.hidden.size(), 0.0);
    for (auto& layer : one.layers)
      for (auto& [mine, list] : layer)
        if (mine != axis) list.assign(list.size(), 0.0);
    expect_equal_and_undone(c, weights, order_from_scores(c, one));
  }
}

TEST_P(OrderOf, FallsWithinEveryGroupAndStaysThere) {
  const ModelConfig c = all_kinds(GetParam().state, GetParam().kv, GetParam().gate);
  const Scores scores = random_scores(c, 9);
  const Order order = order_from_scores(c, scores);
  const auto expect_strided = [&](size_t layer, Axis axis, int64_t groups) {
    const auto& list = order.layers[layer].at(axis);
    const auto& score = scores.layers[layer].at(axis);
    for (int64_t i = 0; i < std::ssize(list); ++i) {
      const auto unit = static_cast<size_t>(list[static_cast<size_t>(i)]);
      EXPECT_EQ(static_cast<int64_t>(unit) % groups, i % groups);
      if (i < groups) continue;
      EXPECT_LE(score[unit], score[static_cast<size_t>(list[static_cast<size_t>(i - groups)])]);
    }
  };
  expect_strided(0, Axis::kMambaHeads, c.groups);
  expect_strided(0, Axis::kState, c.groups);
  expect_strided(0, Axis::kMambaChannels, 1);
  expect_strided(1, Axis::kQueryHeads, c.kv_heads);
  const auto& experts = order.layers[4].at(Axis::kExperts);
  const auto& channels = order.layers[4].at(Axis::kExpertFfn);
  for (int64_t i = 0; i < std::ssize(channels); ++i)
    EXPECT_EQ(channels[static_cast<size_t>(i)] / c.expert_ffn,
              experts[static_cast<size_t>(i / c.expert_ffn)]);
  const int64_t size = c.experts / c.gate.groups;
  for (int64_t e = 0; e < c.experts; ++e)
    EXPECT_EQ(experts[static_cast<size_t>(e)] / size, e / size);
}

INSTANTIATE_TEST_SUITE_P(Groups, OrderOf,
                         ::testing::Values(Groups{1, 1, 1}, Groups{2, 2, 2}, Groups{4, 3, 4}),
                         [](const auto& test) { return str("g", test.param.state); });

TEST(Order, OfEqualScoresIsTheParents) {
  const ModelConfig c = all_kinds(2, 2, 1);
  Scores flat = random_scores(c, 1);
  flat.hidden.assign(flat.hidden.size(), 1.0);
  flat.depth.assign(flat.depth.size(), 1.0);
  for (auto& layer : flat.layers)
    for (auto& [axis, list] : layer) list.assign(list.size(), 1.0);
  EXPECT_EQ(order_from_scores(c, flat), identity_order(c));
}

TEST(Order, KeepsDepthWhenUndone) {
  const ModelConfig c = all_kinds(2, 2, 1);
  const Order order = order_from_scores(c, random_scores(c, 12));
  EXPECT_EQ(inverse(c, order).depth, order.depth);
  EXPECT_EQ(inverse(c, inverse(c, order)), order);
}

TEST(Order, RefreshesTheCopiesProductsRead) {
  const ModelConfig c = all_kinds(2, 2, 1);
  Weights weights(c, Device::kCpu, {.compute = DType::kBF16});
  weights.initialize(2);
  apply_order(c, order_from_scores(c, random_scores(c, 3)), weights);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const View low = weights.low(i);
    const float* master = weights.master(i).ptr<float>();
    for (int64_t k = 0; k < low.size(); ++k)
      ASSERT_EQ(static_cast<float>(low.ptr<bf16>()[k]), static_cast<float>(bf16(master[k])));
  }
}

TEST(Order, RefusesWhatDoesNotFit) {
  const ModelConfig c = all_kinds(2, 2, 1);
  Scores scores = random_scores(c, 3);
  scores.layers[0].at(Axis::kMambaHeads)[4] = std::nan("");
  testing::expect_error([&] { order_from_scores(c, scores); },
                        {"mamba_heads of layer 0: score nan of unit 4"}, ErrorKind::kRuntime);
  scores = random_scores(c, 3);
  scores.hidden.pop_back();
  testing::expect_error([&] { order_from_scores(c, scores); },
                        {"scores: hidden: 23 units, the architecture has 24"});
  Order order = identity_order(c);
  std::swap(order.layers[0].at(Axis::kMambaHeads)[0], order.layers[0].at(Axis::kMambaHeads)[1]);
  testing::expect_error(
      [&] { check_order(c, order); },
      {"order: mamba_heads of layer 0: unit 1 in place 0 is of group 1, needs 0"});
  order = identity_order(c);
  order.depth[1] = 0;
  testing::expect_error([&] { check_order(c, order); },
                        {"order: layers: unit 0 in place 1 makes no permutation"});
}

TEST(Order, OfTheSeedParent) {
  LoadedModel parent(testing::source_dir() / "data" / "parents" / "tiny-reasoner", DType::kF32);
  expect_equal_and_undone(parent.config(), parent.weights(),
                          order_from_scores(parent.config(), random_scores(parent.config(), 2)));
}

}  // namespace
}  // namespace nestling
