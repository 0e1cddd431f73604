#include "trainer/optimizer.h"

#include "kernels/core/span.h"
#include "kernels/ops/adamw.h"

namespace nestling {

namespace {

// The first block of every parameter, in the order of the flat memory of whole weights: what products make, then the
// rest. However ranks share, a block has one place in the sum.
std::vector<int64_t> places_of_blocks(const std::vector<ParameterSpec>& specs) {
  std::vector<int64_t> first(specs.size() + 1, 0);
  int64_t next = 0;
  for (const bool by_product : {true, false})
    for (size_t i = 0; i < specs.size(); ++i) {
      if (specs[i].gradient_by_product != by_product) continue;
      first[i] = next;
      if (specs[i].trained) next += norm_blocks(specs[i].size());
    }
  first.back() = next;
  return first;
}

View run_of(View whole, const ParameterRun& run) {
  return whole ? whole.reshape({whole.size()}).slice(0, run.begin, run.count) : whole;
}

}  // namespace

WeightsOptimizer::WeightsOptimizer(Weights& weights, const OptimizerConfig& config, Comm& comm)
    : weights_(weights),
      config_(config),
      comm_(comm),
      shares_(shares_of(weights.flat_places(), weights.flat_size(), comm.size())),
      norm_blocks_(places_of_blocks(weights.specs())) {
  const Holder holder{Pool::kOptimizer, "moments"};
  const auto moment = [&](int64_t size) {
    return Tensor(weights_.device(), DType::kF32, {size}, holder);
  };
  m_ = moment(own().count);
  v_ = moment(own().count);
  if (SharedLayers* layers = weights_.shared_layers()) {
    layers_m_ = moment(layers->size());
    layers_v_ = moment(layers->size());
  }
}

std::vector<View> WeightsOptimizer::pieces(View flat) const {
  std::vector<View> all;
  for (const Share& share : shares_) all.push_back(flat.slice(0, share.begin, share.count));
  return all;
}

std::vector<WeightsOptimizer::Stepped> WeightsOptimizer::stepped() {
  std::vector<Stepped> all;
  if (SharedLayers* layers = weights_.shared_layers())
    for (const SharedLayers::Run& run : layers->runs()) {
      const auto part = [&](View shares) {
        return shares ? shares.slice(0, run.at, run.of.count) : shares;
      };
      all.push_back({.of = run.of,
                     .master = part(layers->masters()),
                     .grad = part(layers->gradients()),
                     .m = part(layers_m_),
                     .v = part(layers_v_),
                     .low = part(layers->low())});
    }
  const bool alone =
      comm_.size() == 1;  // else low copies are made of masters that come from all ranks
  for (const ParameterRun& run : own().runs) {
    const int64_t at = weights_.offset(run.parameter) + run.begin - own().begin;
    all.push_back({.of = run,
                   .master = run_of(weights_.master(run.parameter), run),
                   .grad = run_of(weights_.grad(run.parameter), run),
                   .m = m_.view().slice(0, at, run.count),
                   .v = v_.view().slice(0, at, run.count),
                   .low = alone ? run_of(weights_.low(run.parameter), run) : View()});
  }
  return all;
}

void WeightsOptimizer::reduce_gradients(Context& ctx, View norm) {
  const Span span(ctx, "gradient norm");
  const std::vector<View> gradients = pieces(weights_.flat_gradients());
  comm_.reduce_scatter(ctx, gradients[static_cast<size_t>(comm_.rank())],
                       std::vector<ConstView>(gradients.begin(), gradients.end()), Reduce::kSum);

  const Arena::Mark mark(ctx.scratch());
  const View sums = ctx.scratch().alloc(DType::kF64, {norm_blocks_.back()});
  fill_zero(ctx, sums);
  const std::vector<Stepped> mine = stepped();
  const auto block = [&](const ParameterRun& run) {
    return norm_blocks_[static_cast<size_t>(run.parameter)] + run.begin / kNormBlock;
  };
  for (size_t i = 0; i < mine.size();) {
    const int64_t first = block(mine[i].of);
    int64_t end = first;
    std::vector<ConstView> runs;  // whose blocks follow each other
    for (; i < mine.size() && block(mine[i].of) == end; ++i) {
      runs.emplace_back(mine[i].grad);
      end += norm_blocks(mine[i].of.count);
    }
    square_sums(ctx, {.sums = sums.slice(0, first, end - first), .grads = runs});
  }
  comm_.all_reduce(ctx, sums, Reduce::kSum);  // of one rank's value and zeros: that value
  norm_of_sums(ctx, {.norm = norm, .sums = sums});
}

void WeightsOptimizer::step(Context& ctx, double lr, int64_t update, double grad_norm) {
  const Span span(ctx, "optimizer");
  const double scale =
      config_.clip > 0 && grad_norm > config_.clip ? config_.clip / grad_norm : 1.0;
  std::vector<AdamWTensor> tensors;
  for (const Stepped& run : stepped()) {
    const ParameterSpec& spec = weights_.specs()[static_cast<size_t>(run.of.parameter)];
    tensors.push_back({.master = run.master,
                       .m = run.m,
                       .v = run.v,
                       .grad = run.grad,
                       .low = run.low,
                       .lr = static_cast<float>(lr),
                       .decay = spec.decay ? static_cast<float>(config_.weight_decay) : 0.0f});
  }
  adamw_step(ctx, {.tensors = tensors,
                   .beta1 = static_cast<float>(config_.beta1),
                   .beta2 = static_cast<float>(config_.beta2),
                   .eps = static_cast<float>(config_.eps),
                   .step = update,
                   .grad_scale = static_cast<float>(scale)});
  if (comm_.size() == 1) return weights_.refresh_codes(ctx);
  const std::vector<View> masters = pieces(weights_.flat_masters());
  comm_.all_gather(ctx, masters, masters[static_cast<size_t>(comm_.rank())]);
  weights_.refresh_whole(ctx);
}

int64_t WeightsOptimizer::moment_bytes() const {
  return m_.allocated_bytes() + v_.allocated_bytes() + layers_m_.allocated_bytes() +
         layers_v_.allocated_bytes();
}

TrainingState WeightsOptimizer::state() {
  TrainingState state;
  const bool root = comm_.rank() == 0;
  const View nothing = m_.view().slice(0, 0, 0);
  for (int64_t i = 0; i < weights_.count(); ++i) {
    const ParameterSpec& spec = weights_.specs()[static_cast<size_t>(i)];
    const StateRun none{.name = spec.name, .shape = spec.shape(), .view = nothing, .saved = false};
    state.push_back(weights_.shared(i)
                        ? none
                        : whole_run({spec.name, weights_.master(i)}, root && !spec.trained));
    for (const char* suffix : {"#m", "#v"})
      if (spec.trained)
        state.push_back(
            {.name = spec.name + suffix, .shape = {spec.size()}, .view = nothing, .saved = false});
  }
  for (const Stepped& run : stepped()) {
    const ParameterSpec& spec = weights_.specs()[static_cast<size_t>(run.of.parameter)];
    state.push_back(
        {.name = spec.name, .shape = spec.shape(), .begin = run.of.begin, .view = run.master});
    state.push_back(
        {.name = spec.name + "#m", .shape = {spec.size()}, .begin = run.of.begin, .view = run.m});
    state.push_back(
        {.name = spec.name + "#v", .shape = {spec.size()}, .begin = run.of.begin, .view = run.v});
  }
  return state;
}

}  // namespace nestling
