#include "runtime/think_splitter.h"

#include "runtime/stop_text.h"

namespace nestling {

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
