// thinking.h - control of a text's two parts: one size thinks, another answers, for a budget of thinking tokens.
//
// Within        after <think>, until </think>: found in the text, so a tag may be one token or several. A text begins
//               within where, after its last special token but the tags, <think> was the last tag.
// Sizes         tokens within thinking are of `think`, all others of `answer`. Where one takes over, the whole text so
//               far is run through it anew (caches of two sizes have other shapes, and other numbers in them): what
//               it says is what it says of that text alone. Where both are the same size, nothing is run anew.
// Budget        once so many tokens were generated within thinking, the text that closes it is put next. Its tokens
//               are part of the text and of its limit, and no thinking; nor are the tags where they are single tokens.
// Errors        kInput: a size alone, one that is not in what is open, a budget below 0.
#pragma once
#include <optional>
#include <span>

#include "runtime/chat_template.h"
#include "runtime/loaded_model.h"
#include "runtime/think_splitter.h"

namespace nestling {

inline constexpr const char* kClosing = "\n</think>\n";

// By default: no control, the selected size does all.
struct ThinkingControl {
  std::string think = {}, answer = {};  // both or none, by name or budget
  std::optional<int64_t> budget = {};   // tokens; none: no limit
  std::string closing = kClosing;  // a newline that it begins with is left out behind a newline

  bool any() const { return has_sizes() || budget.has_value(); }
  bool has_sizes() const { return !think.empty() || !answer.empty(); }
};

bool within_thinking(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

// What the template puts between the thinking and the content of an answer; kClosing where it shows no </think>
// there (templates that drop thinking).
std::string closing_text(const ChatTemplate& turns);

struct ThinkingSizes {
  Size think, answer;
  bool same() const { return think.widths == answer.widths; }
};
// Of `control`, for `model` to select; both the selected one where it names none.
ThinkingSizes thinking_sizes(const LoadedModel& model, const ThinkingControl& control);

// Follows one text as it is generated. Borrows tokenizer and control.
class ThinkingMeter {
 public:
  // `before`: the text so far, which no budget counts. `emit`: as ThinkSplitter calls it.
  ThinkingMeter(const Tokenizer& tokenizer, const ThinkingControl& control,
                std::span<const int32_t> before, ThinkSplitter::Emit emit = nullptr);
  void push(int32_t token);  // generated
  void put(int32_t token);   // one of closing(): no thinking
  void finish();             // emits what was held back

  bool thinking() const { return splitter_.thinking(); }
  int64_t tokens() const { return tokens_; }  // generated within thinking
  bool spent() const { return thinking() && control_.budget && tokens_ >= *control_.budget; }
  std::vector<int32_t> closing() const;  // what to put once the budget is spent

 private:
  const Tokenizer& tokenizer_;
  const ThinkingControl& control_;
  TokenStream stream_;
  ThinkSplitter splitter_;
  int64_t tokens_ = 0;
  bool newline_;  // the text ends with one
};

}  // namespace nestling
