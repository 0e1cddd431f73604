#include "runtime/gguf_tokenizer.h"

#include <algorithm>
#include <set>

#include "data/gguf_format.h"
#include "data/tokenizer_file.h"
#include "runtime/chat_template.h"
#include "runtime/gguf_pretokenizer.h"

namespace nestling {

namespace {

using Files = std::map<std::string, std::string>;

struct VocabToken {
  std::string text;
  GgufTokenType type = GgufTokenType::kUnused;
};
std::vector<VocabToken> vocabulary(const TokenizerSpec& spec, int64_t size) {
  std::vector<VocabToken> tokens(static_cast<size_t>(size));
  const auto put = [&](int32_t id, const std::string& text, GgufTokenType type) {
    NESTLING_CHECK(id < size, "token ", id, " of a vocabulary of ", size);
    tokens[static_cast<size_t>(id)] = {text, type};
  };
  for (const auto& [text, id] : spec.vocab) put(id, text, GgufTokenType::kNormal);
  for (const AddedToken& t : spec.added)
    put(t.id, t.content, t.special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i].type == GgufTokenType::kUnused) tokens[i].text = str("[PAD", i, "]");
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
      if (tokens[i].type != GgufTokenType::kUnused) ids_[tokens[i].text] = static_cast<int64_t>(i);
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
  constexpr auto& kEnds = gguf_key::kEnds;
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
  add_id(out, gguf_key::kBos, bos);
  if (bos < 0) out.notes.emplace_back("the model names no BOS; llama.cpp takes token 11 for it");
  out.keys.push_back({gguf_key::kAddBos, !spec.before.empty()});
  const bool adds_end = !spec.after.empty();
  out.keys.push_back({gguf_key::kAddEos, adds_end});
  if (!adds_end) return;
  const GgufKey* end = nullptr;
  for (const GgufKey& k : out.keys)
    if (k.name == gguf_key::kEnds[0]) end = &k;
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
  return {.keys = {{gguf_key::kTokenizerModel, std::string("none")}}, .notes = {}};
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
    types.push_back(static_cast<int32_t>(t.type));
  }
  GgufTokenizer out;
  out.keys = {{gguf_key::kTokenizerModel, std::string("gpt2")},
              {gguf_key::kTokenizerPre, gguf_pre_name(document.root(), spec.ignore_merges)},
              {gguf_key::kTokens, std::move(texts)},
              {gguf_key::kTokenTypes, std::move(types)},
              {gguf_key::kMerges, merge_lines(spec, tokens, document.name())}};
  const SpecialIds special(tokens, special_tokens(files, where));
  add_ends(out, special, config, where);
  add_id(out, gguf_key::kPadding, special.id("pad_token", config.pad));
  add_id(out, gguf_key::kUnknown, special.id("unk_token", spec.unknown));
  add_around(out, spec, special, config, document.name());
  if (const auto text = chat_template_text(files, where))
    out.keys.push_back({gguf_key::kChatTemplate, text->text});
  add_notes(out, spec);
  return out;
}

}  // namespace nestling
