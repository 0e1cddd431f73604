// tokenizer.h - text to token ids and back: byte-level BPE from a Hugging Face tokenizer.json.
//
// Parity        gives the ids and texts that the `tokenizers` package gives for the same file; what
//               that file asks for and this does not do is refused on loading (tokenizer_file.h).
//               Known to differ: characters newer than our Unicode tables (regex.h, normalizer.h), and
//               a special token that NFC changes, which is left out of a decoded text here, not there.
// Text          UTF-8. encode throws kInput naming the byte where it is not; callers with doubtful
//               text repair it first (replace_invalid_utf8).
// Threads       encode and decode are const and may run in many threads at once.
// Determinism   a pure function of file and text.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"

namespace nestling {

// The files of a model's directory that say how text becomes tokens and back, and that travel with it.
inline constexpr const char* kTokenizerFiles[] = {"tokenizer.json", "tokenizer_config.json",
                                                  "chat_template.jinja", "generation_config.json",
                                                  "special_tokens_map.json"};

class Tokenizer {
 public:
  // A tokenizer.json, or a directory that has one.
  explicit Tokenizer(const std::filesystem::path& path);
  // The text of a tokenizer.json; `name` stands in messages for the file.
  Tokenizer(std::string source, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // add_special_tokens puts around the text what the file's template does (BOS). Special tokens
  // that stand in the text are found either way.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;
  // What training and measurements read of a text: with what the file's template puts around it, and
  // closed with `end` unless the template does that.
  std::vector<int32_t> document(std::string_view text, int32_t end) const;
  // Bytes that are not UTF-8 come out as U+FFFD. Throws kInput for an id without a token.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  int64_t vocab_size() const;                                     // largest id + 1
  std::optional<int32_t> token_id(std::string_view token) const;  // as written in the file
  const std::string& token_text(int32_t id) const;                // as written in the file
  const std::string& token_bytes(int32_t id) const;               // what it stands for
  bool is_token(int32_t id) const;
  bool is_special(int32_t id) const;
  const std::string& source() const;  // the file's text, to be stored beside weights

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Decodes ids one by one as they are generated. What push() returns never ends within a character;
// all pushes and finish() together are what decode() gives.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens = false)
      : tokenizer_(tokenizer), skip_special_(skip_special_tokens) {}
  std::string push(int32_t id);
  std::string finish();  // the held-back bytes, which now cannot become a character

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string held_;
};

}  // namespace nestling
