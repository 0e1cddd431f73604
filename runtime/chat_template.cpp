#include "runtime/chat_template.h"

#include <nlohmann/json.hpp>

#include "data/utf8.h"

namespace nestling {

namespace {

using Files = std::map<std::string, std::string>;

constexpr const char* kConfig = "tokenizer_config.json";

Json config_of(const Files& files, const std::string& where) {
  const auto at = files.find(kConfig);
  if (at == files.end()) return Json::object();
  return parse_json(at->second, where + ": " + kConfig, kHuggingFaceJson).json();
}

JinjaTemplate template_of(const Files& files, const std::string& where) {
  const auto found = chat_template_text(files, where);
  NESTLING_CHECK_INPUT(
      found.has_value(), where,
      ": no chat template: needs chat_template.jinja, or one text chat_template in ", kConfig);
  return {found->text, found->where};
}

}  // namespace

std::optional<ChatTemplateText> chat_template_text(const Files& files, const std::string& where) {
  if (const auto at = files.find("chat_template.jinja"); at != files.end()) {
    const size_t fault = find_invalid_utf8(at->second);
    NESTLING_CHECK_INPUT(fault == std::string::npos, where,
                         ": chat_template.jinja: not UTF-8 at byte ", fault);
    return ChatTemplateText{at->second, where + ": chat_template.jinja"};
  }
  const Json config = config_of(files, where);
  const auto at = config.find("chat_template");
  if (at == config.end() || !at->is_string()) return {};
  return ChatTemplateText{at->get<std::string>(), where + ": " + kConfig + ": chat_template"};
}

// "bos_token": "<s>", or {"content": "<s>", ...}.
std::map<std::string, std::string> special_tokens(const Files& files, const std::string& where) {
  const Json config = config_of(files, where);
  std::map<std::string, std::string> tokens;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    const auto at = config.find(key);
    if (at == config.end()) continue;
    const Json text = at->is_object() ? at->value("content", Json()) : *at;
    if (text.is_string()) tokens[key] = text.get<std::string>();
  }
  return tokens;
}

ChatTemplate::ChatTemplate(const Files& files, const std::string& where)
    : special_tokens_(special_tokens(files, where)), template_(template_of(files, where)) {}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool thinking) const {
  OrderedJson variables = special_tokens_;
  variables["messages"] = OrderedJson::array();
  for (const ChatMessage& m : messages) {
    OrderedJson message = OrderedJson::object();
    if (!m.reasoning.empty()) message["thinking"] = m.reasoning;
    message["role"] = m.role;
    message["content"] = m.content;
    if (!m.reasoning.empty()) message["reasoning_content"] = m.reasoning;
    variables["messages"].push_back(std::move(message));
  }
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = true;
  variables["enable_thinking"] = thinking;
  return template_.render(variables);
}

}  // namespace nestling
