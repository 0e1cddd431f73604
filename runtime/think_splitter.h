// think_splitter.h - text as it is generated, told apart into thinking and answer by <think> and
// </think>, which are left out. A piece that may be the beginning of a tag is held back. Pure.
#pragma once
#include <functional>
#include <string>

namespace nestling {

class ThinkSplitter {
 public:
  using Emit = std::function<void(bool thinking, const std::string& text)>;
  ThinkSplitter(bool thinking, Emit emit) : thinking_(thinking), emit_(std::move(emit)) {}
  void push(const std::string& text);
  void finish();  // what was held back is text
  bool thinking() const { return thinking_; }

 private:
  bool thinking_;
  Emit emit_;
  std::string held_;
};

}  // namespace nestling
