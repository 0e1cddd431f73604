// stop_text.h - text as it is generated, up to the first of some texts that end it. What may be the
// beginning of one is held back. Pure: what comes out does not depend on the pieces the text came
// in.
#pragma once
#include <string>
#include <vector>

namespace nestling {

// Bytes at the end of `text` that `whole` begins with; all of `whole` does not count.
size_t begun(const std::string& text, const std::string& whole);

class StopText {
 public:
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}  // none empty
  // What is text for certain; nothing more once a stop was found, which is left out.
  std::string push(const std::string& text);
  std::string finish();  // what was held back is text
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace nestling
