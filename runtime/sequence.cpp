#include "runtime/sequence.h"

#include <algorithm>

namespace nestling {

bool is_stop(int32_t token, const GenerateOptions& options) {
  return std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) !=
         options.stop_tokens.end();
}

Sequence::Sequence(const LoadedModel& model, const GenerateOptions& options,
                   const std::vector<int32_t>& prompt, size_t index)
    : options_(options), index_(index), tokens_(prompt), prompt_(prompt.size()) {
  if (options.control.any()) meter_.emplace(model.tokenizer(), options.control, prompt);
  close_if_spent();
}

void Sequence::take(int32_t token, const std::function<ConstView()>& logits) {
  try {
    if (meter_) meter_->push(token);
    if (options_.on_drawn) options_.on_drawn(index_, token, logits());
    append(token);
    out_.stopped = is_stop(token, options_);
    if (!over()) close_if_spent();
  } catch (const Error&) {
    failed_ = std::current_exception();
  }
}

std::vector<int32_t> Sequence::enter(int64_t most) {
  if (run_ > 0) {
    out_.again += std::ssize(tokens_);
    switches_ += 1;
  }
  entered_ = tokens_.size();
  run_ = std::min(entered_, static_cast<size_t>(most));
  return {tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(run_)};
}

// Its stream: its place, and another one for every size that took over.
Draw Sequence::next_draw(size_t ahead) const {
  return {.rule = options_.rule,
          .seed = options_.seed,
          .stream = index_ + (switches_ << 32),
          .position = run_ + ahead - entered_};
}

void Sequence::count_drafts(int64_t proposed, int64_t agreed) {
  out_.drafted += proposed;
  out_.agreed += agreed;
}

Generated Sequence::finish() {
  if (failed_) std::rethrow_exception(failed_);
  out_.tokens.assign(tokens_.begin() + static_cast<std::ptrdiff_t>(prompt_), tokens_.end());
  if (meter_) out_.thinking = meter_->tokens();
  return std::move(out_);
}

int64_t Sequence::room() const {
  return options_.max_new_tokens - static_cast<int64_t>(tokens_.size() - prompt_);
}

void Sequence::append(int32_t token) {
  tokens_.push_back(token);
  if (options_.on_token) options_.on_token(index_, token);
}

void Sequence::close_if_spent() {
  if (!meter_ || !meter_->spent()) return;
  for (const int32_t token : meter_->closing()) {
    if (room() <= 0) return;
    meter_->put(token);
    append(token);
  }
}

}  // namespace nestling
