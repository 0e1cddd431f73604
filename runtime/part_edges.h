// part_edges.h - thinking and answer without what templates put between them and the tags: the
// newline that ends the thinking, the one that begins the answer. Pure.
#pragma once
#include <string>
#include <utility>

namespace nestling {

class PartEdges {
 public:
  // What of this piece, and of what was held back before it, is of the part.
  std::string push(bool thinking, const std::string& text) {
    if (text.empty()) return "";
    if (!thinking) {
      const bool first = !std::exchange(answer_, true);
      return first && text.starts_with('\n') ? text.substr(1) : text;
    }
    std::string out = (held_ ? "\n" : "") + text;
    held_ = out.ends_with('\n');
    if (held_) out.pop_back();
    return out;
  }

 private:
  bool held_ = false;    // a newline of the thinking, which may be its last
  bool answer_ = false;  // has begun
};

}  // namespace nestling
