// chat_template.h - a conversation as the text a model was trained on, by the template it came with.
//
// Template      chat_template.jinja, or else "chat_template" of tokenizer_config.json, rendered as
//               transformers does (runtime/jinja.h), with its variables: messages (whose reasoning is
//               reasoning_content, and thinking to templates of gpt-oss), tools and documents (none),
//               add_generation_prompt, enable_thinking, bos_token and the other special tokens.
// Errors        kInput: no template, or one that asks for what is not known, by line and construct.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/jinja.h"

namespace nestling {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
  std::string reasoning = {};  // of an assistant; empty: none
};

// The template as it was written, and its place for messages; none: there is none.
struct ChatTemplateText {
  std::string text, where;
};
std::optional<ChatTemplateText> chat_template_text(const std::map<std::string, std::string>& files,
                                                   const std::string& where);
// bos_token, eos_token, unk_token and pad_token of tokenizer_config.json, those that it has.
std::map<std::string, std::string> special_tokens(const std::map<std::string, std::string>& files,
                                                  const std::string& where);

class ChatTemplate {
 public:
  // `files`: name to bytes, as LoadedModel::tokenizer_files(); `where` stands in messages for the model.
  ChatTemplate(const std::map<std::string, std::string>& files, const std::string& where);
  // Ends with the opening of an answer.
  std::string render(const std::vector<ChatMessage>& messages, bool thinking) const;

 private:
  std::map<std::string, std::string> special_tokens_;
  JinjaTemplate template_;
};

}  // namespace nestling
