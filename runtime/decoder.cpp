#include "runtime/decoder.h"

#include <algorithm>

#include "kernels/core/host_view.h"
#include "kernels/ops/elementwise.h"
#include "model/model.h"

namespace nestling {

Decoder::Decoder(Context& ctx, LoadedModel& model, const Widths& widths, int64_t batch,
                 int64_t capacity)
    : ctx_(ctx),
      model_(model),
      params_(model.params(widths)),
      batch_(batch),
      state_(ctx.device(), model.config(), params_, batch, capacity, model.activations()),
      tokens_(ctx.device(), DType::kI32, {batch}),
      normed_(ctx.device(), DType::kF32, {batch, params_.embeddings.dim(1)}),
      logits_(ctx.device(), DType::kF32, {batch, model.config().vocab}),
      arena_(ctx.device()) {}

namespace {

// Of several sequences, one behind the other.
struct FlatTokens {
  explicit FlatTokens(const std::vector<std::vector<int32_t>>& sequences) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      NESTLING_CHECK_INPUT(!sequences[i].empty(), "prompt ", i, " is empty");
      tokens.insert(tokens.end(), sequences[i].begin(), sequences[i].end());
      offsets.push_back(static_cast<int32_t>(tokens.size()));
    }
  }
  std::vector<int32_t> tokens, offsets = {0};
};

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

void Decoder::check_more(const std::vector<std::vector<int32_t>>& more) const {
  NESTLING_CHECK(std::ssize(more) == batch_, "more tokens of ", more.size(),
                 " sequences for a batch of ", batch_);
  for (int64_t b = 0; b < batch_; ++b)
    NESTLING_CHECK(length(b) + std::ssize(more[static_cast<size_t>(b)]) <= capacity(), "sequence ",
                   b, " of ", length(b), " tokens and ", more[static_cast<size_t>(b)].size(),
                   " more, the caches hold ", capacity());
}

// The newest hidden state of every segment, of those that are sequences `first`...
void Decoder::keep_last(const Segments& segments, ConstView normed, int64_t first) {
  for (int64_t i = 0; i < segments.count(); ++i)
    cast(ctx_, normed_.view().slice(0, first + i, 1), normed.slice(0, segments.end(i) - 1, 1));
}

LayerRun Decoder::run_over(const Segments& segments, Arena& arena) {
  return {.ctx = ctx_,
          .arena = arena,
          .config = model_.config(),
          .segments = segments,
          .save = false,
          .activations = model_.activations()};
}

void Decoder::join(const std::vector<std::vector<int32_t>>& prompts,
                   const OnPromptLogits& on_logits) {
  const FlatTokens flat(prompts);
  Arena arena(ctx_.device());
  const ConstView ids = device_view(ctx_, arena, flat.tokens);
  const Segments segments(flat.offsets);
  const std::vector<LayerCache> caches = state_.join(segments.count());
  LayerRun run = run_over(segments, arena);
  const ModelActs acts = model_forward(run, params_, ids, &caches);
  state_.set_lengths(segments);
  const ConstView normed = acts.final_norm.normed;
  keep_last(segments, normed, batch_);
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

void Decoder::extend(const std::vector<std::vector<int32_t>>& more) {
  check_more(more);
  if (std::ranges::all_of(more, [](const auto& tokens) { return tokens.size() == 1; })) {
    std::vector<int32_t> one;
    for (const auto& tokens : more) one.push_back(tokens[0]);
    return step(one);
  }
  const FlatTokens flat(more);
  const Segments segments(flat.offsets);
  const Arena::Mark mark(arena_);
  LayerRun run = run_over(segments, arena_);
  run.starts = state_.lengths();
  const ConstView ids = device_view(ctx_, arena_, flat.tokens);
  const ModelActs acts = model_forward(run, params_, ids, &state_.caches());
  keep_last(segments, acts.final_norm.normed, 0);
  std::vector<int32_t> counts;
  for (const auto& tokens : more) counts.push_back(static_cast<int32_t>(tokens.size()));
  state_.advance(counts);
}

void Decoder::attempt(const std::vector<std::vector<int32_t>>& more, std::span<const Draw> draws,
                      const Stand& stand) {
  check_more(more);
  const FlatTokens flat(more);
  const Segments segments(flat.offsets);
  NESTLING_CHECK(std::ssize(draws) == segments.tokens(), draws.size(), " draws behind ",
                 segments.tokens(), " tokens");
  const Arena::Mark mark(arena_);
  LayerRun run = run_over(segments, arena_);
  run.starts = state_.lengths();
  run.save = run.hold = true;
  const ConstView ids = device_view(ctx_, arena_, flat.tokens);
  const ModelActs acts = model_forward(run, params_, ids, &state_.caches());
  const View logits = arena_.alloc(DType::kF32, {segments.tokens(), model_.config().vocab});
  model_logits(ctx_, params_, acts.final_norm.normed, logits);
  draw(arena_.alloc(DType::kI32, {segments.tokens()}), logits, draws);
  const std::vector<int32_t> counts =
      stand(sampled_, [&](int64_t place) { return on_host(logits, place); });
  model_advance(run, params_, acts, counts, state_.caches());
  state_.advance(counts);
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
  draw(tokens_.view().prefix(0, batch_), logits, draws);
  return sampled_;
}

// Into sampled_, one from each row.
void Decoder::draw(View tokens, View logits, std::span<const Draw> draws) {
  const auto same = [](const Draw& a, const Draw& b) {
    return a.rule == b.rule && a.seed == b.seed && a.position == b.position;
  };
  for (size_t begin = 0, end = 0; begin < draws.size(); begin = end) {
    std::vector<uint64_t> streams;
    for (; end < draws.size() && same(draws[begin], draws[end]); ++end)
      streams.push_back(draws[end].stream);
    const auto first = static_cast<int64_t>(begin), count = std::ssize(streams);
    nestling::sample(ctx_, {.tokens = tokens.slice(0, first, count),
                            .logits = logits.slice(0, first, count),
                            .rule = draws[begin].rule,
                            .seed = draws[begin].seed,
                            .streams = streams,
                            .position = draws[begin].position});
  }
  sampled_.resize(draws.size());
  ctx_.synchronize();
  copy(host_view(sampled_), tokens);
}

ConstView Decoder::logits(int64_t b) {
  return on_host(logits_.view(), b);
}

ConstView Decoder::on_host(View logits, int64_t place) {
  const View row = logits.slice(0, place, 1).reshape({logits.dim(1)});
  if (ctx_.device() == Device::kCpu) return row;
  if (!host_logits_) host_logits_ = Tensor(Device::kCpu, DType::kF32, {row.dim(0)});
  copy(host_logits_, row);
  return host_logits_;
}

}  // namespace nestling
