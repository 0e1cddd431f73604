#include "runtime/server/reply.h"

#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "data/utf8.h"

namespace nestling {

namespace {

const char* finish_name(Finish finish) {
  return finish == Finish::kStop ? "stop" : "length";
}

Json finish_json(const std::optional<Finish>& finish) {
  return finish ? Json(finish_name(*finish)) : Json(nullptr);
}

Json usage_json(const JobUsage& usage, bool chat) {
  Json json = {{"prompt_tokens", usage.prompt},
               {"completion_tokens", usage.completion},
               {"total_tokens", usage.prompt + usage.completion}};
  if (chat) json["completion_tokens_details"] = {{"reasoning_tokens", usage.thinking}};
  return json;
}

const char* error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 500:
      return "server_error";
    case 503:
      return "unavailable_error";
    default:
      return "invalid_request_error";
  }
}

// The bytes of a token that is written in a text; a special one is as it is written.
std::string bytes_of(const Tokenizer& tokenizer, int32_t token) {
  return tokenizer.is_special(token) ? tokenizer.token_text(token) : tokenizer.token_bytes(token);
}

std::string named_by_bytes(const std::string& bytes) {
  if (find_invalid_utf8(bytes) == std::string::npos) return bytes;
  std::string name = "bytes:";
  for (const char c : bytes) {
    char hex[5];
    std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned char>(c));
    name += hex;
  }
  return name;
}

}  // namespace

std::string sse(const std::string& data) {
  return "data: " + data + "\n\n";
}

Json error_json(const ServerError& error) {
  const auto or_null = [](const std::string& s) { return s.empty() ? Json(nullptr) : Json(s); };
  return {{"error",
           {{"message", replace_invalid_utf8(error.what())},
            {"type", error_type(error.status())},
            {"param", or_null(replace_invalid_utf8(error.field()))},
            {"code", or_null(error.code())}}}};
}

Reply::Reply(const Tokenizer& tokenizer, const ServedRequest& request, const std::string& id,
             int64_t created)
    : tokenizer_(tokenizer),
      request_(request),
      id_((request.chat ? "chatcmpl-" : "cmpl-") + id),
      created_(created),
      answers_(request.choices()) {}

Json Reply::head(const char* object) const {
  return {{"id", id_},
          {"object", object},
          {"created", created_},
          {"model", request_.model},
          {"choices", Json::array()}};
}

Json Reply::completion_logprobs(const std::vector<ToldToken>& tokens) const {
  Json names = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  const auto name = [&](int32_t token) { return named_by_bytes(bytes_of(tokenizer_, token)); };
  for (const ToldToken& told : tokens) {
    const TokenLogprob& chosen = told.logprobs.chosen;
    names.push_back(name(chosen.token));
    offsets.push_back(told.offset);
    values.push_back(told.first ? Json(nullptr) : Json(chosen.logprob));
    Json top = Json::object();
    for (const TokenLogprob& t : told.logprobs.top) top.emplace(name(t.token), t.logprob);
    top.emplace(name(chosen.token), chosen.logprob);
    tops.push_back(told.first ? Json(nullptr) : top);
  }
  return {{"tokens", names},
          {"token_logprobs", values},
          {"top_logprobs", tops},
          {"text_offset", offsets}};
}

Json Reply::chat_logprobs(const std::vector<ToldToken>& tokens) const {
  const auto entry = [&](const TokenLogprob& t) -> Json {
    const std::string bytes = bytes_of(tokenizer_, t.token);
    Json numbers = Json::array();
    for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
    return {{"token", replace_invalid_utf8(bytes)}, {"logprob", t.logprob}, {"bytes", numbers}};
  };
  Json content = Json::array();
  for (const ToldToken& told : tokens) {
    Json one = entry(told.logprobs.chosen);
    one["top_logprobs"] = Json::array();
    for (const TokenLogprob& t : told.logprobs.top) one["top_logprobs"].push_back(entry(t));
    content.push_back(one);
  }
  return {{"content", content}};
}

// null where they were not asked for.
Json Reply::logprobs(const std::vector<ToldToken>& tokens) const {
  if (!request_.logprobs) return nullptr;
  return request_.chat ? chat_logprobs(tokens) : completion_logprobs(tokens);
}

std::string Reply::event(const Json& choice) const {
  Json json = head(request_.chat ? "chat.completion.chunk" : "text_completion");
  json["choices"].push_back(choice);
  if (request_.include_usage) json["usage"] = nullptr;
  return sse(dump_json(json, -1));
}

std::string Reply::events(const AnswerPiece& piece) {
  if (request_.chat) return chat_events(piece);
  if (piece.empty()) return "";
  return event({{"index", piece.choice},
                {"text", piece.text},
                {"logprobs", logprobs(piece.tokens)},
                {"finish_reason", finish_json(piece.finish)}});
}

// One event for each of: the role, thinking, text, what ends it.
std::string Reply::chat_events(const AnswerPiece& piece) {
  std::string out;
  Json told = logprobs(piece.tokens);
  const auto add = [&](const Json& delta, const std::optional<Finish>& finish = {}) {
    out += event({{"index", piece.choice},
                  {"delta", delta},
                  {"logprobs", std::exchange(told, nullptr)},
                  {"finish_reason", finish_json(finish)}});
  };
  if (!std::exchange(answers_[piece.choice].begun, true))
    out += event({{"index", piece.choice},
                  {"delta", {{"role", "assistant"}, {"content", ""}}},
                  {"logprobs", nullptr},
                  {"finish_reason", nullptr}});
  if (!piece.thinking.empty())
    add({{"reasoning_content", piece.thinking}, {"reasoning", piece.thinking}});
  if (!piece.text.empty() || (piece.thinking.empty() && !piece.tokens.empty()))
    add({{"content", piece.text}});
  if (piece.finish) add(Json::object(), piece.finish);
  return out;
}

std::string Reply::last_events(const JobUsage& usage) const {
  std::string out;
  if (request_.include_usage) {
    Json json = head(request_.chat ? "chat.completion.chunk" : "text_completion");
    json["usage"] = usage_json(usage, request_.chat);
    out = sse(dump_json(json, -1));
  }
  return out + sse("[DONE]");
}

void Reply::add(AnswerPiece piece) {
  Answer& answer = answers_[piece.choice];
  answer.thinking += piece.thinking;
  answer.text += piece.text;
  std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(answer.tokens));
  if (piece.finish) answer.finish = piece.finish;
}

Json Reply::choice(size_t index, const Answer& answer) const {
  Json json = {{"index", index},
               {"logprobs", logprobs(answer.tokens)},
               {"finish_reason", finish_json(answer.finish)}};
  if (!request_.chat) {
    json["text"] = answer.text;
    return json;
  }
  json["message"] = {{"role", "assistant"}, {"content", answer.text}};
  if (!answer.thinking.empty()) {
    json["message"]["reasoning_content"] = answer.thinking;
    json["message"]["reasoning"] = answer.thinking;
  }
  return json;
}

Json Reply::whole(const JobUsage& usage) const {
  Json json = head(request_.chat ? "chat.completion" : "text_completion");
  for (size_t i = 0; i < answers_.size(); ++i) json["choices"].push_back(choice(i, answers_[i]));
  json["usage"] = usage_json(usage, request_.chat);
  return json;
}

}  // namespace nestling
