// choice_text.h - the text of one answer as its tokens come: in whole characters, without what ends
// it, a chat's told apart into thinking and answer (runtime/think_splitter.h, part_edges.h).
//
// Stops         are looked for in a completion, and in the answer of a chat: not in its thinking.
//               One ends the answer where it begins.
// Logprobs      of every token in order, also of those that end the answer; `offset` counts
//               characters of the whole text before it. With echo those of the prompt come first;
//               its first one has none.
// Ownership     borrows tokenizer and request.
#pragma once
#include "runtime/logprobs.h"
#include "runtime/part_edges.h"
#include "runtime/server/request.h"
#include "runtime/stop_text.h"

namespace nestling {

struct ToldToken {
  TokenLogprobs logprobs;
  bool first = false;  // of an echoed prompt: nothing is before it
  int64_t offset = 0;
};

enum class Finish : uint8_t { kStop, kLength };

// What has come of an answer since the piece before.
struct AnswerPiece {
  size_t choice = 0;
  std::string thinking, text;
  std::vector<ToldToken> tokens;
  std::optional<Finish> finish;  // of the last one

  bool empty() const { return thinking.empty() && text.empty() && tokens.empty() && !finish; }
};

class ChoiceText {
 public:
  ChoiceText(const Tokenizer& tokenizer, const ServedRequest& request,
             const std::vector<int32_t>& prompt);

  void prompt_logits(int64_t first, ConstView logits);  // behind its tokens first...
  void drawn(int32_t token, ConstView logits);          // before push of it
  void push(int32_t token, bool ends);                  // one that ends the answer is no text of it
  void finish();                                        // what was held back is text
  bool found_stop() const { return stop_.found(); }
  AnswerPiece take();  // what has come since the last call

 private:
  std::string characters(int32_t token);
  void add(const std::string& text);

  const Tokenizer& tokenizer_;
  const ServedRequest& request_;
  const std::vector<int32_t>& prompt_;
  TokenStream stream_;
  ThinkSplitter splitter_;
  PartEdges edges_;
  StopText stop_;
  std::vector<int64_t> prompt_offsets_;
  int64_t offset_ = 0;  // characters so far
  AnswerPiece piece_;
};

}  // namespace nestling
