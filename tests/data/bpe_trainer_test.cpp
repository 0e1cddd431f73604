#include "data/bpe_trainer.h"

#include <gtest/gtest.h>
#include <map>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "data/tokenizer.h"
#include "kernels/core/rng.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)

std::string random_text(uint64_t seed, int words) {
  Rng rng(seed);
  std::string text;
  for (int w = 0; w < words; ++w) {
    const uint64_t n = 1 + rng.below(7);
    for (uint64_t i = 0; i < n; ++i) text.push_back(static_cast<char>('a' + rng.below(3)));
    text += " ";
  }
  return text;
}

std::vector<std::string> merges_of(const std::string& tokenizer) {
  return Json::parse(tokenizer)["model"]["merges"].get<std::vector<std::string>>();
}

// The rule itself, counting everything again before every merge.
std::vector<std::string> merges_by_recounting(const std::string& text, const std::string& tokenizer,
                                              size_t n) {
  const auto vocab = Json::parse(tokenizer)["model"]["vocab"].get<std::map<std::string, int>>();
  std::map<std::vector<std::string>, int64_t> words;  // pieces here are " abc" and one "abc"
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at + 1), text.size());
    std::vector<std::string> word;
    for (char c : text.substr(at, end - at))
      word.push_back(c == ' ' ? "\u0120" : std::string(1, c));
    ++words[word];
    at = end;
  }
  std::vector<std::string> merges;
  while (merges.size() < n) {
    std::map<std::pair<int, int>, int64_t> counts;
    std::map<std::pair<int, int>, std::pair<std::string, std::string>> names;
    for (const auto& [word, count] : words)
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        const std::pair key{vocab.at(word[i]), vocab.at(word[i + 1])};
        counts[key] += count;
        names[key] = {word[i], word[i + 1]};
      }
    auto best = counts.begin();
    for (auto it = counts.begin(); it != counts.end(); ++it)
      if (it->second > best->second) best = it;
    const auto [left, right] = names[best->first];
    merges.push_back(left + " " + right);
    std::map<std::vector<std::string>, int64_t> merged;
    for (const auto& [word, count] : words) {
      std::vector<std::string> out;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool here = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
        out.push_back(here ? left + right : word[i]);
        i += here;
      }
      merged[out] += count;
    }
    words = std::move(merged);
  }
  return merges;
}

TEST(BpeTrainer, MergesTheMostFrequentPairEachTime) {
  const std::string text = random_text(1, 3000);
  BpeTrainer trainer({.vocab_size = 256 + 60, .min_frequency = 1});
  trainer.add_text(text);
  const std::string tokenizer = trainer.train();
  const auto merges = merges_of(tokenizer);
  EXPECT_EQ(merges, merges_by_recounting(text, tokenizer, merges.size()));
}

TEST(BpeTrainer, IsDeterministicAndBlindToTheOrderOfTexts) {
  const std::string a = random_text(2, 500);
  const std::string b = random_text(3, 500);
  const auto train = [](const std::string& first, const std::string& second) {
    BpeTrainer trainer({.vocab_size = 300, .special_tokens = {"<s>", "</s>"}});
    trainer.add_text(first);
    trainer.add_text(second);
    return trainer.train();
  };
  EXPECT_EQ(train(a, b), train(a, b));
  EXPECT_EQ(train(a, b), train(b, a));
}

TEST(BpeTrainer, TrainsATokenizerThatRoundTrips) {
  const TempDir dir;
  std::string text =
      random_text(4, 2000) + "<|im_start|>user\n12+30=42 It's caf\u00e9 \U0001f600\n<|im_end|>\n";
  BpeTrainer trainer({.vocab_size = 330, .special_tokens = {"<|im_start|>", "<|im_end|>"}});
  trainer.add_file(dir.write("a.txt", text));
  const Tokenizer t(trainer.train(), "trained");
  EXPECT_EQ(t.vocab_size(), 330);
  EXPECT_EQ(t.token_id("<|im_end|>"), 1);
  const auto ids = t.encode(text, true);
  EXPECT_EQ(t.decode(ids), text);
  EXPECT_LT(ids.size(), text.size() / 2);
  EXPECT_EQ(t.encode("123", false).size(), 3u);  // digits stay apart
  EXPECT_EQ(t.encode("<|im_start|>", false), std::vector<int32_t>{0});
  // Special tokens leave no merges behind.
  for (const std::string& merge : merges_of(t.source()))
    EXPECT_EQ(merge.find('<'), std::string::npos);
}

TEST(BpeTrainer, LearnsWhatTheTokenizersPackageLearns) {
  const auto golden = source_dir() / "tests" / "golden" / "bpe_trainer";
  const auto want = read_json(golden / "expected.json");
  BpeTrainer trainer({.vocab_size = want.json()["vocab_size"],
                      .special_tokens = want.json()["special_tokens"],
                      .regex = want.json()["regex"],
                      .min_frequency = want.json()["min_frequency"]});
  trainer.add_file(golden / "text.txt");
  const Json model = Json::parse(trainer.train())["model"];
  EXPECT_EQ(model["merges"], want.json()["merges"]);
  EXPECT_EQ(model["vocab"], want.json()["vocab"]);
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
  const TempDir dir;
  expect_error([] { BpeTrainer({.vocab_size = 200}).train(); }, {"200", "no room"});
  expect_error([] { BpeTrainer({.special_tokens = {"<s>", "<s>"}}).train(); }, {"<s>", "twice"});
  BpeTrainer trainer({.vocab_size = 4096});
  trainer.add_text("hello hello");
  expect_error([&] { trainer.train(); }, {"supports only", "4096", "min_frequency is 2"});
  expect_error([&] { trainer.add_text("a\xff"); }, {"byte 1"});
  expect_error([&] { trainer.add_file(dir.write("bad.txt", "abc\xff")); }, {"bad.txt", "byte 3"});
}

}  // namespace
}  // namespace nestling
