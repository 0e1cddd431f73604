#include "runtime/stop_text.h"

#include <algorithm>
#include <utility>

namespace nestling {

size_t begun(const std::string& text, const std::string& whole) {
  for (size_t n = std::min(text.size(), whole.size() - 1); n > 0; --n)
    if (std::string_view(text).ends_with(std::string_view(whole).substr(0, n))) return n;
  return 0;
}

// Byte by byte: the stop that is complete first counts, however the text is cut into pieces.
std::string StopText::push(const std::string& text) {
  if (found_) return "";
  if (stops_.empty()) return text;
  std::string out;
  for (const char c : text) {
    held_ += c;
    size_t keep = 0;
    for (const std::string& stop : stops_) {
      if (held_.ends_with(stop)) {
        found_ = true;
        out += held_.substr(0, held_.size() - stop.size());
        held_.clear();
        return out;
      }
      keep = std::max(keep, begun(held_, stop));
    }
    out += held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
  }
  return out;
}

std::string StopText::finish() {
  return std::exchange(held_, {});
}

}  // namespace nestling
