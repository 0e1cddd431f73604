#include "runtime/think_splitter.h"

#include <algorithm>

namespace nestling {

namespace {

// How much of the end of `text` begins `tag`.
size_t begun(const std::string& text, const std::string& tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n)
    if (text.ends_with(tag.substr(0, n))) return n;
  return 0;
}

}  // namespace

void ThinkSplitter::push(const std::string& text) {
  held_ += text;
  for (;;) {
    const std::string tag = thinking_ ? "</think>" : "<think>";
    const size_t at = held_.find(tag);
    const size_t clear = at == std::string::npos ? held_.size() - begun(held_, tag) : at;
    if (clear > 0) emit_(thinking_, held_.substr(0, clear));
    if (at == std::string::npos) {
      held_.erase(0, clear);
      return;
    }
    held_.erase(0, at + tag.size());
    thinking_ = !thinking_;
  }
}

void ThinkSplitter::finish() {
  if (!held_.empty()) emit_(thinking_, held_);
  held_.clear();
}

}  // namespace nestling
