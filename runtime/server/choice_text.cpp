#include "runtime/server/choice_text.h"

#include <algorithm>

namespace nestling {

namespace {

int64_t count_characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

ChoiceText::ChoiceText(const Tokenizer& tokenizer, const ServedRequest& request,
                       const std::vector<int32_t>& prompt)
    : tokenizer_(tokenizer),
      request_(request),
      prompt_(prompt),
      stream_(tokenizer),
      splitter_(request.chat && within_thinking(tokenizer, prompt),
                [this](bool thinking, const std::string& text) {
                  const std::string inner = edges_.push(thinking, text);
                  if (thinking)
                    piece_.thinking += inner;
                  else
                    piece_.text += stop_.push(inner);
                }),
      stop_(request.stop) {
  if (!request.echo) return;
  for (const int32_t token : prompt) {
    prompt_offsets_.push_back(offset_);
    piece_.text += characters(token);
  }
}

std::string ChoiceText::characters(int32_t token) {
  std::string text = stream_.push(token);
  offset_ += count_characters(text);
  return text;
}

void ChoiceText::add(const std::string& text) {
  if (request_.chat)
    splitter_.push(text);
  else
    piece_.text += stop_.push(text);
}

void ChoiceText::prompt_logits(int64_t first, ConstView logits) {
  if (first == 0)
    piece_.tokens.push_back(
        {.logprobs = {.chosen = {.token = prompt_[0]}, .top = {}}, .first = true});
  for (int64_t row = 0; row < logits.dim(0); ++row) {
    const auto at = static_cast<size_t>(first + row + 1);
    if (at == prompt_.size()) return;
    const ConstView one = logits.slice(0, row, 1).reshape({logits.dim(1)});
    piece_.tokens.push_back({.logprobs = token_logprobs(one, prompt_[at], *request_.logprobs),
                             .offset = prompt_offsets_[at]});
  }
}

void ChoiceText::drawn(int32_t token, ConstView logits) {
  piece_.tokens.push_back(
      {.logprobs = token_logprobs(logits, token, *request_.logprobs), .offset = offset_});
}

void ChoiceText::push(int32_t token, bool ends) {
  if (!ends && !found_stop()) add(characters(token));
}

void ChoiceText::finish() {
  if (found_stop()) return;
  add(stream_.finish());
  if (request_.chat) splitter_.finish();
  if (!found_stop()) piece_.text += stop_.finish();
}

AnswerPiece ChoiceText::take() {
  return std::exchange(piece_, {});
}

}  // namespace nestling
