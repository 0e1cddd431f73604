#include "runtime/decoder.h"

#include <algorithm>

#include "kernels/core/host_view.h"
#include "kernels/ops/elementwise.h"
#include "model/model.h"

namespace nestling {

Decoder::Decoder(Context& ctx, LoadedModel& model, int64_t batch, int64_t capacity)
    : ctx_(ctx),
      model_(model),
      params_(model.params()),
      batch_(batch),
      state_(ctx.device(), model.config(), params_, batch, capacity, model.activations()),
      tokens_(ctx.device(), DType::kI32, {batch}),
      normed_(ctx.device(), DType::kF32, {batch, params_.embeddings.dim(1)}),
      logits_(ctx.device(), DType::kF32, {batch, model.config().vocab}) {}

void Decoder::prefill(const std::vector<std::vector<int32_t>>& prompts) {
  NESTLING_CHECK(std::ssize(prompts) == batch_, prompts.size(), " prompts for a batch of ", batch_);
  std::vector<int32_t> flat;
  std::vector<int32_t> offsets = {0};
  for (size_t i = 0; i < prompts.size(); ++i) {
    NESTLING_CHECK_INPUT(!prompts[i].empty(), "prompt ", i, " is empty");
    NESTLING_CHECK(length(static_cast<int64_t>(i)) == 0, "prefill onto ",
                   length(static_cast<int64_t>(i)), " tokens");
    flat.insert(flat.end(), prompts[i].begin(), prompts[i].end());
    offsets.push_back(static_cast<int32_t>(flat.size()));
  }
  Arena arena(ctx_.device());
  const ConstView ids = device_view(ctx_, arena, flat);
  const Segments segments(offsets);
  LayerRun run{.ctx = ctx_,
               .arena = arena,
               .config = model_.config(),
               .segments = segments,
               .save = false,
               .activations = model_.activations()};
  const ModelActs acts = model_forward(run, params_, ids, &state_.caches());
  state_.set_lengths(segments);
  for (int64_t b = 0; b < batch_; ++b)
    cast(ctx_, normed_.view().slice(0, b, 1),
         acts.final_norm.normed.slice(0, segments.end(b) - 1, 1));
}

void Decoder::step(std::span<const int32_t> tokens) {
  NESTLING_CHECK(std::ssize(tokens) == batch_, tokens.size(), " tokens for a batch of ", batch_);
  sampled_.assign(tokens.begin(), tokens.end());
  send(ctx_, tokens_.view().prefix(0, batch_), host_view(sampled_));
  state_.advance();
  StepRun run{.ctx = ctx_, .config = model_.config(), .lengths = state_.lengths()};
  model_step(run, params_, tokens_.view().prefix(0, batch_), state_.caches(),
             normed_.view().prefix(0, batch_));
}

void Decoder::drop(int64_t b) {
  state_.drop(ctx_, b);
  batch_ -= 1;
  if (b < batch_) copy(ctx_, normed_.view().slice(0, b, 1), normed_.view().slice(0, batch_, 1));
}

std::span<const int32_t> Decoder::sample(const SamplingRule& rule, uint64_t seed,
                                         std::span<const uint64_t> streams, uint64_t position) {
  const View logits = logits_.view().prefix(0, batch_);
  model_logits(ctx_, params_, normed_.view().prefix(0, batch_), logits);
  nestling::sample(ctx_, {.tokens = tokens_.view().prefix(0, batch_),
                          .logits = logits,
                          .rule = rule,
                          .seed = seed,
                          .streams = streams,
                          .position = position});
  sampled_.resize(static_cast<size_t>(batch_));
  ctx_.synchronize();
  copy(host_view(sampled_), tokens_.view().prefix(0, batch_));
  return sampled_;
}

}  // namespace nestling
