#include "runtime/gguf_tokenizer_files.h"

#include <nlohmann/json.hpp>

#include "data/json.h"
#include "runtime/gguf_pretokenizer.h"

namespace nestling {

namespace {

// The tokens of a file, by their ids.
class GgufVocabulary {
 public:
  explicit GgufVocabulary(const GgufFile& file)
      : file_(file), texts_(file.texts(gguf_key::kTokens)), types_(types_of(file)) {
    NESTLING_CHECK_INPUT(types_.size() == texts_.size(), where(gguf_key::kTokenTypes), " has ",
                         types_.size(), " items, there are ", texts_.size(), " tokens");
  }

  Json vocab() const {
    Json vocab = Json::object();
    for (size_t i = 0; i < texts_.size(); ++i) {
      if (type(i) == GgufTokenType::kUnused) continue;
      const auto [at, fresh] = vocab.emplace(texts_[i], i);
      NESTLING_CHECK_INPUT(fresh, where(gguf_key::kTokens), ": tokens ", at->get<size_t>(), " and ",
                           i, " are both \"", texts_[i], "\"");
    }
    return vocab;
  }
  Json added() const {
    Json list = Json::array();
    for (size_t i = 0; i < texts_.size(); ++i) {
      const bool own = type(i) == GgufTokenType::kUserDefined;
      if (own || type(i) == GgufTokenType::kControl)
        list.push_back({{"id", i},
                        {"content", texts_[i]},
                        {"special", !own},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"single_word", false},
                        {"normalized", false}});
    }
    return list;
  }
  // The token that a key names; none: it is not there.
  std::optional<std::string> named(const char* key) const {
    if (!file_.has(key)) return {};
    return texts_[id(key)];
  }
  size_t id(const char* key) const {
    const int64_t id = file_.integer(key);
    NESTLING_CHECK_INPUT(id >= 0 && id < std::ssize(texts_), where(key), " is ", id, ", there are ",
                         texts_.size(), " tokens");
    return static_cast<size_t>(id);
  }
  // As it stands in a template of a tokenizer.json.
  Json special(const char* key, Json& known) const {
    const std::string& text = texts_[id(key)];
    known[text] = {{"id", text}, {"ids", {id(key)}}, {"tokens", {text}}};
    return {{"SpecialToken", {{"id", text}, {"type_id", 0}}}};
  }

 private:
  std::string where(const char* key) const { return file_.name() + ": key " + key; }
  static std::vector<int64_t> types_of(const GgufFile& file) {
    if (file.has(gguf_key::kTokenTypes)) return file.integers(gguf_key::kTokenTypes);
    return std::vector<int64_t>(static_cast<size_t>(file.length(gguf_key::kTokens)),
                                static_cast<int64_t>(GgufTokenType::kNormal));
  }
  GgufTokenType type(size_t i) const {
    const auto type = static_cast<GgufTokenType>(types_[i]);
    NESTLING_CHECK_INPUT(type == GgufTokenType::kNormal || type == GgufTokenType::kControl ||
                             type == GgufTokenType::kUserDefined || type == GgufTokenType::kUnused,
                         where(gguf_key::kTokenTypes), ": token ", i, " is of type ", types_[i],
                         ", needs 1 (normal), 3 (control), 4 (user-defined) or 5 (unused)");
    return type;
  }
  const GgufFile& file_;
  std::vector<std::string> texts_;
  std::vector<int64_t> types_;
};

// What is put around a text; null: nothing.
Json template_json(const GgufFile& file, const GgufVocabulary& tokens, bool adds_bos) {
  const auto adds = [&](const char* key, bool otherwise) {
    return file.has(key) ? file.flag(key) : otherwise;
  };
  const bool begins = adds(gguf_key::kAddBos, adds_bos), ends = adds(gguf_key::kAddEos, false);
  if (!begins && !ends) return nullptr;
  Json known = Json::object();
  const auto around = [&](const char* sequence, int type, Json& parts) {
    if (begins) parts.push_back(tokens.special(gguf_key::kBos, known));
    parts.push_back({{"Sequence", {{"id", sequence}, {"type_id", type}}}});
    if (ends) parts.push_back(tokens.special(gguf_key::kEnds[0], known));
  };
  Json single = Json::array();
  around("A", 0, single);
  Json pair = single;
  around("B", 1, pair);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", known}};
}

std::string tokenizer_json(const GgufFile& file, const GgufVocabulary& tokens) {
  const char* key = gguf_key::kTokenizerPre;
  const GgufPretokenizer pre =
      gguf_pretokenizer(file.has(key) ? file.text(key) : "default", file.name() + ": key " + key);
  return dump_json({{"version", "1.0"},
                    {"normalizer", nullptr},
                    {"pre_tokenizer", pre.json()},
                    {"post_processor", template_json(file, tokens, pre.adds_bos)},
                    {"decoder",
                     {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", true}}},
                    {"added_tokens", tokens.added()},
                    {"model",
                     {{"type", "BPE"},
                      {"ignore_merges", pre.ignore_merges},
                      {"vocab", tokens.vocab()},
                      {"merges", file.texts(gguf_key::kMerges)}}}},
                   -1);
}

std::string tokenizer_config(const GgufVocabulary& tokens) {
  constexpr std::pair<const char*, const char*> kNames[] = {{"bos_token", gguf_key::kBos},
                                                            {"eos_token", gguf_key::kEnds[0]},
                                                            {"unk_token", gguf_key::kUnknown},
                                                            {"pad_token", gguf_key::kPadding}};
  Json config = Json::object();
  for (const auto& [name, key] : kNames)
    if (const auto token = tokens.named(key)) config[name] = *token;
  return dump_json(config);
}

}  // namespace

std::map<std::string, std::string> gguf_tokenizer_files(const GgufFile& file) {
  const std::string model =
      file.has(gguf_key::kTokenizerModel) ? file.text(gguf_key::kTokenizerModel) : "none";
  if (model == "none") return {};
  NESTLING_CHECK_INPUT(model == "gpt2", file.name(), ": key ", gguf_key::kTokenizerModel, " is '",
                       model, "'; needs 'gpt2' (byte-level BPE), or 'none'");
  const GgufVocabulary tokens(file);
  std::map<std::string, std::string> files = {{"tokenizer.json", tokenizer_json(file, tokens)},
                                              {"tokenizer_config.json", tokenizer_config(tokens)}};
  if (file.has(gguf_key::kChatTemplate))
    files["chat_template.jinja"] = file.text(gguf_key::kChatTemplate);
  return files;
}

}  // namespace nestling
