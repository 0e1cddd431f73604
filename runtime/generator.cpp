#include "runtime/generator.h"

#include <algorithm>

#include "runtime/decoder.h"

namespace nestling {

namespace {

int64_t longest(const std::vector<std::vector<int32_t>>& prompts) {
  size_t n = 0;
  for (const auto& p : prompts) n = std::max(n, p.size());
  return static_cast<int64_t>(n);
}

// A prompt and what has come after it.
class Sequence {
 public:
  Sequence(const LoadedModel& model, const GenerateOptions& options,
           const std::vector<int32_t>& prompt, size_t index)
      : options_(options), index_(index), tokens_(prompt), prompt_(prompt.size()) {
    if (options.control.any()) meter_.emplace(model.tokenizer(), options.control, prompt);
    close_if_spent();
  }

  // Its next token, drawn.
  void take(int32_t token) {
    if (meter_) meter_->push(token);
    append(token);
    out_.stopped = is_stop(token, options_);
    if (!over()) close_if_spent();
  }
  bool over() const { return out_.stopped || room() <= 0; }
  bool thinks() const { return meter_ && meter_->thinking(); }

  // It is run in a size of its own choice from here on: its tokens so far, to be run at once.
  const std::vector<int32_t>& enter() {
    if (run_ > 0) {
      out_.again += std::ssize(tokens_);
      switches_ += 1;
    }
    run_ = tokens_.size();
    return tokens_;
  }
  bool all_run() const { return run_ == tokens_.size(); }
  int32_t next_to_run() { return tokens_[run_++]; }
  // Of its draws: its place in the batch, and another one for every size that took over.
  uint64_t stream() const { return index_ + (switches_ << 32); }

  Generated finish() {
    out_.tokens.assign(tokens_.begin() + static_cast<std::ptrdiff_t>(prompt_), tokens_.end());
    if (meter_) out_.thinking = meter_->tokens();
    return std::move(out_);
  }

 private:
  int64_t room() const {
    return options_.max_new_tokens - static_cast<int64_t>(tokens_.size() - prompt_);
  }
  void append(int32_t token) {
    tokens_.push_back(token);
    if (options_.on_token) options_.on_token(index_, token);
  }
  void close_if_spent() {
    if (!meter_ || !meter_->spent()) return;
    for (const int32_t token : meter_->closing()) {
      if (room() <= 0) return;
      meter_->put(token);
      append(token);
    }
  }

  const GenerateOptions& options_;
  size_t index_;
  std::vector<int32_t> tokens_;  // prompt and all
  size_t prompt_, run_ = 0;      // how many of them
  uint64_t switches_ = 0;
  std::optional<ThinkingMeter> meter_;
  Generated out_;
};

// The size selected when it is made.
class KeepSelected {
 public:
  explicit KeepSelected(LoadedModel& model) : model_(model), size_(model.selected()) {}
  ~KeepSelected() { model_.select(std::move(size_)); }
  KeepSelected(const KeepSelected&) = delete;
  KeepSelected& operator=(const KeepSelected&) = delete;

 private:
  LoadedModel& model_;
  Size size_;
};

// Runs `rows` in the selected size, each until it is over or `leaves`. A sequence that goes leaves its row to the last
// one.
void run(Context& ctx, LoadedModel& model, std::vector<Sequence*> rows, int64_t capacity,
         const GenerateOptions& options, const std::function<bool(const Sequence&)>& leaves) {
  std::vector<std::vector<int32_t>> begun;
  std::vector<uint64_t> streams;
  for (Sequence* s : rows) {
    begun.push_back(s->enter());
    streams.push_back(s->stream());
  }
  Decoder decoder(ctx, model, std::ssize(rows), capacity);
  decoder.prefill(begun);
  for (uint64_t position = 0;; ++position) {
    const auto drawn = decoder.sample(options.rule, options.seed, streams, position);
    for (size_t r = 0; r < rows.size(); ++r)
      if (rows[r]->all_run()) rows[r]->take(drawn[r]);
    for (size_t r = rows.size(); r-- > 0;) {
      if (!rows[r]->over() && !leaves(*rows[r])) continue;
      decoder.drop(static_cast<int64_t>(r));
      rows[r] = rows.back();
      streams[r] = streams.back();
      rows.pop_back();
      streams.pop_back();
    }
    if (rows.empty()) return;
    std::vector<int32_t> next;
    for (Sequence* s : rows) next.push_back(s->next_to_run());
    decoder.step(next);
  }
}

}  // namespace

bool is_stop(int32_t token, const GenerateOptions& options) {
  return std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) !=
         options.stop_tokens.end();
}

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options) {
  const ThinkingSizes sizes = thinking_sizes(model, options.control);
  const int64_t capacity = longest(prompts) + options.max_new_tokens;
  std::vector<Sequence> all;
  for (size_t i = 0; i < prompts.size(); ++i) all.emplace_back(model, options, prompts[i], i);
  const KeepSelected keep(model);
  // Those that go on, of one part: all that think, or all the others; where one size does both, all.
  const auto waiting = [&](bool thinking) {
    std::vector<Sequence*> rows;
    for (Sequence& s : all)
      if (!s.over() && (sizes.same() || s.thinks() == thinking)) rows.push_back(&s);
    return rows;
  };
  for (;;) {
    bool thinking = true;
    std::vector<Sequence*> rows = waiting(true);
    if (rows.empty()) rows = waiting(thinking = false);
    if (rows.empty()) break;
    model.select(thinking ? sizes.think : sizes.answer);
    run(ctx, model, rows, capacity, options,
        [&](const Sequence& s) { return !sizes.same() && s.thinks() != thinking; });
  }
  std::vector<Generated> out;
  for (Sequence& s : all) out.push_back(s.finish());
  return out;
}

}  // namespace nestling
