#include "trainer/depth_search.h"

#include <cmath>
#include <limits>

#include "kernels/core/host_view.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/unit_sums.h"
#include "model/model.h"
#include "model/widths.h"

namespace nestling {

namespace {

class DepthSearch {
 public:
  DepthSearch(Context& ctx, Arena& arena, const ModelConfig& config, const ModelParams<Weight>& w,
              std::span<const Batch> batches, DType activations, Comm& comm,
              const std::function<void()>& between)
      : ctx_(ctx),
        arena_(arena),
        mark_(arena),
        config_(config),
        w_(w),
        batches_(batches),
        activations_(activations),
        comm_(comm),
        between_(between),
        widths_(full_widths(config)),
        gram_(arena.alloc(DType::kF32, {config.hidden, config.hidden})) {
    for (const Batch& b : batches)
      parent_.push_back(arena_.alloc(DType::kF32, {std::ssize(b.tokens), config.hidden}));
    const Arena::Mark mark(arena_);
    ConstView head = w.head;
    if (head.dtype() == DType::kBF16) {
      const View wide = arena_.alloc(DType::kF32, {head.dim(0), head.dim(1)});
      cast(ctx, wide, head);
      head = wide;
    }
    fill_zero(ctx, gram_);
    linear_backward(ctx, {.dw = gram_, .dy = head, .x = head, .w = gram_});
  }

  std::vector<double> run() {
    const auto layers = static_cast<size_t>(config_.layers());
    std::vector<double> scores(layers);
    double norm = 0;
    for (size_t b = 0; b < batches_.size(); ++b) norm += parent_norm(b);
    norm = sum_over_ranks({norm})[0];
    NESTLING_CHECK(norm > 0, "depth search: the logits are all zero, or there are no tokens");
    double last = 0;
    for (size_t round = 0; round < layers; ++round) {
      const std::vector<double> errors = sum_over_ranks(errors_without_each());
      size_t best = layers;
      for (size_t l = 0; l < layers; ++l) {
        if (widths_.layers[l].kept == 0) continue;
        NESTLING_CHECK(std::isfinite(errors[l]), "depth search: error ", errors[l],
                       " without layer ", l);
        if (best == layers || errors[l] < errors[best]) best = l;
      }
      last =
          std::max(errors[best] / norm, std::nextafter(last, std::numeric_limits<double>::max()));
      scores[best] = last;
      widths_.layers[best].kept = 0;
    }
    return scores;
  }

 private:
  // into = final hidden states of batch b with the layers kept now, f32.
  void forward(size_t b, View into) {
    const Arena::Mark mark(arena_);
    const Batch& batch = batches_[b];
    LayerRun run{.ctx = ctx_,
                 .arena = arena_,
                 .config = config_,
                 .segments = Segments(batch.cu_seqlens),
                 .save = false,
                 .activations = activations_};
    const ConstView ids = device_view(ctx_, arena_, batch.tokens);
    cast(ctx_, into,
         model_forward(run, prefix_parameters(config_, widths_, w_), ids).final_norm.normed);
  }
  // sum over tokens of |d W^T|^2
  double squared_logits(ConstView d) {
    const Arena::Mark mark(arena_);
    const View product = arena_.alloc(DType::kF32, {d.dim(0), d.dim(1)});
    linear_forward(ctx_, {.y = product, .x = d, .w = gram_});
    const View sum = arena_.alloc(DType::kF64, {1});
    fill_zero(ctx_, sum);
    add_products(ctx_, {.sum = sum, .a = d, .b = product});
    ctx_.synchronize();
    if (ctx_.device() == Device::kNull) return 1;  // nothing is there to be read
    return *on_host(sum).ptr<double>();
  }
  double parent_norm(size_t b) {
    forward(b, parent_[b]);
    return squared_logits(parent_[b]);
  }
  double error(size_t b) {
    const Arena::Mark mark(arena_);
    const View d = arena_.alloc(DType::kF32, {parent_[b].dim(0), config_.hidden});
    forward(b, d);
    add_scaled(ctx_, d, parent_[b], -1.0f);
    return squared_logits(d);
  }
  std::vector<double> errors_without_each() {
    std::vector<double> errors(widths_.layers.size());
    for (size_t l = 0; l < errors.size(); ++l) {
      if (widths_.layers[l].kept == 0) continue;
      widths_.layers[l].kept = 0;
      for (size_t b = 0; b < batches_.size(); ++b) errors[l] += error(b);
      widths_.layers[l].kept = 1;
      if (between_) between_();
    }
    return errors;
  }
  std::vector<double> sum_over_ranks(std::vector<double> values) {
    const View host = host_view(values);
    Tensor shared(ctx_.device(), DType::kF64, {std::ssize(values)});
    copy(shared.view(), host);
    comm_.all_reduce(ctx_, shared.view(), Reduce::kSum);
    ctx_.synchronize();
    copy(host, shared.view());
    return values;
  }

  Context& ctx_;
  Arena& arena_;
  const Arena::Mark mark_;
  const ModelConfig& config_;
  const ModelParams<Weight>& w_;
  std::span<const Batch> batches_;
  DType activations_;
  Comm& comm_;
  const std::function<void()>& between_;
  Widths widths_;             // which layers are still there
  View gram_;                 // [D, D]
  std::vector<View> parent_;  // [T, D] a batch
};

}  // namespace

std::vector<double> search_depth(Context& ctx, Arena& arena, const ModelConfig& config,
                                 const ModelParams<Weight>& w, std::span<const Batch> batches,
                                 DType activations, Comm& comm,
                                 const std::function<void()>& between) {
  return DepthSearch(ctx, arena, config, w, batches, activations, comm, between).run();
}

}  // namespace nestling
