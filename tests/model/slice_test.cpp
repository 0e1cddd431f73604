// A smaller size is a prefix view of the full weights: forward and backward on the views equal those
// of the model cut out, and gradients outside the prefix stay exactly zero.
#include <cmath>
#include <gtest/gtest.h>
#include <map>

#include "kernels/core/rng.h"
#include "kernels/ops/loss.h"
#include "model/model.h"
#include "model/weights.h"

namespace nestling {
namespace {

using Widths = std::map<Axis, int64_t>;

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
  c.state = 16;
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

ModelConfig narrowed(ModelConfig c, const Widths& widths) {
  const auto at = [&](Axis axis, int64_t full) {
    const auto found = widths.find(axis);
    return found == widths.end() ? full : found->second;
  };
  c.hidden = at(Axis::kHidden, c.hidden);
  c.mamba_heads = at(Axis::kMambaHeads, c.mamba_heads);
  c.state = at(Axis::kState, c.state);
  c.query_heads = at(Axis::kQueryHeads, c.query_heads);
  c.ffn = at(Axis::kFfn, c.ffn);
  c.experts = at(Axis::kExperts, c.experts);
  c.expert_ffn = at(Axis::kExpertFfn, c.expert_ffn);
  c.shared_ffn = at(Axis::kSharedFfn, c.shared_ffn);
  c.validate("narrowed");
  return c;
}

template <class V>
V cut(V view, const ParameterSpec& spec, const Widths& widths) {
  if (!view) return view;
  for (size_t d = 0; d < spec.dims.size(); ++d) {
    const auto found = widths.find(spec.dims[d].axis);
    if (found != widths.end()) view = view.prefix(static_cast<int>(d), found->second);
  }
  return view;
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

class Slice : public ::testing::TestWithParam<std::pair<const char*, Widths>> {};

TEST_P(Slice, PrefixViewsEqualTheModelCutOut) {
  const Widths& widths = GetParam().second;
  const ModelConfig full = full_config();
  const ModelConfig small = narrowed(full, widths);
  Weights whole(full, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  whole.initialize(9);
  const auto& specs = whole.specs();
  const auto views = bind_parameters<ConstView>(full, [&](int64_t i) {
    return cut<ConstView>(whole.master(i), specs[static_cast<size_t>(i)], widths);
  });
  const auto grads = bind_parameters<View>(full, [&](int64_t i) {
    return cut<View>(whole.grad(i), specs[static_cast<size_t>(i)], widths);
  });
  Weights alone(small, Device::kCpu, {.compute = DType::kF32, .gradients = true});
  for (int64_t i = 0; i < alone.count(); ++i)
    copy(alone.master(i), cut<ConstView>(whole.master(i), specs[static_cast<size_t>(i)], widths));

  const double sliced = loss_and_gradients(small, views, grads);
  const double cut_out = loss_and_gradients(small, alone.params(), alone.grads());
  // The same products in another memory layout: a few roundings of sums of at most 72 terms.
  EXPECT_NEAR(sliced, cut_out, 1e-6 * cut_out);
  for (int64_t i = 0; i < alone.count(); ++i) {
    if (!alone.grad(i)) continue;
    const ParameterSpec& spec = specs[static_cast<size_t>(i)];
    const View inside = cut<View>(whole.grad(i), spec, widths);
    EXPECT_LE(distance(inside, alone.grad(i)), 1e-5 * norm_of(alone.grad(i)) + 1e-9) << spec.name;
    fill_zero(inside);
    EXPECT_EQ(norm_of(whole.grad(i)), 0.0) << spec.name << " has a gradient outside its prefix";
  }
}

INSTANTIATE_TEST_SUITE_P(Axes, Slice,
                         ::testing::Values(std::pair{"full", Widths{}},
                                           std::pair{"hidden", Widths{{Axis::kHidden, 16}}},
                                           std::pair{"mamba_heads", Widths{{Axis::kMambaHeads, 6}}},
                                           std::pair{"state", Widths{{Axis::kState, 8}}},
                                           std::pair{"query_heads", Widths{{Axis::kQueryHeads, 4}}},
                                           std::pair{"ffn", Widths{{Axis::kFfn, 16}}},
                                           std::pair{"experts", Widths{{Axis::kExperts, 3}}},
                                           std::pair{"expert_ffn", Widths{{Axis::kExpertFfn, 16}}},
                                           std::pair{"shared_ffn", Widths{{Axis::kSharedFfn, 16}}},
                                           std::pair{"all", Widths{{Axis::kHidden, 16},
                                                                   {Axis::kMambaHeads, 3},
                                                                   {Axis::kState, 8},
                                                                   {Axis::kQueryHeads, 2},
                                                                   {Axis::kFfn, 32},
                                                                   {Axis::kExperts, 4},
                                                                   {Axis::kExpertFfn, 16},
                                                                   {Axis::kSharedFfn, 16}}}),
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
