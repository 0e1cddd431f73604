#include "runtime/server/request.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace nestling {

namespace {

constexpr int64_t kMostLogprobs = 20;  // as OpenAI's
constexpr int64_t kMostChoices = 128;
constexpr size_t kMostPrompts = 4096;

enum class Taken : uint8_t { kRead, kIgnored, kOnly };
enum class Of : uint8_t { kBoth, kChat, kCompletion };

struct Field {
  const char* name;
  Taken taken;
  Of of = Of::kBoth;
  const char* only = "";  // JSON: the value that changes nothing
};

constexpr Field kFields[] = {
    {"model", Taken::kRead},
    {"messages", Taken::kRead, Of::kChat},
    {"prompt", Taken::kRead, Of::kCompletion},
    {"max_tokens", Taken::kRead},
    {"max_completion_tokens", Taken::kRead, Of::kChat},
    {"temperature", Taken::kRead},
    {"top_p", Taken::kRead},
    {"top_k", Taken::kRead},
    {"seed", Taken::kRead},
    {"n", Taken::kRead},
    {"stop", Taken::kRead},
    {"stream", Taken::kRead},
    {"stream_options", Taken::kRead},
    {"logprobs", Taken::kRead},
    {"top_logprobs", Taken::kRead, Of::kChat},
    {"echo", Taken::kRead, Of::kCompletion},
    {"add_special_tokens", Taken::kRead, Of::kCompletion},
    {"thinking_token_budget", Taken::kRead},
    {"chat_template_kwargs", Taken::kRead, Of::kChat},
    {"user", Taken::kIgnored},
    {"metadata", Taken::kIgnored},
    {"store", Taken::kIgnored},
    {"service_tier", Taken::kIgnored},
    {"safety_identifier", Taken::kIgnored},
    {"prompt_cache_key", Taken::kIgnored},
    {"presence_penalty", Taken::kOnly, Of::kBoth, "0"},
    {"frequency_penalty", Taken::kOnly, Of::kBoth, "0"},
    {"repetition_penalty", Taken::kOnly, Of::kBoth, "1"},
    {"min_p", Taken::kOnly, Of::kBoth, "0"},
    {"min_tokens", Taken::kOnly, Of::kBoth, "0"},
    {"ignore_eos", Taken::kOnly, Of::kBoth, "false"},
    {"logit_bias", Taken::kOnly, Of::kBoth, "{}"},
    {"best_of", Taken::kOnly, Of::kCompletion, "1"},
    {"suffix", Taken::kOnly, Of::kCompletion, "\"\""},
    {"tools", Taken::kOnly, Of::kChat, "[]"},
    {"tool_choice", Taken::kOnly, Of::kChat, "\"none\""},
    {"parallel_tool_calls", Taken::kIgnored, Of::kChat},
    {"response_format", Taken::kOnly, Of::kBoth, R"({"type":"text"})"},
    {"modalities", Taken::kOnly, Of::kChat, R"(["text"])"},
    {"add_generation_prompt", Taken::kOnly, Of::kChat, "true"},
    {"continue_final_message", Taken::kOnly, Of::kChat, "false"},
};

bool is_of(const Field& field, bool chat) {
  return field.of == Of::kBoth || (field.of == Of::kChat) == chat;
}

std::string list(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

[[noreturn]] void refuse(const std::string& field, const std::string& why) {
  throw ServerError(400, field + ": " + why, "", field);
}

void check_fields(JsonRef body, bool chat) {
  body.for_each([&](const std::string& name, JsonRef value) {
    if (value.is_null()) return;
    std::vector<std::string> read;
    for (const Field& field : kFields) {
      if (!is_of(field, chat)) continue;
      if (field.taken == Taken::kRead) read.push_back(field.name);
      if (field.name != name) continue;
      if (field.taken == Taken::kOnly && value.json() != Json::parse(field.only))
        refuse(name, str("not supported; only ", field.only, " is taken, found ",
                         dump_json(value.json(), -1).substr(0, 100)));
      return;
    }
    refuse(name, "not a field that is supported here; those are " + list(read));
  });
}

double number(JsonRef body, const char* name, double otherwise, double least, double most) {
  const JsonRef value = body.find(name);
  if (!value) return otherwise;
  const double x = value.number();
  if (!(x >= least && x <= most)) refuse(name, str(x, " is not between ", least, " and ", most));
  return x;
}

int64_t integer(JsonRef body, const char* name, int64_t otherwise, int64_t least, int64_t most) {
  const JsonRef value = body.find(name);
  if (!value) return otherwise;
  const int64_t x = value.integer();
  if (x < least || x > most) refuse(name, str(x, " is not between ", least, " and ", most));
  return x;
}

bool flag(JsonRef body, const char* name, bool otherwise) {
  const JsonRef value = body.find(name);
  return value ? value.boolean() : otherwise;
}

// The fields of an object within a request, of which others are refused.
void check_keys(JsonRef object, const std::vector<std::string>& known) {
  object.for_each([&](const std::string& name, JsonRef value) {
    if (!value.is_null() && std::find(known.begin(), known.end(), name) == known.end())
      throw ServerError(400, value.path() + ": not supported; there is " + list(known), "",
                        value.path());
  });
}

SamplingRule rule_of(JsonRef body, const SamplingRule& otherwise) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  SamplingRule rule;
  rule.temperature =
      static_cast<float>(number(body, "temperature", otherwise.temperature, 0, kLargest));
  rule.top_p = static_cast<float>(number(body, "top_p", otherwise.top_p, 0, 1));
  if (rule.top_p == 0) refuse("top_p", "0 leaves no token; above 0 and at most 1");
  rule.top_k = integer(body, "top_k", otherwise.top_k, -1, int64_t{1} << 40);
  if (rule.top_k == -1) rule.top_k = 0;  // vLLM's word for all
  return rule;
}

std::vector<std::string> stops_of(JsonRef body) {
  const JsonRef stop = body.find("stop");
  std::vector<std::string> stops;
  if (!stop) return stops;
  if (stop.is_string()) stops.push_back(stop.string());
  for (size_t i = 0; !stop.is_string() && i < stop.size(); ++i)
    stops.push_back(stop.at(i).string());
  for (const std::string& text : stops)
    if (text.empty()) refuse("stop", "an empty text is nowhere and everywhere");
  return stops;
}

std::optional<int64_t> limit_of(JsonRef body, const char* name, int64_t least) {
  if (!body.find(name)) return {};
  return integer(body, name, 0, least, int64_t{1} << 40);
}

std::string text_of(JsonRef content) {
  if (!content) return "";
  if (content.is_string()) return content.string();
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const JsonRef part = content.at(i);
    check_keys(part, {"type", "text"});
    const std::string& type = part.at("type").string();
    if (type != "text") part.at("type").fail("'" + type + "' is not supported, only text");
    text += (i > 0 ? "\n" : "") + part.at("text").string();
  }
  return text;
}

ChatMessage message_of(JsonRef message) {
  check_keys(message, {"role", "content", "reasoning_content", "reasoning"});
  const std::string& role = message.at("role").string();
  const bool answer = role == "assistant";
  if (!answer && role != "system" && role != "user")
    message.at("role").fail("'" + role + "' is not supported; there is system, user, assistant");
  if (!answer && !message.find("content")) message.at("content").fail("null");
  JsonRef reasoning = message.find("reasoning_content");
  if (!reasoning) reasoning = message.find("reasoning");
  if (reasoning && !answer) reasoning.fail("only of an assistant");
  return {.role = role,
          .content = text_of(message.find("content")),
          .reasoning = reasoning ? reasoning.string() : ""};
}

// Whether the answer may think.
bool thinking_of(JsonRef body) {
  const JsonRef arguments = body.find("chat_template_kwargs");
  if (!arguments) return true;
  check_keys(arguments, {"enable_thinking"});
  return flag(arguments, "enable_thinking", true);
}

}  // namespace

std::vector<std::string> request_fields() {
  std::vector<std::string> names;
  for (const Field& field : kFields) names.push_back(field.name);
  return names;
}

RequestReader::RequestReader(const LoadedModel& model, const RequestDefaults& defaults)
    : model_(model), defaults_(defaults), default_model_(model.size()) {
  model.tokenizer();
  try {
    template_.emplace(model.tokenizer_files(), model.name());
  } catch (const Error& e) {
    no_template_ = e.what();
  }
}

std::vector<std::string> RequestReader::models() const {
  const std::vector<std::string> sizes = model_.sizes();
  std::vector<std::string> all = sizes;
  for (size_t answer = 0; answer < sizes.size(); ++answer)
    for (size_t think = answer + 1; think < sizes.size(); ++think)
      all.push_back(sizes[think] + ">" + sizes[answer]);
  return all;
}

ThinkingSizes RequestReader::sizes_of(const std::string& model, ThinkingControl& control) const {
  const std::vector<std::string> sizes = model_.sizes();
  const bool named = std::find(sizes.begin(), sizes.end(), model) != sizes.end();
  const size_t at = named ? std::string::npos : model.find('>');
  control.think = model.substr(0, at);
  control.answer = at == std::string::npos ? model : model.substr(at + 1);
  try {
    const std::lock_guard lock(file_);
    return thinking_sizes(model_, control);
  } catch (const Error& e) {
    throw ServerError(404,
                      str("no model is named '", model, "' here; sizes: ", list(sizes),
                          "; two of them as THINK>ANSWER (", e.what(), ")"),
                      "model_not_found", "model");
  }
}

void RequestReader::check_model(const std::string& model) const {
  ThinkingControl control;
  sizes_of(model, control);
}

ServedRequest RequestReader::common(JsonRef body, bool chat) const {
  if (!body.is_object()) body.fail("needs an object");
  check_fields(body, chat);
  ServedRequest r;
  r.chat = chat;
  const JsonRef model = body.find("model");
  r.model = model ? model.string() : default_model_;
  const int64_t budget = integer(body, "thinking_token_budget", -1, -1, int64_t{1} << 40);
  if (budget >= 0) r.control.budget = budget;
  r.sizes = sizes_of(r.model, r.control);
  r.rule = rule_of(body, defaults_.rule);
  if (const JsonRef seed = body.find("seed")) r.seed = static_cast<uint64_t>(seed.integer());
  r.n = integer(body, "n", 1, 1, kMostChoices);
  r.stop = stops_of(body);
  r.stream = flag(body, "stream", false);
  if (const JsonRef options = body.find("stream_options")) {
    if (!r.stream) refuse("stream_options", "only with stream");
    check_keys(options, {"include_usage"});
    r.include_usage = flag(options, "include_usage", false);
  }
  return r;
}

// `most`: tokens that were asked for; none: all that the context holds.
void RequestReader::limit(ServedRequest& r, std::optional<int64_t> most) const {
  if (r.logprobs && r.control.budget)
    refuse("thinking_token_budget",
           "tokens that close thinking are not drawn: no logprobs of them");
  for (const auto& prompt : r.prompts) {
    if (prompt.empty()) refuse(r.chat ? "messages" : "prompt", "no token");
    const int64_t room = defaults_.context - std::ssize(prompt);
    if (room < (most ? *most : 1))
      throw ServerError(400,
                        str("the prompt has ", prompt.size(), " tokens, ", most ? *most : 1,
                            most ? " more were asked for" : " is the least to come after it",
                            ", the context is ", defaults_.context),
                        "context_length_exceeded", r.chat ? "messages" : "prompt");
    r.max_new_tokens = most ? *most : room;
  }
}

ServedRequest RequestReader::chat(JsonRef body) const {
  ServedRequest r = common(body, true);
  if (!template_) refuse("messages", "no chat template: " + no_template_);
  std::vector<ChatMessage> messages;
  const JsonRef given = body.at("messages");
  if (!given.is_array() || given.size() == 0) given.fail("needs an array of messages");
  for (size_t i = 0; i < given.size(); ++i) messages.push_back(message_of(given.at(i)));
  r.prompts.push_back(
      model_.tokenizer().encode(template_->render(messages, thinking_of(body)), false));
  if (r.control.budget) r.control.closing = closing_text(*template_);
  const auto most = limit_of(body, "max_tokens", 1);
  const auto most_too = limit_of(body, "max_completion_tokens", 1);
  if (most && most_too && most != most_too)
    refuse("max_completion_tokens", str(*most_too, ", and max_tokens ", *most));
  const bool logprobs = flag(body, "logprobs", false);
  if (body.find("top_logprobs") && !logprobs) refuse("top_logprobs", "only with logprobs");
  if (logprobs) r.logprobs = integer(body, "top_logprobs", 0, 0, kMostLogprobs);
  limit(r, most ? most : most_too);
  return r;
}

std::vector<int32_t> RequestReader::token_ids(JsonRef ids) const {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t id = ids.at(i).integer();
    if (id < 0 || id >= model_.tokenizer().vocab_size() ||
        !model_.tokenizer().is_token(static_cast<int32_t>(id)))
      ids.at(i).fail(str(id, " is no token; they end at ", model_.tokenizer().vocab_size() - 1));
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

ServedRequest RequestReader::completion(JsonRef body) const {
  constexpr int64_t kMostByDefault = 16;  // as OpenAI's
  ServedRequest r = common(body, false);
  const bool special = flag(body, "add_special_tokens", true);
  const auto add = [&](JsonRef prompt) {
    r.prompts.push_back(prompt.is_string() ? model_.tokenizer().encode(prompt.string(), special)
                                           : token_ids(prompt));
  };
  const JsonRef prompt = body.at("prompt");
  if (!prompt.is_string() && !prompt.is_array())
    prompt.fail("needs a text, token ids, or a list of them");
  const bool one = prompt.is_string() || (prompt.size() > 0 && prompt.at(size_t{0}).is_integer());
  if (one) add(prompt);
  if (!one && prompt.size() > kMostPrompts)
    refuse("prompt", str(prompt.size(), " prompts; at most ", kMostPrompts));
  for (size_t i = 0; !one && i < prompt.size(); ++i) add(prompt.at(i));
  if (r.prompts.empty()) refuse("prompt", "an empty list");
  r.echo = flag(body, "echo", false);
  if (body.find("logprobs")) r.logprobs = integer(body, "logprobs", 0, 0, kMostLogprobs);
  limit(r, integer(body, "max_tokens", kMostByDefault, 0, int64_t{1} << 40));
  return r;
}

}  // namespace nestling
