#include "data/added_tokens.h"

#include <algorithm>

#include "data/regex.h"
#include "data/utf8.h"
#include "kernels/core/check.h"

namespace nestling {
namespace {

bool matches(const Regex& regex, std::string_view character) {
  return RegexMatcher(regex).next(character, 0).has_value();
}

// First byte of the character that ends at `end`.
size_t last_character(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

const Regex& word() {
  static const Regex regex("[\\w\\x{200C}\\x{200D}]");
  return regex;
}

const Regex& space() {
  static const Regex regex("\\s");
  return regex;
}

bool word_touches(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    const size_t at = last_character(text, begin);
    if (matches(word(), text.substr(at, begin - at))) return true;
  }
  return end < text.size() && matches(word(), text.substr(end, utf8_step(text, end).bytes));
}

size_t strip_left(std::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    const size_t at = last_character(text, begin);
    if (at < limit || !matches(space(), text.substr(at, begin - at))) break;
    begin = at;
  }
  return begin;
}

size_t strip_right(std::string_view text, size_t end) {
  while (end < text.size()) {
    const size_t n = utf8_step(text, end).bytes;
    if (!matches(space(), text.substr(end, n))) break;
    end += n;
  }
  return end;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (const AddedToken& token : tokens_) {
    NESTLING_CHECK_INPUT(!token.content.empty(), "an added token is empty");
    by_content_[token.content] = &token;
    auto& lengths = lengths_[static_cast<uint8_t>(token.content[0])];
    lengths.push_back(token.content.size());
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text, size_t at) const {
  for (size_t length : lengths_[static_cast<uint8_t>(text[at])]) {
    if (length > text.size() - at) continue;
    const auto it = by_content_.find(text.substr(at, length));
    if (it != by_content_.end()) return it->second;
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, const Emit& emit) const {
  size_t done = 0;  // text before this was given out
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    const AddedToken* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;  // a match that is turned down is still passed over
    if (token->single_word && word_touches(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(strip_left(text, begin, done), done);
    if (token->rstrip) end = strip_right(text, end);
    if (begin >= end) continue;  // the token before took all of it
    if (begin > done) emit(text.substr(done, begin - done), nullptr);
    emit(text.substr(begin, end - begin), token);
    done = end;
  }
  if (done < text.size()) emit(text.substr(done), nullptr);
}

}  // namespace nestling
