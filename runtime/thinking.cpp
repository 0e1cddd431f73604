#include "runtime/thinking.h"

namespace nestling {

namespace {

constexpr std::string_view kOpen = "<think>", kClose = "</think>";

// What comes after the last special token that is no tag.
std::string tail(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  size_t begin = tokens.size();
  for (; begin > 0; --begin) {
    const int32_t token = tokens[begin - 1];
    const std::string& text = tokenizer.token_text(token);
    if (tokenizer.is_special(token) && text != kOpen && text != kClose) break;
  }
  return tokenizer.decode(tokens.subspan(begin));
}

}  // namespace

bool within_thinking(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  const std::string text = tail(tokenizer, tokens);
  const size_t open = text.rfind(kOpen);
  return open != std::string::npos && text.find(kClose, open) == std::string::npos;
}

std::string closing_text(const ChatTemplate& turns) {
  const std::string kThought = "a thought", kContent = "an answer";
  const std::string text =
      turns.render({{.role = "user", .content = "a question"},
                    {.role = "assistant", .content = kContent, .reasoning = kThought}},
                   true);
  const size_t thought = text.find(kThought), content = text.find(kContent);
  if (thought == std::string::npos || content == std::string::npos) return kClosing;
  const size_t begin = thought + kThought.size();
  if (content < begin || text.substr(begin, content - begin).find(kClose) == std::string::npos)
    return kClosing;
  return text.substr(begin, content - begin);
}

ThinkingSizes thinking_sizes(const LoadedModel& model, const ThinkingControl& control) {
  NESTLING_CHECK_INPUT(control.think.empty() == control.answer.empty(), "thinking in size '",
                       control.think, "', answers in size '", control.answer,
                       "': both are needed, or none");
  NESTLING_CHECK_INPUT(!control.budget || *control.budget >= 0, "a budget of ", *control.budget,
                       " thinking tokens; 0 is the least");
  if (!control.has_sizes()) return {model.selected(), model.selected()};
  return {model.find(control.think), model.find(control.answer)};
}

ThinkingMeter::ThinkingMeter(const Tokenizer& tokenizer, const ThinkingControl& control,
                             std::span<const int32_t> before, ThinkSplitter::Emit emit)
    : tokenizer_(tokenizer),
      control_(control),
      stream_(tokenizer),
      splitter_(
          within_thinking(tokenizer, before),
          emit ? std::move(emit) : [](bool, const std::string&) {}),
      newline_(tail(tokenizer, before).ends_with('\n')) {}

void ThinkingMeter::push(int32_t token) {
  const bool within = thinking();
  put(token);
  if (within && thinking()) ++tokens_;
}

void ThinkingMeter::put(int32_t token) {
  const std::string text = stream_.push(token);
  if (!text.empty()) newline_ = text.ends_with('\n');
  splitter_.push(text);
}

void ThinkingMeter::finish() {
  splitter_.push(stream_.finish());
  splitter_.finish();
}

std::vector<int32_t> ThinkingMeter::closing() const {
  const bool twice = newline_ && control_.closing.starts_with('\n');
  return tokenizer_.encode(twice ? control_.closing.substr(1) : control_.closing, false);
}

}  // namespace nestling
