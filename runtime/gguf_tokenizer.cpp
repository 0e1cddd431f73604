#include "runtime/gguf_tokenizer.h"

#include <algorithm>
#include <set>

#include "data/tokenizer_file.h"
#include "runtime/chat_template.h"

namespace nestling {

namespace {

using Files = std::map<std::string, std::string>;

// Types of tokens, as GGUF numbers them.
constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

// A pre-tokenizer by its stages, outermost first: regular expressions, and ByteLevel where that
// brings GPT-2's own.
constexpr const char* kByteLevel = "ByteLevel";
struct GgufPre {
  std::vector<std::string> stages;
  bool ignore_merges;
  const char* name;
};
const std::vector<GgufPre>& known_pres() {
  static const std::vector<GgufPre> pres = {
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       "llama-bpe"},
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       "dbrx"},
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       "qwen2"},
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       "qwen35"},
      {{R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       "tekken"},
      {{R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       "gpt-4o"},
      {{kByteLevel}, false, "gpt-2"},
      {{R"(\p{N})", kByteLevel}, false, "smollm"},
  };
  return pres;
}

void add_stages(JsonRef item, std::vector<std::string>& stages) {
  const std::string& type = item.at("type").string();
  const auto flag = [&](const char* key, bool absent) {
    const JsonRef value = item.find(key);
    return value ? value.boolean() : absent;
  };
  if (type == "Sequence") {
    const JsonRef list = item.at("pretokenizers");
    for (size_t i = 0; i < list.size(); ++i) add_stages(list.at(i), stages);
  } else if (type == "Split") {
    const JsonRef regex = item.at("pattern").find("Regex");
    if (!regex) item.fail("llama.cpp has no pre-tokenizer that splits by a text");
    stages.push_back(regex.string());
  } else if (type == "Digits") {
    stages.emplace_back(flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
  } else {
    if (flag("add_prefix_space", true)) item.fail("llama.cpp puts no space in front of a text");
    if (flag("use_regex", true)) stages.emplace_back(kByteLevel);
  }
}

std::string pre_name(JsonRef root, bool ignore_merges) {
  std::vector<std::string> stages;
  const JsonRef item = root.at("pre_tokenizer");
  add_stages(item, stages);
  for (const GgufPre& pre : known_pres())
    if (pre.stages == stages && pre.ignore_merges == ignore_merges) return pre.name;
  std::string text;
  for (const std::string& stage : stages) text += (text.empty() ? "" : ", then ") + stage;
  item.fail(str("no pre-tokenizer of llama.cpp is known here that splits by ", text,
                ignore_merges ? " and takes whole tokens before merges (ignore_merges)" : "",
                "; --tokenizer none writes a model of token ids"));
}

struct VocabToken {
  std::string text;
  int32_t type = kUnused;
};
std::vector<VocabToken> vocabulary(const TokenizerSpec& spec, int64_t size) {
  std::vector<VocabToken> tokens(static_cast<size_t>(size));
  const auto put = [&](int32_t id, const std::string& text, int32_t type) {
    NESTLING_CHECK(id < size, "token ", id, " of a vocabulary of ", size);
    tokens[static_cast<size_t>(id)] = {text, type};
  };
  for (const auto& [text, id] : spec.vocab) put(id, text, kNormal);
  for (const AddedToken& t : spec.added) put(t.id, t.content, t.special ? kControl : kUserDefined);
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i].type == kUnused) tokens[i].text = str("[PAD", i, "]");
  return tokens;
}

// llama.cpp goes from text to id: no text may stand twice.
void check_once(const std::vector<VocabToken>& tokens, const std::string& where) {
  std::map<std::string_view, size_t> seen;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto [at, fresh] = seen.emplace(tokens[i].text, i);
    NESTLING_CHECK_INPUT(fresh, where, ": tokens ", at->second, " and ", i, " are both \"",
                         tokens[i].text, "\", which llama.cpp takes for one");
  }
}

std::vector<std::string> merge_lines(const TokenizerSpec& spec,
                                     const std::vector<VocabToken>& tokens,
                                     const std::string& where) {
  std::vector<std::string> lines;
  lines.reserve(spec.merges.size());
  for (const BpeMerge& m : spec.merges) {
    const std::string& left = tokens[static_cast<size_t>(m.left)].text;
    const std::string& right = tokens[static_cast<size_t>(m.right)].text;
    NESTLING_CHECK_INPUT(
        left.find(' ') == std::string::npos && right.find(' ') == std::string::npos, where,
        ": a merge of \"", left, "\" and \"", right, "\": llama.cpp takes no spaces in merges");
    lines.push_back(left + " " + right);
  }
  return lines;
}

// Ids of special tokens, each under the key llama.cpp has for it.
class SpecialIds {
 public:
  SpecialIds(const std::vector<VocabToken>& tokens, const std::map<std::string, std::string>& named)
      : named_(named) {
    for (size_t i = 0; i < tokens.size(); ++i)
      if (tokens[i].type != kUnused) ids_[tokens[i].text] = static_cast<int64_t>(i);
  }
  // The one named in tokenizer_config.json, else `otherwise`.
  int64_t id(const char* token, int64_t otherwise) const {
    const auto at = named_.find(token);
    if (at == named_.end()) return otherwise;
    const auto found = ids_.find(at->second);
    return found == ids_.end() ? otherwise : found->second;
  }

 private:
  std::map<std::string, std::string> named_;
  std::map<std::string, int64_t> ids_;
};

void add_id(GgufTokenizer& out, const char* key, int64_t id) {
  if (id >= 0) out.keys.push_back({key, static_cast<uint32_t>(id)});
}

// The end of a text, and the next ones under llama.cpp's other two names.
void add_ends(GgufTokenizer& out, const SpecialIds& special, const ModelConfig& config,
              const std::string& where) {
  std::vector<int64_t> ends = config.eos;
  const int64_t named = special.id("eos_token", -1);
  if (ends.empty() && named >= 0) ends = {named};
  NESTLING_CHECK_INPUT(!ends.empty(), where,
                       ": no eos_token_id in config.json and no eos_token in "
                       "tokenizer_config.json; llama.cpp would stop at token 11");
  std::stable_partition(ends.begin(), ends.end(), [&](int64_t id) { return id == named; });
  constexpr const char* kEnds[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                   "tokenizer.ggml.eom_token_id"};
  for (size_t i = 0; i < ends.size() && i < std::size(kEnds); ++i) add_id(out, kEnds[i], ends[i]);
  if (ends.size() > std::size(kEnds))
    out.notes.push_back(str("of ", ends.size(), " ends of text llama.cpp is told ",
                            std::size(kEnds), ": not token ", ends[std::size(kEnds)], " and on"));
}

// What the file puts around a text, which llama.cpp may do with one token on each side.
void add_around(GgufTokenizer& out, const TokenizerSpec& spec, const SpecialIds& special,
                const ModelConfig& config, const std::string& where) {
  const int64_t bos = spec.before.empty() ? special.id("bos_token", config.bos) : spec.before[0];
  NESTLING_CHECK_INPUT(spec.before.size() <= 1 && spec.after.size() <= 1, where,
                       ": tokenizer.json puts ", spec.before.size(), " tokens before a text and ",
                       spec.after.size(), " after it; llama.cpp puts one at most");
  add_id(out, "tokenizer.ggml.bos_token_id", bos);
  if (bos < 0) out.notes.emplace_back("the model names no BOS; llama.cpp takes token 11 for it");
  out.keys.push_back({"tokenizer.ggml.add_bos_token", !spec.before.empty()});
  const bool adds_end = !spec.after.empty();
  out.keys.push_back({"tokenizer.ggml.add_eos_token", adds_end});
  if (!adds_end) return;
  const GgufKey* end = nullptr;
  for (const GgufKey& k : out.keys)
    if (k.name == "tokenizer.ggml.eos_token_id") end = &k;
  NESTLING_CHECK_INPUT(
      end && std::get<uint32_t>(end->value) == static_cast<uint32_t>(spec.after[0]), where,
      ": tokenizer.json puts token ", spec.after[0],
      " after a text, which is not the EOS that llama.cpp would put there");
}

void add_notes(GgufTokenizer& out, const TokenizerSpec& spec) {
  if (spec.nfc)
    out.notes.emplace_back(
        "this tokenizer brings text to NFC, llama.cpp does not: text in another form has other "
        "ids");
  for (const AddedToken& t : spec.added)
    if (t.lstrip || t.rstrip || t.single_word) {
      out.notes.push_back(
          str("llama.cpp knows no lstrip, rstrip and single_word of added tokens: \"", t.content,
              "\" and others take or leave space around them there"));
      return;
    }
}

}  // namespace

GgufTokenizer gguf_no_tokenizer() {
  return {.keys = {{"tokenizer.ggml.model", std::string("none")}}, .notes = {}};
}

GgufTokenizer gguf_tokenizer(const Files& files, const ModelConfig& config,
                             const std::string& where) {
  const auto file = files.find("tokenizer.json");
  NESTLING_CHECK_INPUT(file != files.end(), where,
                       ": no tokenizer.json; --tokenizer none writes a model of token ids");
  const JsonDocument document = parse_json(file->second, where + ": tokenizer.json");
  const TokenizerSpec spec = parse_tokenizer(document.root());
  const std::vector<VocabToken> tokens = vocabulary(spec, config.vocab);
  check_once(tokens, document.name());
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  for (const VocabToken& t : tokens) {
    texts.push_back(t.text);
    types.push_back(t.type);
  }
  GgufTokenizer out;
  out.keys = {{"tokenizer.ggml.model", std::string("gpt2")},
              {"tokenizer.ggml.pre", pre_name(document.root(), spec.ignore_merges)},
              {"tokenizer.ggml.tokens", std::move(texts)},
              {"tokenizer.ggml.token_type", std::move(types)},
              {"tokenizer.ggml.merges", merge_lines(spec, tokens, document.name())}};
  const SpecialIds special(tokens, special_tokens(files, where));
  add_ends(out, special, config, where);
  add_id(out, "tokenizer.ggml.padding_token_id", special.id("pad_token", config.pad));
  add_id(out, "tokenizer.ggml.unknown_token_id", special.id("unk_token", spec.unknown));
  add_around(out, spec, special, config, document.name());
  if (const auto text = chat_template_text(files, where))
    out.keys.push_back({"tokenizer.chat_template", text->text});
  add_notes(out, spec);
  return out;
}

}  // namespace nestling
