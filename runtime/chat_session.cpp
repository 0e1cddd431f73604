#include "runtime/chat_session.h"

#include <algorithm>

#include "runtime/part_edges.h"

namespace nestling {

ChatSession::ChatSession(Context& ctx, LoadedModel& model, ChatOptions options)
    : ctx_(ctx),
      model_(model),
      options_(std::move(options)),
      template_(model.tokenizer_files(), model.name()),
      sizes_(thinking_sizes(model, options_.control)) {
  if (options_.control.budget) options_.control.closing = closing_text(template_);
  reset();
}

void ChatSession::reset() {
  messages_.clear();
  if (!options_.system.empty()) messages_.push_back({.role = "system", .content = options_.system});
  tokens_.clear();
  text_.clear();
  decoder_.reset();
}

// What `control` has this part run in; null where that is the size selected.
const Size* ChatSession::other_size(bool thinking) const {
  const Size& size = thinking ? sizes_.think : sizes_.answer;
  const bool selected = size.widths == model_.selected().widths;
  return options_.control.has_sizes() && !selected ? &size : nullptr;
}

// tokens_ and text_ up to the opening of the answer.
void ChatSession::take_turn(ChatReply& reply) {
  const std::string text = template_.render(messages_, options_.thinking);
  const bool goes_on = decoder_.has_value() && text.starts_with(text_);
  std::vector<int32_t> tokens = goes_on ? tokens_ : std::vector<int32_t>();
  const std::vector<int32_t> more =
      model_.tokenizer().encode(goes_on ? text.substr(text_.size()) : text, false);
  tokens.insert(tokens.end(), more.begin(), more.end());
  NESTLING_CHECK_INPUT(std::ssize(tokens) < options_.context, "the conversation has ",
                       tokens.size(), " tokens with this turn, the context is ", options_.context);
  const int64_t total = std::ssize(tokens);
  const int64_t pending = total - (goes_on ? decoder_->length(0) : 0);
  const bool other = other_size(within_thinking(model_.tokenizer(), tokens)) != nullptr;
  const bool by_steps = goes_on && !other && pending * kForwardTokensAStep <= total;
  reply.again = decoder_.has_value() && !by_steps;
  reply.tokens_run = by_steps ? pending : total;
  tokens_ = std::move(tokens);
  text_ = text;
  if (!by_steps) decoder_.reset();
}

void ChatSession::run_pending() {
  if (!decoder_) {
    decoder_.emplace(ctx_, model_, 1, options_.context);
    return decoder_->prefill({tokens_});
  }
  for (auto t = static_cast<size_t>(decoder_->length(0)); t < tokens_.size(); ++t)
    decoder_->step({&tokens_[t], 1});
}

void ChatSession::generate(ChatReply& reply, const OnText& on_text) {
  const std::vector<int64_t>& stops = model_.config().eos;
  PartEdges edges;
  ThinkingMeter meter(model_.tokenizer(), options_.control, tokens_,
                      [&](bool thinking, const std::string& piece) {
                        (thinking ? reply.thinking : reply.content) += edges.push(thinking, piece);
                        if (on_text) on_text(thinking, piece);
                      });
  const auto begin = static_cast<std::ptrdiff_t>(tokens_.size());
  const auto room = [&] {
    return reply.tokens < options_.max_new_tokens && std::ssize(tokens_) < options_.context;
  };
  const auto append = [&](int32_t token) {
    tokens_.push_back(token);
    ++reply.tokens;
  };
  while (!reply.stopped && room()) {
    if (meter.spent()) {
      for (const int32_t token : meter.closing()) {
        if (!room()) break;
        append(token);
        meter.put(token);
      }
      continue;
    }
    if (const Size* other = other_size(meter.thinking())) reply.tokens_switched += run_in(*other);
    run_pending();
    const uint64_t kStream[] = {0};
    append(decoder_->sample(options_.rule, options_.seed, kStream, tokens_.size())[0]);
    reply.stopped = std::find(stops.begin(), stops.end(), tokens_.back()) != stops.end();
    if (!reply.stopped) meter.push(tokens_.back());
  }
  meter.finish();
  reply.thinking_tokens = meter.tokens();
  text_ += model_.tokenizer().decode({tokens_.begin() + begin, tokens_.end()});
}

ChatReply ChatSession::answer(const std::string& user, const OnText& on_text) {
  ChatReply reply;
  messages_.push_back({.role = "user", .content = user});
  try {
    take_turn(reply);
  } catch (const Error&) {
    messages_.pop_back();
    throw;
  }
  generate(reply, on_text);
  messages_.push_back({.role = "assistant", .content = reply.content, .reasoning = reply.thinking});
  return reply;
}

int64_t ChatSession::select(const std::string& size) {
  NESTLING_CHECK_INPUT(!options_.control.has_sizes(), "size ", size, ": ", sizes_.think.name,
                       " thinks and ", sizes_.answer.name, " answers in this conversation");
  return run_in(model_.find(size));
}

// Returns how many tokens were run again.
int64_t ChatSession::run_in(const Size& size) {
  model_.select(size);
  const bool any = decoder_.has_value();
  decoder_.reset();
  if (!any) return 0;
  run_pending();
  return decoder_->length(0);
}

}  // namespace nestling
