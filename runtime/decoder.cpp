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

namespace {

// Tokens of a prompt whose logits exist at once.
constexpr int64_t kLogitTokens = 256;

void show_logits(Context& ctx, const ModelParams<Weight>& params, Arena& arena, ConstView normed,
                 int64_t vocab, const std::function<void(int64_t, ConstView)>& show) {
  for (int64_t t = 0; t < normed.dim(0); t += kLogitTokens) {
    const Arena::Mark mark(arena);
    const int64_t n = std::min(kLogitTokens, normed.dim(0) - t);
    const View made = arena.alloc(DType::kF32, {n, vocab});
    model_logits(ctx, params, normed.slice(0, t, n), made);
    ctx.synchronize();
    if (ctx.device() == Device::kCpu) {
      show(t, made);
      continue;
    }
    Tensor host(Device::kCpu, DType::kF32, {n, vocab});
    copy(host, made);
    show(t, host);
  }
}

}  // namespace

void Decoder::prefill(const std::vector<std::vector<int32_t>>& prompts) {
  NESTLING_CHECK(std::ssize(prompts) == batch_, prompts.size(), " prompts for a batch of ", batch_);
  for (int64_t b = 0; b < batch_; ++b)
    NESTLING_CHECK(length(b) == 0, "prefill onto ", length(b), " tokens");
  clear();
  join(prompts);
}

void Decoder::join(const std::vector<std::vector<int32_t>>& prompts,
                   const OnPromptLogits& on_logits) {
  std::vector<int32_t> flat;
  std::vector<int32_t> offsets = {0};
  for (size_t i = 0; i < prompts.size(); ++i) {
    NESTLING_CHECK_INPUT(!prompts[i].empty(), "prompt ", i, " is empty");
    flat.insert(flat.end(), prompts[i].begin(), prompts[i].end());
    offsets.push_back(static_cast<int32_t>(flat.size()));
  }
  Arena arena(ctx_.device());
  const ConstView ids = device_view(ctx_, arena, flat);
  const Segments segments(offsets);
  const std::vector<LayerCache> caches = state_.join(segments.count());
  LayerRun run{.ctx = ctx_,
               .arena = arena,
               .config = model_.config(),
               .segments = segments,
               .save = false,
               .activations = model_.activations()};
  const ModelActs acts = model_forward(run, params_, ids, &caches);
  state_.set_lengths(segments);
  const ConstView normed = acts.final_norm.normed;
  for (int64_t i = 0; i < segments.count(); ++i)
    cast(ctx_, normed_.view().slice(0, batch_ + i, 1), normed.slice(0, segments.end(i) - 1, 1));
  batch_ += segments.count();
  for (int64_t i = 0; on_logits && i < segments.count(); ++i)
    show_logits(ctx_, params_, arena, normed.slice(0, segments.begin(i), segments.length(i)),
                model_.config().vocab, [&](int64_t first, ConstView logits) {
                  on_logits(static_cast<size_t>(i), first, logits);
                });
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

void Decoder::clear() {
  state_.clear();
  batch_ = 0;
}

std::span<const int32_t> Decoder::sample(const SamplingRule& rule, uint64_t seed,
                                         std::span<const uint64_t> streams, uint64_t position) {
  std::vector<Draw> draws;
  for (const uint64_t stream : streams)
    draws.push_back({.rule = rule, .seed = seed, .stream = stream, .position = position});
  return sample(draws);
}

std::span<const int32_t> Decoder::sample(std::span<const Draw> draws) {
  NESTLING_CHECK(std::ssize(draws) == batch_, draws.size(), " draws for a batch of ", batch_);
  const View logits = logits_.view().prefix(0, batch_);
  model_logits(ctx_, params_, normed_.view().prefix(0, batch_), logits);
  const auto same = [](const Draw& a, const Draw& b) {
    return a.rule == b.rule && a.seed == b.seed && a.position == b.position;
  };
  for (size_t begin = 0, end = 0; begin < draws.size(); begin = end) {
    std::vector<uint64_t> streams;
    for (; end < draws.size() && same(draws[begin], draws[end]); ++end)
      streams.push_back(draws[end].stream);
    const auto first = static_cast<int64_t>(begin), count = std::ssize(streams);
    nestling::sample(ctx_, {.tokens = tokens_.view().slice(0, first, count),
                            .logits = logits.slice(0, first, count),
                            .rule = draws[begin].rule,
                            .seed = draws[begin].seed,
                            .streams = streams,
                            .position = draws[begin].position});
  }
  sampled_.resize(static_cast<size_t>(batch_));
  ctx_.synchronize();
  copy(host_view(sampled_), tokens_.view().prefix(0, batch_));
  return sampled_;
}

ConstView Decoder::logits(int64_t b) {
  const View row = logits_.view().slice(0, b, 1).reshape({logits_.view().dim(1)});
  if (ctx_.device() == Device::kCpu) return row;
  if (!host_logits_) host_logits_ = Tensor(Device::kCpu, DType::kF32, {row.dim(0)});
  copy(host_logits_, row);
  return host_logits_;
}

}  // namespace nestling
