#include "data/bpe_trainer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>

#include "data/added_tokens.h"
#include "data/byte_level.h"
#include "data/json.h"
#include "data/mapped_file.h"
#include "data/pretokenizer.h"
#include "data/utf8.h"

namespace nestling {
namespace {

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

struct Hash {
  using is_transparent = void;
  size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  size_t operator()(uint64_t key) const { return key * 0x9E3779B97F4A7C15u >> 16; }
};

using WordCounts = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;

uint64_t pack(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// The words, the pairs in them, and the most frequent pair, kept up to date from merge to merge.
class PairCounts {
 public:
  explicit PairCounts(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      count_pairs(words_[w], +1);
      const auto& ids = words_[w].ids;
      for (size_t i = 0; i + 1 < ids.size(); ++i) note(pack(ids[i], ids[i + 1]), w);
    }
    for (const auto& [pair, info] : pairs_) queue_.push({info.count, pair});
  }

  // The most frequent pair and its count; count 0 when none is left. Takes it from the queue.
  std::pair<uint64_t, int64_t> pop() {
    while (!queue_.empty()) {
      const Ranked best = queue_.top();
      queue_.pop();
      const int64_t now = pairs_[best.pair].count;
      if (now == best.count) return {best.pair, now};
      if (now > 0) queue_.push({now, best.pair});  // the entry had grown old
    }
    return {0, 0};
  }

  void merge(uint64_t pair, int32_t result) {
    const std::vector<uint32_t> where = std::move(pairs_[pair].words);
    pairs_[pair].words = {};
    grown_.clear();
    for (uint32_t w : where) merge_in(w, pair, result);
    std::sort(grown_.begin(), grown_.end());
    grown_.erase(std::unique(grown_.begin(), grown_.end()), grown_.end());
    for (uint64_t p : grown_)
      if (const int64_t count = pairs_[p].count; count > 0) queue_.push({count, p});
  }

 private:
  struct Info {
    int64_t count = 0;
    std::vector<uint32_t> words;  // every word that holds the pair; some no longer do
  };
  struct Ranked {
    int64_t count;
    uint64_t pair;
    bool operator<(const Ranked& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  void count_pairs(const Word& word, int64_t sign) {
    for (size_t i = 0; i + 1 < word.ids.size(); ++i)
      pairs_[pack(word.ids[i], word.ids[i + 1])].count += sign * word.count;
  }
  void note(uint64_t pair, size_t word) {
    auto& words = pairs_[pair].words;
    if (words.empty() || words.back() != word) words.push_back(static_cast<uint32_t>(word));
  }
  void merge_in(uint32_t w, uint64_t pair, int32_t result) {
    auto& ids = words_[w].ids;
    const auto at = [&](size_t i) {
      return i + 1 < ids.size() && pack(ids[i], ids[i + 1]) == pair;
    };
    size_t first = 0;
    while (first < ids.size() && !at(first)) ++first;
    if (first >= ids.size()) return;
    count_pairs(words_[w], -1);
    size_t to = first;
    for (size_t from = first; from < ids.size(); ++to) {
      const bool here = at(from);
      const int32_t id = here ? result : ids[from];
      from += here ? 2 : 1;
      ids[to] = id;
    }
    ids.resize(to);
    count_pairs(words_[w], +1);
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      if (ids[i] != result && ids[i + 1] != result) continue;
      const uint64_t fresh = pack(ids[i], ids[i + 1]);
      note(fresh, w);
      grown_.push_back(fresh);
    }
  }

  std::vector<Word> words_;
  std::unordered_map<uint64_t, Info, Hash> pairs_;
  std::priority_queue<Ranked> queue_;
  std::vector<uint64_t> grown_;
};

struct Vocabulary {
  std::vector<std::string> tokens;  // byte-level, special tokens as they are
  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::string> merges;

  int32_t add(const std::string& token) {
    const auto [it, fresh] = ids.emplace(token, static_cast<int32_t>(tokens.size()));
    if (fresh) tokens.push_back(token);
    return it->second;
  }
};

Json pre_tokenizer_json(const std::string& regex) {
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", regex}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json bytes = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}};
}

std::string tokenizer_json(const Vocabulary& vocabulary, const BpeTrainerOptions& options) {
  Json added = Json::array();
  for (size_t i = 0; i < options.special_tokens.size(); ++i)
    added.push_back({{"id", i},
                     {"content", options.special_tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json decoder = {{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", false}};
  const Json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", false},
                      {"vocab", vocabulary.ids},
                      {"merges", vocabulary.merges}};
  return dump_json({{"version", "1.0"},
                    {"truncation", nullptr},
                    {"padding", nullptr},
                    {"added_tokens", added},
                    {"normalizer", nullptr},
                    {"pre_tokenizer", pre_tokenizer_json(options.regex)},
                    {"post_processor", nullptr},
                    {"decoder", decoder},
                    {"model", model}}) +
         "\n";
}

std::vector<AddedToken> special_tokens(const std::vector<std::string>& contents) {
  std::vector<AddedToken> tokens;
  for (const std::string& content : contents)
    tokens.push_back({.content = content, .id = static_cast<int32_t>(tokens.size())});
  return tokens;
}

// Special tokens and bytes, in the order of their ids.
Vocabulary fixed_part(const BpeTrainerOptions& options, std::vector<int32_t>* byte_ids) {
  Vocabulary vocabulary;
  for (const std::string& token : options.special_tokens) {
    NESTLING_CHECK_INPUT(!vocabulary.ids.contains(token), "special token ", token,
                         " is given twice");
    vocabulary.add(token);
  }
  std::vector<uint8_t> bytes(256);
  for (size_t b = 0; b < 256; ++b) bytes[b] = static_cast<uint8_t>(b);
  std::sort(bytes.begin(), bytes.end(),
            [](uint8_t a, uint8_t b) { return byte_level_char(a) < byte_level_char(b); });
  byte_ids->resize(256);
  for (uint8_t b : bytes) {
    const char byte = static_cast<char>(b);
    (*byte_ids)[b] = vocabulary.add(to_byte_level({&byte, 1}));
  }
  NESTLING_CHECK_INPUT(options.vocab_size >= static_cast<int64_t>(vocabulary.tokens.size()),
                       "a vocabulary of ", options.vocab_size, " has no room for its ",
                       vocabulary.tokens.size(), " special tokens and bytes");
  return vocabulary;
}

std::vector<Word> to_words(const WordCounts& counts, const std::vector<int32_t>& byte_ids) {
  std::vector<Word> words;
  words.reserve(counts.size());
  for (const auto& [piece, count] : counts) {
    Word word{{}, count};
    word.ids.reserve(piece.size());
    for (char c : piece) word.ids.push_back(byte_ids[static_cast<uint8_t>(c)]);
    words.push_back(std::move(word));
  }
  return words;
}

}  // namespace

struct BpeTrainer::State {
  explicit State(BpeTrainerOptions o)
      : options(std::move(o)),
        document(pre_tokenizer_json(options.regex), "trainer"),
        pretokenizer(document.root()),
        specials(special_tokens(options.special_tokens)) {}

  BpeTrainerOptions options;
  JsonDocument document;
  Pretokenizer pretokenizer;  // the very one that the file will name
  AddedTokenFinder specials;
  WordCounts counts;
};

BpeTrainer::BpeTrainer(BpeTrainerOptions options)
    : state_(std::make_unique<State>(std::move(options))) {}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add_text(std::string_view text) {
  const size_t fault = find_invalid_utf8(text);
  NESTLING_CHECK_INPUT(fault == std::string_view::npos, "the text is not UTF-8 at byte ", fault);
  WordCounts& counts = state_->counts;
  state_->specials.split(text, [&](std::string_view part, const AddedToken* token) {
    if (token != nullptr) return;
    state_->pretokenizer.split(part, [&](std::string_view piece) {
      const auto it = counts.find(piece);
      if (it != counts.end())
        ++it->second;
      else
        counts.emplace(piece, 1);
    });
  });
}

void BpeTrainer::add_file(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const size_t fault = find_invalid_utf8(mapped.text());
  NESTLING_CHECK_INPUT(fault == std::string_view::npos, file.string(), ": not UTF-8 at byte ",
                       fault);
  add_text(mapped.text());
}

std::string BpeTrainer::train() {
  const BpeTrainerOptions& options = state_->options;
  std::vector<int32_t> byte_ids;
  Vocabulary vocabulary = fixed_part(options, &byte_ids);
  PairCounts pairs(to_words(state_->counts, byte_ids));
  while (static_cast<int64_t>(vocabulary.tokens.size()) < options.vocab_size) {
    const auto [pair, count] = pairs.pop();
    NESTLING_CHECK_INPUT(count >= std::max<int64_t>(1, options.min_frequency),
                         "the text supports only ", vocabulary.tokens.size(), " tokens of the ",
                         options.vocab_size, " asked for: the next pair occurs ", count,
                         " times, min_frequency is ", options.min_frequency);
    const std::string& left = vocabulary.tokens[pair >> 32];
    const std::string& right = vocabulary.tokens[pair & 0xFFFFFFFFu];
    vocabulary.merges.push_back(left + " " + right);
    pairs.merge(pair, vocabulary.add(left + right));
  }
  return tokenizer_json(vocabulary, options);
}

}  // namespace nestling
