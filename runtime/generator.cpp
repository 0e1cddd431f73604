#include "runtime/generator.h"

#include <algorithm>

#include "model/model.h"

namespace nestling {

namespace {

// Sequences decoded together; `ids` says which prompts they are.
class Decoding {
 public:
  Decoding(Context& ctx, LoadedModel& model, const std::vector<std::vector<int32_t>>& prompts,
           const GenerateOptions& options);
  std::vector<Generated> run();

 private:
  void prefill();
  void draw();
  void step();

  Context& ctx_;
  LoadedModel& model_;
  const std::vector<std::vector<int32_t>>& prompts_;
  const GenerateOptions& options_;
  ModelParams<ConstView> params_;
  int64_t batch_;
  DecodeState state_;
  Tensor tokens_;  // [B] i32, the newest of each
  Tensor normed_;  // [B, D]
  Tensor logits_;  // [B, V]
  std::vector<uint64_t> streams_;
  std::vector<Generated> out_;
  std::vector<bool> live_;
  uint64_t position_ = 0;
};

int64_t longest(const std::vector<std::vector<int32_t>>& prompts) {
  size_t n = 0;
  for (const auto& p : prompts) n = std::max(n, p.size());
  return static_cast<int64_t>(n);
}

Decoding::Decoding(Context& ctx, LoadedModel& model,
                   const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options)
    : ctx_(ctx),
      model_(model),
      prompts_(prompts),
      options_(options),
      params_(model.params()),
      batch_(static_cast<int64_t>(prompts.size())),
      state_(ctx.device(), model.config(), params_, batch_,
             longest(prompts) + options.max_new_tokens),
      tokens_(ctx.device(), DType::kI32, {batch_}),
      normed_(ctx.device(), DType::kF32, {batch_, params_.embeddings.dim(1)}),
      logits_(ctx.device(), DType::kF32, {batch_, model.config().vocab}),
      out_(prompts.size()),
      live_(prompts.size(), true) {
  for (size_t i = 0; i < prompts.size(); ++i) {
    NESTLING_CHECK_INPUT(!prompts[i].empty(), "prompt ", i, " is empty");
    streams_.push_back(i);
  }
}

void Decoding::prefill() {
  std::vector<int32_t> flat;
  std::vector<int32_t> offsets = {0};
  for (const auto& prompt : prompts_) {
    flat.insert(flat.end(), prompt.begin(), prompt.end());
    offsets.push_back(static_cast<int32_t>(flat.size()));
  }
  Tensor ids(ctx_.device(), DType::kI32, {static_cast<int64_t>(flat.size())});
  std::copy(flat.begin(), flat.end(), ids.ptr<int32_t>());
  Arena arena(ctx_.device());
  const Segments segments(offsets);
  LayerRun run{
      .ctx = ctx_, .arena = arena, .config = model_.config(), .segments = segments, .save = false};
  const ModelActs acts = model_forward(run, params_, ids.view(), &state_.caches());
  state_.set_lengths(segments);
  for (int64_t b = 0; b < batch_; ++b)
    copy(normed_.view().slice(0, b, 1), acts.final_norm.normed.slice(0, segments.end(b) - 1, 1));
}

void Decoding::draw() {
  model_logits(ctx_, params_, normed_.view(), logits_.view());
  sample(ctx_, {.tokens = tokens_.view(),
                .logits = logits_.view(),
                .rule = options_.rule,
                .seed = options_.seed,
                .streams = streams_,
                .position = position_++});
  for (size_t i = 0; i < out_.size(); ++i) {
    if (!live_[i]) continue;
    const int32_t token = tokens_.ptr<int32_t>()[i];
    out_[i].tokens.push_back(token);
    if (options_.on_token) options_.on_token(i, token);
    out_[i].stopped = std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) !=
                      options_.stop_tokens.end();
    live_[i] =
        !out_[i].stopped && static_cast<int64_t>(out_[i].tokens.size()) < options_.max_new_tokens;
  }
}

void Decoding::step() {
  state_.advance();
  StepRun run{.ctx = ctx_, .config = model_.config(), .lengths = state_.lengths()};
  model_step(run, params_, tokens_.view(), state_.caches(), normed_.view());
}

std::vector<Generated> Decoding::run() {
  prefill();
  draw();
  while (std::find(live_.begin(), live_.end(), true) != live_.end()) {
    step();
    draw();
  }
  return std::move(out_);
}

}  // namespace

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options) {
  if (prompts.empty() || options.max_new_tokens == 0) return std::vector<Generated>(prompts.size());
  return Decoding(ctx, model, prompts, options).run();
}

}  // namespace nestling
