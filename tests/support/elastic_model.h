// elastic_model.h - a small hybrid model with every axis, the loss and gradients of one batch on it,
// and distances between views, for the tests of masks and slices.
#pragma once
#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/rng.h"
#include "kernels/ops/loss.h"
#include "model/model.h"
#include "model/weights.h"
#include "model/widths.h"

namespace nestling::testing {

inline ModelConfig elastic_config() {
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
  c.validate("elastic");
  return c;
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

inline Tensor random_ids(int64_t count, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  Tensor ids(Device::kCpu, DType::kI32, {count});
  for (int64_t t = 0; t < count; ++t)
    ids.ptr<int32_t>()[t] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab)));
  return ids;
}

inline constexpr int64_t kBatchTokens = 21;  // in two segments
inline constexpr int64_t kLossChunk = 8;     // of the loss: several

struct BatchLoss {
  double loss = 0;                // mean over the tokens
  int64_t peak_bytes = 0;         // of the activations
  std::vector<int32_t> selected;  // experts of every token, rising, layer by layer
};

// One batch through the model; gradients accumulate into g, which may be prefix views, and into
// mask_grads. Without g forward only.
inline BatchLoss batch_loss(const ModelConfig& config, const ModelParams<Weight>& w,
                            const ModelParams<View>* g = nullptr, const ModelMasks* masks = nullptr,
                            const ModelMaskGrads* mask_grads = nullptr, bool recompute = false,
                            bool fresh = false) {
  constexpr int64_t kTokens = kBatchTokens;
  Tensor ids = random_ids(kTokens, config.vocab, 5);
  Tensor targets = random_ids(kTokens, config.vocab, 6);
  const int32_t offsets[] = {0, 9, kTokens};
  Context ctx(Device::kCpu);
  Arena arena(Device::kCpu);
  arena.set_poison(true);
  ctx.scratch().set_poison(true);
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config,
               .segments = Segments(offsets),
               .recompute = recompute,
               .fresh = fresh,
               .masks = masks,
               .mask_grads = mask_grads};
  const ModelActs acts = model_forward(run, w, ids.view());
  const View dx = g ? arena.alloc(DType::kF32, {kTokens, w.embeddings.dim(1)}) : View();
  const View nll = arena.alloc(DType::kF32, {kTokens});
  head_loss(ctx, {.nll = nll,
                  .dx = dx,
                  .dw = g ? (config.tied ? g->embeddings : g->head) : View(),
                  .x = acts.final_norm.normed,
                  .w = w.head,
                  .targets = targets.view(),
                  .ce_weight = 1.0f / kTokens,
                  .logit_scale = w.logit_scale,
                  .chunk = kLossChunk,
                  .accumulate_dw = !fresh});
  BatchLoss result;
  for (int64_t t = 0; t < kTokens; ++t) result.loss += nll.ptr<float>()[t] / kTokens;
  for (const LayerActs& layer : acts.layers)
    if (const auto* moe = std::get_if<MoeActs>(&layer); moe != nullptr && moe->index)
      for (int64_t t = 0; t < moe->index.dim(0); ++t) {
        const int64_t k = moe->index.dim(1);
        const int32_t* first = moe->index.ptr<int32_t>() + t * k;
        result.selected.insert(result.selected.end(), first, first + k);
        std::sort(result.selected.end() - k, result.selected.end());
      }
  if (g) model_backward(run, w, *g, acts, ids.view(), dx);
  result.peak_bytes = arena.peak_bytes();
  return result;
}

// The loss of the same batch by a forward that saves nothing.
inline double inference_loss(const ModelConfig& config, const ModelParams<Weight>& w,
                             const ModelMasks* masks) {
  Tensor ids = random_ids(kBatchTokens, config.vocab, 5);
  Tensor targets = random_ids(kBatchTokens, config.vocab, 6);
  const int32_t offsets[] = {0, 9, kBatchTokens};
  Context ctx(Device::kCpu);
  Arena arena(Device::kCpu);
  arena.set_poison(true);
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config,
               .segments = Segments(offsets),
               .save = false,
               .masks = masks};
  const ModelActs acts = model_forward(run, w, ids.view());
  const View nll = arena.alloc(DType::kF32, {kBatchTokens});
  head_loss(ctx, {.nll = nll,
                  .x = acts.final_norm.normed,
                  .w = w.head,
                  .targets = targets.view(),
                  .logit_scale = w.logit_scale,
                  .chunk = kLossChunk});
  double loss = 0;
  for (int64_t t = 0; t < kBatchTokens; ++t) loss += nll.ptr<float>()[t] / kBatchTokens;
  return loss;
}

// What a forward and a backward of 20 tokens count, by operator.
using WorkByOp = std::map<std::string, Work, std::less<>>;
inline WorkByOp forward_backward_work(const ModelConfig& config, Device device,
                                      const ModelMasks* masks = nullptr,
                                      const ModelMaskGrads* mask_grads = nullptr) {
  Weights weights(config, device, {.compute = DType::kF32, .gradients = true});
  if (device == Device::kCpu) weights.initialize(1);
  Context ctx(device);
  Arena arena(device);
  Tensor ids(device, DType::kI32, {20});
  const int32_t offsets[] = {0, 20};
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config,
               .segments = Segments(offsets),
               .masks = masks,
               .mask_grads = mask_grads};
  const ModelActs acts = model_forward(run, weights.params(), ids.view());
  const View dx = arena.alloc(DType::kF32, {20, config.hidden});
  fill_zero(dx);
  model_backward(run, weights.params(), weights.grads(), acts, ids.view(), dx);
  return ctx.work();
}

inline void expect_same_work(const WorkByOp& got, const WorkByOp& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [op, work] : want) {
    EXPECT_EQ(got.at(op).flops, work.flops) << op;
    EXPECT_EQ(got.at(op).bytes, work.bytes) << op;
    EXPECT_EQ(got.at(op).calls, work.calls) << op;
  }
}

inline std::vector<float> dense_values(ConstView v) {
  Tensor dense(Device::kCpu, DType::kF32, {v.size()});
  Extents shape{};
  for (int d = 0; d < v.rank(); ++d) shape[static_cast<size_t>(d)] = v.dim(d);
  copy(View(dense.view().data(), DType::kF32, Device::kCpu, shape, v.rank()), v);
  return {dense.ptr<float>(), dense.ptr<float>() + v.size()};
}

inline double norm_of(ConstView v) {
  double sum = 0;
  for (const float x : dense_values(v)) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

// L2 distance of two views of one shape.
inline double distance(ConstView a, ConstView b) {
  const std::vector<float> x = dense_values(a), y = dense_values(b);
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = static_cast<double>(x[i]) - y[i];
    error += d * d;
  }
  return std::sqrt(error);
}

// A size of `full`, three ways to hold it: prefix views of the whole weights and of their gradients,
// and the model cut out.
struct CutModel {
  ModelParams<Weight> views;
  ModelParams<View> gradients;
  ModelConfig small;
  Weights alone;
  CutModel(const ModelConfig& full, const Widths& widths, Weights& whole)
      : views(prefix_parameters(full, widths, whole.params())),
        gradients(prefix_parameters(full, widths, whole.grads())),
        small(cut_config(full, widths)),
        alone(small, Device::kCpu, {.compute = DType::kF32, .gradients = true}) {
    const auto inside = present(full, views);
    NESTLING_CHECK(std::ssize(inside) == alone.count(), "a cut model of ", alone.count(),
                   " parameters from ", inside.size(), " views");
    for (int64_t i = 0; i < alone.count(); ++i)
      copy(alone.master(i), inside[static_cast<size_t>(i)].second);
  }
};

}  // namespace nestling::testing
