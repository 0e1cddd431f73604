// A smaller size is a prefix view of the full weights: forward and backward on the views equal those
// of the model cut out, and gradients outside the prefix stay exactly zero.
#include <cmath>
#include <gtest/gtest.h>
#include <map>

#include "kernels/core/rng.h"
#include "kernels/ops/loss.h"
#include "model/model.h"
#include "model/weights.h"
#include "model/widths.h"

namespace nestling {
namespace {

ModelConfig full_config() {
  ModelConfig c;
  c.pattern = "M*-ME";
  c.vocab = 40;
  c.hidden = 32;
  c.query_heads = 6;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.mamba_heads = 9;
  c.mamba_head_dim = 8;
  c.state = 32;
  c.groups = 3;
  c.conv_kernel = 4;
  c.chunk = 8;
  c.ffn = 48;
  c.experts = 6;
  c.top_k = 2;
  c.expert_ffn = 32;
  c.shared_ffn = 32;
  c.validate("full");
  return c;
}

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

// The fields that are there, in list order, with the name they have in the full model.
template <class V>
std::vector<std::pair<std::string, V>> present(const ModelConfig& config, ModelParams<V> p) {
  std::vector<std::pair<std::string, V>> list;
  visit_parameters(config, p, [&](V& field, const ParameterSpec& spec) {
    if (field) list.emplace_back(spec.name, field);
  });
  return list;
}

// Loss and gradients of one batch; g may be prefix views.
double loss_and_gradients(const ModelConfig& config, const ModelParams<ConstView>& w,
                          const ModelParams<View>& g) {
  constexpr int64_t kTokens = 21;
  Rng rng(5);
  Tensor ids(Device::kCpu, DType::kI32, {kTokens}), targets(Device::kCpu, DType::kI32, {kTokens});
  for (int64_t t = 0; t < kTokens; ++t) {
    ids.ptr<int32_t>()[t] = static_cast<int32_t>(rng.below(40));
    targets.ptr<int32_t>()[t] = static_cast<int32_t>(rng.below(40));
  }
  const int32_t offsets[] = {0, 9, kTokens};
  Context ctx(Device::kCpu);
  Arena arena(Device::kCpu);
  arena.set_poison(true);
  LayerRun run{.ctx = ctx, .arena = arena, .config = config, .segments = Segments(offsets)};
  const ModelActs acts = model_forward(run, w, ids.view());
  const View dx = arena.alloc(DType::kF32, {kTokens, w.embeddings.dim(1)});
  const View nll = arena.alloc(DType::kF32, {kTokens});
  head_loss(ctx, {.nll = nll,
                  .dx = dx,
                  .dw = g.head,
                  .x = acts.final_norm.normed,
                  .w = w.head,
                  .targets = targets.view(),
                  .ce_weight = 1.0f / kTokens});
  double loss = 0;
  for (int64_t t = 0; t < kTokens; ++t) loss += nll.ptr<float>()[t];
  model_backward(run, w, g, acts, ids.view(), dx);
  return loss / kTokens;
}

double norm_of(ConstView v) {
  double sum = 0;
  Tensor dense(Device::kCpu, DType::kF32, {v.size()});
  Extents shape{};
  for (int d = 0; d < v.rank(); ++d) shape[static_cast<size_t>(d)] = v.dim(d);
  copy(View(dense.view().data(), DType::kF32, Device::kCpu, shape, v.rank()), v);
  for (int64_t i = 0; i < v.size(); ++i)
    sum += static_cast<double>(dense.ptr<float>()[i]) * dense.ptr<float>()[i];
  return std::sqrt(sum);
}

// Relative L2 distance of two views of one shape.
double distance(ConstView a, ConstView b) {
  Tensor x(Device::kCpu, DType::kF32, {a.size()}), y(Device::kCpu, DType::kF32, {a.size()});
  Extents shape{};
  for (int d = 0; d < a.rank(); ++d) shape[static_cast<size_t>(d)] = a.dim(d);
  copy(View(x.view().data(), DType::kF32, Device::kCpu, shape, a.rank()), a);
  copy(View(y.view().data(), DType::kF32, Device::kCpu, shape, a.rank()), b);
  double error = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(x.ptr<float>()[i]) - y.ptr<float>()[i];
    error += d * d;
  }
  return std::sqrt(error);
}

class Slice : public ::testing::TestWithParam<std::pair<const char*, Cut>> {};

TEST_P(Slice, PrefixViewsEqualTheModelCutOut) {
  const ModelConfig full = full_config();
  const Widths widths = widths_of(full, GetParam().second);
  const ModelConfig small = cut_config(full, widths);
  Weights whole(full, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  whole.initialize(9);
  const auto views = prefix_parameters(full, widths, whole.params());
  const auto grads = prefix_parameters(full, widths, whole.grads());
  Weights alone(small, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  const auto inside = present(full, views);
  ASSERT_EQ(std::ssize(inside), alone.count());
  for (int64_t i = 0; i < alone.count(); ++i)
    copy(alone.master(i), inside[static_cast<size_t>(i)].second);

  const double sliced = loss_and_gradients(full, views, grads);
  const double cut_out = loss_and_gradients(small, alone.params(), alone.grads());
  // The same products in another memory layout: a few roundings of sums of at most 72 terms.
  EXPECT_NEAR(sliced, cut_out, 1e-6 * cut_out);
  const auto inner = present(full, grads);
  const auto outer = present(small, alone.grads());
  ASSERT_EQ(inner.size(), outer.size());
  for (size_t i = 0; i < inner.size(); ++i) {
    EXPECT_LE(distance(inner[i].second, outer[i].second), 1e-5 * norm_of(outer[i].second) + 1e-9)
        << inner[i].first;
    fill_zero(inner[i].second);
  }
  for (const auto& [name, gradient] : present(full, whole.grads()))
    EXPECT_EQ(norm_of(gradient), 0.0) << name << " has a gradient outside its prefix";
}

INSTANTIATE_TEST_SUITE_P(Axes, Slice,
                         ::testing::Values(std::pair{"full", Cut{}},
                                           std::pair{"hidden", Cut{{Axis::kHidden, 16}}},
                                           std::pair{"mamba_heads", Cut{{Axis::kMambaHeads, 6}}},
                                           std::pair{"state", Cut{{Axis::kState, 16}}},
                                           std::pair{"query_heads", Cut{{Axis::kQueryHeads, 4}}},
                                           std::pair{"ffn", Cut{{Axis::kFfn, 16}}},
                                           std::pair{"experts", Cut{{Axis::kExperts, 3}}},
                                           std::pair{"expert_ffn", Cut{{Axis::kExpertFfn, 16}}},
                                           std::pair{"shared_ffn", Cut{{Axis::kSharedFfn, 16}}},
                                           std::pair{"layers", Cut{{Axis::kLayers, 3}}},
                                           std::pair{"all", Cut{{Axis::kHidden, 16},
                                                                {Axis::kMambaHeads, 3},
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
  const ModelConfig config = full_config();
  std::map<std::string, Work, std::less<>> counted[2];
  for (const Device device : {Device::kCpu, Device::kNull}) {
    Weights weights(config, device, {.compute = DType::kF32, .gradients = true});
    if (device == Device::kCpu) weights.initialize(1);
    Context ctx(device);
    Arena arena(device);
    Tensor ids(device, DType::kI32, {20});
    const int32_t offsets[] = {0, 20};
    LayerRun run{.ctx = ctx, .arena = arena, .config = config, .segments = Segments(offsets)};
    const ModelActs acts = model_forward(run, weights.params(), ids.view());
    const View dx = arena.alloc(DType::kF32, {20, config.hidden});
    if (device == Device::kCpu) fill_zero(dx);
    model_backward(run, weights.params(), weights.grads(), acts, ids.view(), dx);
    counted[device == Device::kNull] = ctx.work();
  }
  ASSERT_EQ(counted[0].size(), counted[1].size());
  for (const auto& [op, work] : counted[0]) {
    EXPECT_EQ(work.flops, counted[1][op].flops) << op;
    EXPECT_EQ(work.bytes, counted[1][op].bytes) << op;
    EXPECT_EQ(work.calls, counted[1][op].calls) << op;
  }
}

}  // namespace
}  // namespace nestling
