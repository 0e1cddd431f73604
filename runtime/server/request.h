// request.h - what a client asks for: the JSON of a request, checked whole before any of it is run.
//
// Fields        one list (request.cpp): read; of no influence on what is answered, and ignored; or
//               known, and taken only with the value that changes nothing. Every other one is
//               refused by name. null is as absent.
// Models        a size by name or budget ("75%", "65%"); "THINK>ANSWER": one size thinks, another
//               answers (runtime/thinking.h). Absent: the default one.
// Errors        ServerError, or kInput of data/json.h, whose message names the field.
// Threads       any number at once.
#pragma once
#include <mutex>
#include <optional>

#include "data/json.h"
#include "kernels/ops/sample.h"
#include "runtime/chat_template.h"
#include "runtime/thinking.h"

namespace nestling {

// What a client is told instead of an answer.
class ServerError : public Error {
 public:
  ServerError(int status, const std::string& message, std::string code = "", std::string field = "")
      : Error(message, status < 500 ? ErrorKind::kInput : ErrorKind::kRuntime),
        status_(status),
        code_(std::move(code)),
        field_(std::move(field)) {}
  int status() const { return status_; }  // of HTTP
  const std::string& code() const { return code_; }
  const std::string& field() const { return field_; }

 private:
  int status_;
  std::string code_, field_;
};

struct ServedRequest {
  bool chat = false;
  std::string model;  // as it was asked for
  ThinkingControl control;
  ThinkingSizes sizes;
  std::vector<std::vector<int32_t>> prompts;
  int64_t n = 1;  // answers to each
  SamplingRule rule;
  std::optional<uint64_t> seed;
  int64_t max_new_tokens = 0;
  std::vector<std::string> stop;
  bool stream = false, include_usage = false, echo = false;
  std::optional<int64_t> logprobs;  // of every token, and of so many of the most likely

  size_t choices() const { return prompts.size() * static_cast<size_t>(n); }
};

struct RequestDefaults {
  int64_t context = 4096;  // tokens of prompt and answer
  SamplingRule rule = {.temperature = 1.0f};
};

// Every field of the list, as docs/serve.md has to name it.
std::vector<std::string> request_fields();

class RequestReader {
 public:
  // Borrows the model, which needs a tokenizer.
  RequestReader(const LoadedModel& model, const RequestDefaults& defaults);

  ServedRequest chat(JsonRef body) const;
  ServedRequest completion(JsonRef body) const;
  std::vector<int32_t> token_ids(JsonRef ids) const;  // each one a token
  // Sizes by name, then pairs in which a smaller size thinks.
  std::vector<std::string> models() const;
  void check_model(const std::string& model) const;  // throws 404 where no request could name it
  int64_t context() const { return defaults_.context; }

 private:
  ServedRequest common(JsonRef body, bool chat) const;
  ThinkingSizes sizes_of(const std::string& model, ThinkingControl& control) const;
  void limit(ServedRequest& request, std::optional<int64_t> most) const;

  const LoadedModel& model_;
  RequestDefaults defaults_;
  std::string default_model_;  // the size selected at first
  std::optional<ChatTemplate> template_;
  std::string no_template_;  // why there is none
  mutable std::mutex file_;  // a budget is looked up in the model's file
};

}  // namespace nestling
