#include "trainer/optimizer.h"

#include "kernels/core/span.h"
#include "kernels/ops/adamw.h"

namespace nestling {

namespace {
// Every tensor starts on a 256-byte boundary.
int64_t aligned(int64_t elements) {
  constexpr int64_t kLine = 64;
  return (elements + kLine - 1) / kLine * kLine;
}
}  // namespace

WeightsOptimizer::WeightsOptimizer(Weights& weights, const OptimizerConfig& config)
    : weights_(weights), config_(config) {
  int64_t total = 0;
  for (const ParameterSpec& spec : weights_.specs())
    if (spec.trained) total += aligned(spec.size());
  const Holder holder{Pool::kOptimizer, "moments"};
  m_ = Tensor(weights_.device(), DType::kF32, {total}, holder);
  v_ = Tensor(weights_.device(), DType::kF32, {total}, holder);
  int64_t at = 0;
  for (const ParameterSpec& spec : weights_.specs()) {
    Moments& own = moments_.emplace_back();
    if (!spec.trained) continue;
    own = {.m = m_.view().slice(0, at, spec.size()), .v = v_.view().slice(0, at, spec.size())};
    at += aligned(spec.size());
  }
}

void WeightsOptimizer::reduce_gradients(Context& ctx, Comm& comm, View norm) {
  const Span span(ctx, "gradient norm");
  comm.all_reduce(ctx, weights_.flat_gradients(), Reduce::kSum);
  std::vector<ConstView> grads;
  for (int64_t i = 0; i < weights_.count(); ++i)
    if (const View g = weights_.grad(i)) grads.push_back(g.reshape({g.size()}));
  global_norm(ctx, {.norm = norm, .grads = grads});
}

void WeightsOptimizer::step(Context& ctx, double lr, int64_t update, double grad_norm) {
  const Span span(ctx, "optimizer");
  const double scale =
      config_.clip > 0 && grad_norm > config_.clip ? config_.clip / grad_norm : 1.0;
  std::vector<AdamWTensor> tensors;
  for (int64_t i = 0; i < weights_.count(); ++i) {
    const ParameterSpec& spec = weights_.specs()[static_cast<size_t>(i)];
    if (!spec.trained) continue;
    const auto flat = [&](View v) { return v ? v.reshape({spec.size()}) : v; };
    tensors.push_back({.master = flat(weights_.master(i)),
                       .m = moments_[static_cast<size_t>(i)].m,
                       .v = moments_[static_cast<size_t>(i)].v,
                       .grad = flat(weights_.grad(i)),
                       .low = flat(weights_.low(i)),
                       .lr = static_cast<float>(lr),
                       .decay = spec.decay ? static_cast<float>(config_.weight_decay) : 0.0f});
  }
  adamw_step(ctx, {.tensors = tensors,
                   .beta1 = static_cast<float>(config_.beta1),
                   .beta2 = static_cast<float>(config_.beta2),
                   .eps = static_cast<float>(config_.eps),
                   .step = update,
                   .grad_scale = static_cast<float>(scale)});
  weights_.refresh_codes(ctx);
}

int64_t WeightsOptimizer::moment_bytes() const {
  return m_.allocated_bytes() + v_.allocated_bytes();
}

std::vector<NamedState> WeightsOptimizer::state() {
  std::vector<NamedState> all;
  for (int64_t i = 0; i < weights_.count(); ++i) {
    const std::string& name = weights_.specs()[static_cast<size_t>(i)].name;
    all.push_back({name, weights_.master(i)});
    const Moments& moments = moments_[static_cast<size_t>(i)];
    if (!moments.m) continue;
    all.push_back({name + "#m", moments.m});
    all.push_back({name + "#v", moments.v});
  }
  return all;
}

}  // namespace nestling
