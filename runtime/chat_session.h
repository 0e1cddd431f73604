// chat_session.h - a conversation with one model: what was said, as messages and as tokens, and caches that
// hold it from turn to turn.
//
// Turns         the conversation is rendered by the model's chat template. Where the new text begins with the
//               text in the caches, only what comes after it is encoded. It is run token by token where it is a
//               small part of the conversation (kForwardTokensAStep); else the whole conversation in one forward,
//               which reads the weights once. Where the new text does not begin so (a template that drops old
//               thinking), the caches are made again from the whole text: scan states cannot go back.
// Sizes         select() runs the tokens of the conversation through another size. Where `control` has sizes
//               (runtime/thinking.h), they alternate instead: a turn begins in that of its opening.
// Draws         a function of seed and place in the conversation.
// Errors        kInput: a turn that does not fit `context`; the conversation stays as it was. An error of
//               select() leaves the size as it was; one is select() where `control` has sizes.
// Ownership     borrows context and model.
#pragma once
#include <functional>
#include <optional>

#include "runtime/chat_template.h"
#include "runtime/decoder.h"
#include "runtime/thinking.h"

namespace nestling {

// Tokens that a forward of many runs in the time of one step. Measured, one core, f32, tiny-reasoner, whose weights
// stay in the processor's caches: 2 in a forward of 32 tokens, 8 of 2,048. More where they do not: a step reads all
// weights for one token.
inline constexpr int64_t kForwardTokensAStep = 8;

struct ChatOptions {
  int64_t max_new_tokens = 1024;  // of an answer
  int64_t context = 4096;         // tokens of the conversation
  SamplingRule rule = {};
  uint64_t seed = 0;
  bool thinking = true;
  ThinkingControl control = {};  // its closing: that of the model's template, whatever stands here
  std::string system = {};       // the system's message; empty: none
};

struct ChatReply {
  std::string thinking, content;
  int64_t tokens = 0;           // generated
  int64_t thinking_tokens = 0;  // of them, within thinking
  int64_t tokens_run = 0;       // of the conversation before the answer
  int64_t tokens_switched = 0;  // run again within it, where another size took over
  bool again = false;           // all of it, anew: the caches were made again
  bool stopped = false;         // by a stop token; else by a limit
};

class ChatSession {
 public:
  ChatSession(Context& ctx, LoadedModel& model, ChatOptions options);

  using OnText = std::function<void(bool thinking, const std::string& text)>;
  ChatReply answer(const std::string& user, const OnText& on_text = nullptr);
  // Returns how many tokens were run again.
  int64_t select(const std::string& size);
  void reset();

  // All tokens of the conversation; the last one of an answer has not been run yet.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const LoadedModel& model() const { return model_; }
  const ThinkingControl& control() const { return options_.control; }

 private:
  void take_turn(ChatReply& reply);
  const Size* other_size(bool thinking) const;
  int64_t run_in(const Size& size);
  void run_pending();
  void generate(ChatReply& reply, const OnText& on_text);

  Context& ctx_;
  LoadedModel& model_;
  ChatOptions options_;
  ChatTemplate template_;
  ThinkingSizes sizes_;  // of control
  std::vector<ChatMessage> messages_;
  std::vector<int32_t> tokens_;
  std::string text_;                // of tokens_
  std::optional<Decoder> decoder_;  // has run a prefix of tokens_; none: nothing has been run
};

}  // namespace nestling
