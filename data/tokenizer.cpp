#include "data/tokenizer.h"

#include <map>

#include "data/byte_level.h"
#include "data/mapped_file.h"
#include "data/normalizer.h"
#include "data/token_cache.h"
#include "data/tokenizer_file.h"
#include "data/utf8.h"

namespace nestling {
namespace {

std::filesystem::path file_of(const std::filesystem::path& path) {
  return std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
}

struct Token {
  std::string text;   // as written
  std::string bytes;  // what it stands for
  bool exists = false;
  bool special = false;
  // The decoder reads a token with a character outside the alphabet as plain text.
  void read_as(const std::string& written) { bytes = from_byte_level(written).value_or(written); }
};

std::string normal_content(const TokenizerSpec& spec, const AddedToken& token) {
  return token.normalized && spec.nfc ? normalize_nfc(token.content) : token.content;
}

std::vector<AddedToken> pick(const TokenizerSpec& spec, bool normalized) {
  std::vector<AddedToken> picked;
  for (const AddedToken& token : spec.added) {
    if (token.normalized != normalized) continue;
    picked.push_back(token);
    picked.back().content = normal_content(spec, token);
  }
  return picked;
}

Bpe::Bytes byte_ids(const TokenizerSpec& spec) {
  Bpe::Bytes bytes;
  bytes.unknown = spec.unknown;
  bytes.fuse_unknown = spec.fuse_unknown;
  for (size_t b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const auto it = spec.vocab.find(to_byte_level({&byte, 1}));
    bytes.ids[b] = it == spec.vocab.end() ? -1 : it->second;
  }
  return bytes;
}

}  // namespace

struct Tokenizer::State {
  State(TokenizerSpec parsed, std::string text, const std::string& name)
      : spec(std::move(parsed)),
        source(std::move(text)),
        raw_tokens(pick(spec, false)),
        normalized_tokens(pick(spec, true)),
        bpe(byte_ids(spec), spec.merges) {
    for (const auto& [token, id] : spec.vocab) add(token, id, false, name);
    std::map<std::pair<bool, std::string>, int32_t> looked_for;
    for (const AddedToken& token : spec.added) {
      add(token.content, token.id, token.special, name);
      const std::string content = normal_content(spec, token);
      tokens[static_cast<size_t>(token.id)].read_as(content);
      const auto same = looked_for.try_emplace({token.normalized, content}, token.id).first;
      NESTLING_CHECK_INPUT(same->second == token.id, name, ": added tokens ", same->second, " and ",
                           token.id, " are found by one text, \"", content, "\"");
    }
    if (!spec.ignore_merges) return;
    for (const auto& [token, id] : spec.vocab)
      if (auto bytes = from_byte_level(token)) whole.emplace(std::move(*bytes), id);
  }

  void add(const std::string& text, int32_t id, bool special, const std::string& name) {
    const auto at = static_cast<size_t>(id);
    if (at >= tokens.size()) tokens.resize(at + 1);
    NESTLING_CHECK_INPUT(!tokens[at].exists || tokens[at].text == text, name, ": id ", id,
                         " belongs to \"", tokens[at].text, "\" and to \"", text, "\"");
    tokens[at] = {text, {}, true, special};
    tokens[at].read_as(text);
    ids[text] = id;
  }

  void encode_piece(std::string_view piece, std::vector<int32_t>* out) const {
    if (cache.find(piece, out)) return;
    if (spec.ignore_merges) {
      const auto it = whole.find(std::string(piece));
      if (it != whole.end()) return out->push_back(it->second);
    }
    const size_t before = out->size();
    bpe.encode(piece, out);
    cache.remember(piece, out->data() + before, out->size() - before);
  }

  void encode_normalized(std::string_view text, std::vector<int32_t>* out) const {
    normalized_tokens.split(text, [&](std::string_view part, const AddedToken* token) {
      if (token != nullptr) return out->push_back(token->id);
      spec.pretokenizer.split(part, [&](std::string_view piece) { encode_piece(piece, out); });
    });
  }

  TokenizerSpec spec;
  std::string source;
  AddedTokenFinder raw_tokens;
  AddedTokenFinder normalized_tokens;
  Bpe bpe;
  std::vector<Token> tokens;
  std::unordered_map<std::string, int32_t> ids;
  std::unordered_map<std::string, int32_t> whole;  // bytes of a token -> id, for ignore_merges
  mutable TokenCache cache;
};

Tokenizer::Tokenizer(const std::filesystem::path& path)
    : Tokenizer(std::string(MappedFile(file_of(path)).text()), file_of(path).string()) {}

Tokenizer::Tokenizer(std::string source, const std::string& name) {
  const JsonDocument document = parse_json(source, name);
  state_ = std::make_unique<State>(parse_tokenizer(document.root()), std::move(source), name);
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  const size_t fault = find_invalid_utf8(text);
  NESTLING_CHECK_INPUT(fault == std::string_view::npos, "the text is not UTF-8 at byte ", fault);
  const State& s = *state_;
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = s.spec.before;
  s.raw_tokens.split(text, [&](std::string_view part, const AddedToken* token) {
    if (token != nullptr) return ids.push_back(token->id);
    if (s.spec.nfc) return s.encode_normalized(normalize_nfc(part), &ids);
    s.encode_normalized(part, &ids);
  });
  if (add_special_tokens) ids.insert(ids.end(), s.spec.after.begin(), s.spec.after.end());
  return ids;
}

std::vector<int32_t> Tokenizer::document(std::string_view text, int32_t end) const {
  std::vector<int32_t> ids = encode(text, true);
  const std::vector<int32_t>& after = state_->spec.after;
  if (after.empty() || after.back() != end) ids.push_back(end);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (int32_t id : ids)
    if (!skip_special_tokens || !is_special(id)) bytes += token_bytes(id);
  return replace_invalid_utf8(bytes);
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(state_->tokens.size());
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto it = state_->ids.find(std::string(token));
  return it == state_->ids.end() ? std::nullopt : std::optional(it->second);
}

bool Tokenizer::is_token(int32_t id) const {
  return id >= 0 && id < vocab_size() && state_->tokens[static_cast<size_t>(id)].exists;
}

const std::string& Tokenizer::token_text(int32_t id) const {
  NESTLING_CHECK_INPUT(is_token(id), "the vocabulary has no token with id ", id);
  return state_->tokens[static_cast<size_t>(id)].text;
}

const std::string& Tokenizer::token_bytes(int32_t id) const {
  NESTLING_CHECK_INPUT(is_token(id), "the vocabulary has no token with id ", id);
  return state_->tokens[static_cast<size_t>(id)].bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  return is_token(id) && state_->tokens[static_cast<size_t>(id)].special;
}

const std::string& Tokenizer::source() const {
  return state_->source;
}

std::string TokenStream::push(int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  held_ += tokenizer_.token_bytes(id);
  const size_t ready = held_.size() - incomplete_utf8_tail(held_);
  std::string text = replace_invalid_utf8(std::string_view(held_).substr(0, ready));
  held_.erase(0, ready);
  return text;
}

std::string TokenStream::finish() {
  std::string text = replace_invalid_utf8(held_);
  held_.clear();
  return text;
}

}  // namespace nestling
