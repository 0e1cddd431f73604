// added_tokens.h - tokens found as whole strings before the text is cut into pieces: <|im_start|>,
// <s>.
//
// Rule          leftmost, then longest, without overlap. `normalized` tokens are looked for in the
//               normalised text that is left after the others were taken out of the raw text.
// Flags         single_word: no word character may touch it. lstrip / rstrip: takes the white space
//               on that side along. special: left out of a decoded text when asked.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nestling {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
  bool normalized = false;
};

// Finds a set of added tokens in text. Immutable after construction.
class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);
  AddedTokenFinder(const AddedTokenFinder&) = delete;  // by_content_ points into tokens_
  AddedTokenFinder& operator=(const AddedTokenFinder&) = delete;

  bool empty() const { return tokens_.empty(); }
  // Calls back in order, with token nullptr for the text between tokens (never empty).
  using Emit = std::function<void(std::string_view text, const AddedToken* token)>;
  void split(std::string_view text, const Emit& emit) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t at) const;
  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string_view, const AddedToken*> by_content_;
  std::array<std::vector<size_t>, 256> lengths_;  // by first byte, falling
};

}  // namespace nestling
