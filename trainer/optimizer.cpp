#include "trainer/optimizer.h"

#include "kernels/core/span.h"
#include "kernels/ops/adamw.h"

namespace nestling {

WeightsOptimizer::WeightsOptimizer(Weights& weights, const OptimizerConfig& config)
    : weights_(weights), config_(config) {
  const auto moment = [&](int64_t i) {
    const ConstView master = weights_.master(i);
    const bool trained = weights_.specs()[static_cast<size_t>(i)].trained;
    return trained ? Tensor(master.device(), DType::kF32, {master.size()}) : Tensor();
  };
  for (int64_t i = 0; i < weights_.count(); ++i) {
    m_.push_back(moment(i));
    v_.push_back(moment(i));
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
                       .m = m_[static_cast<size_t>(i)].view(),
                       .v = v_[static_cast<size_t>(i)].view(),
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
}

int64_t WeightsOptimizer::moment_bytes() const {
  int64_t bytes = 0;
  for (const std::vector<Tensor>* moments : {&m_, &v_})
    for (const Tensor& t : *moments) bytes += t.allocated_bytes();
  return bytes;
}

std::vector<NamedState> WeightsOptimizer::state() {
  std::vector<NamedState> all;
  for (int64_t i = 0; i < weights_.count(); ++i) {
    const std::string& name = weights_.specs()[static_cast<size_t>(i)].name;
    all.push_back({name, weights_.master(i)});
    if (!m_[static_cast<size_t>(i)]) continue;
    all.push_back({name + "#m", m_[static_cast<size_t>(i)].view()});
    all.push_back({name + "#v", v_[static_cast<size_t>(i)].view()});
  }
  return all;
}

}  // namespace nestling
