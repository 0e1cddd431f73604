// pretokenizer.h - cuts text into the pieces within which byte pairs may merge.
//
// Supported     what byte-level tokenizers use: ByteLevel (with or without its own regex, with or
//               without the prefix space), Split by Regex or String (Isolated, or Removed + invert:
//               only matches stay), Digits, and a Sequence of these that ends in ByteLevel.
// Errors        anything else: Error of kind kInput naming file, path and what was found.
// Threads       immutable after construction.
#pragma once
#include <functional>
#include <string_view>
#include <vector>

#include "data/json.h"
#include "data/regex.h"

namespace nestling {

class Pretokenizer {
 public:
  explicit Pretokenizer(JsonRef pre_tokenizer);  // the value of that key in tokenizer.json

  using Emit = std::function<void(std::string_view piece)>;
  // Pieces in order, each valid only during the call. `text` must be valid UTF-8.
  void split(std::string_view text, const Emit& emit) const;

 private:
  struct Stage {
    enum class Kind { kIsolate, kKeepMatches, kPrefixSpace } kind;
    std::vector<Regex> regex;  // one, or none for kPrefixSpace
  };
  void add(JsonRef item, bool last);
  void add_split(JsonRef item);
  void add_byte_level(JsonRef item);
  void run(size_t stage, std::string_view text, std::vector<RegexMatcher>& matchers,
           const Emit& emit) const;
  std::vector<Stage> stages_;
};

}  // namespace nestling
