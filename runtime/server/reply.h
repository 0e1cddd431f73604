// reply.h - an answer as OpenAI's clients read it: one JSON object, or server-sent events.
//
// Thinking      of a chat: reasoning_content (llama.cpp, DeepSeek) and reasoning (vLLM), the same
//               text.
// Logprobs      numbers are printed once and equally wherever they stand. A token whose bytes are
//               no UTF-8 is written bytes:\xe2\x98 in a completion, with U+FFFD beside its bytes in
//               a chat.
// Errors        {"error":{"message","type","param","code"}}
#pragma once
#include "runtime/server/job.h"

namespace nestling {

Json error_json(const ServerError& error);

class Reply {
 public:
  // Borrows both. `id`: of the request, unique.
  Reply(const Tokenizer& tokenizer, const ServedRequest& request, const std::string& id,
        int64_t created);

  // Events of a piece; empty where it says nothing.
  std::string events(const AnswerPiece& piece);
  std::string last_events(const JobUsage& usage) const;

  void add(AnswerPiece piece);  // for whole()
  Json whole(const JobUsage& usage) const;

 private:
  struct Answer {
    bool begun = false;  // its role was told
    std::string thinking, text;
    std::vector<ToldToken> tokens;
    std::optional<Finish> finish;
  };

  Json head(const char* object) const;
  Json logprobs(const std::vector<ToldToken>& tokens) const;
  Json completion_logprobs(const std::vector<ToldToken>& tokens) const;
  Json chat_logprobs(const std::vector<ToldToken>& tokens) const;
  Json choice(size_t index, const Answer& answer) const;
  std::string event(const Json& choices) const;
  std::string chat_events(const AnswerPiece& piece);

  const Tokenizer& tokenizer_;
  const ServedRequest& request_;
  std::string id_;
  int64_t created_;
  std::vector<Answer> answers_;
};

std::string sse(const std::string& data);  // one event

}  // namespace nestling
