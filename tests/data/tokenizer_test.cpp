#include "data/tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/json.h"
#include "kernels/core/rng.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Ids = std::vector<int32_t>;

constexpr const char* kFiles[] = {"gpt2.json",      "llama3.json", "qwen2.json",
                                  "starcoder.json", "tekken.json", "added_flags.json"};

std::filesystem::path golden() {
  return source_dir() / "tests" / "golden" / "tokenizer";
}

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  Tokenizer tokenizer_{golden() / GetParam()};
};

TEST_P(TokenizerGolden, EncodesAsTheTokenizersPackage) {
  const auto cases = read_json(golden() / "cases.json");
  int checked = 0;
  for (int round = 0; round < 2; ++round)  // computed, then from the cache
    for (const Json& c : cases.json()) {
      if (c["file"] != GetParam()) continue;
      const auto text = c["text"].get<std::string>();
      const auto ids = c["ids"].get<Ids>();
      ASSERT_EQ(tokenizer_.encode(text, false), ids) << c["text"].dump();
      ASSERT_EQ(tokenizer_.encode(text, true),
                c.contains("ids_with_special") ? c["ids_with_special"].get<Ids>() : ids)
          << c["text"].dump();
      ASSERT_EQ(tokenizer_.decode(ids), c["decoded"].get<std::string>()) << c["text"].dump();
      ++checked;
    }
  EXPECT_GT(checked, 100);
}

TEST_P(TokenizerGolden, DecodesAsTheTokenizersPackage) {
  const auto cases = read_json(golden() / "decode.json");
  int checked = 0;
  for (const Json& c : cases.json()) {
    if (c["file"] != GetParam()) continue;
    const auto ids = c["ids"].get<Ids>();
    EXPECT_EQ(tokenizer_.decode(ids), c["decoded"].get<std::string>()) << c.dump();
    EXPECT_EQ(tokenizer_.decode(ids, true), c["decoded_skip_special"].get<std::string>())
        << c.dump();
    ++checked;
  }
  EXPECT_GT(checked, 8);
}

TEST_P(TokenizerGolden, StreamsWhatDecodeGives) {
  Rng rng(5);
  for (int trial = 0; trial < 300; ++trial) {
    Ids ids(rng.below(20));
    for (int32_t& id : ids)
      id = static_cast<int32_t>(rng.below(static_cast<uint64_t>(tokenizer_.vocab_size())));
    const bool skip = trial % 2;
    TokenStream stream(tokenizer_, skip);
    std::string text;
    for (int32_t id : ids) text += stream.push(id);
    EXPECT_EQ(text + stream.finish(), tokenizer_.decode(ids, skip));
  }
}

INSTANTIATE_TEST_SUITE_P(Styles, TokenizerGolden, ::testing::ValuesIn(kFiles),
                         [](const auto& test) {
                           const std::string name = test.param;
                           return name.substr(0, name.find('.'));
                         });

TEST(Tokenizer, StreamHoldsBackHalfACharacter) {
  const Tokenizer t(golden() / "gpt2.json");
  const Ids smile = t.encode("\U0001f600", false);  // four bytes, more than one token
  ASSERT_GT(smile.size(), 1u);
  TokenStream stream(t);
  std::string text;
  for (size_t i = 0; i + 1 < smile.size(); ++i) text += stream.push(smile[i]);
  EXPECT_EQ(text, "");
  EXPECT_EQ(stream.push(smile.back()), "\U0001f600");
  EXPECT_EQ(stream.push(smile[0]), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer t(golden() / "tekken.json");
  const auto bos = t.token_id("<s>");
  ASSERT_TRUE(bos);
  EXPECT_TRUE(t.is_special(*bos));
  EXPECT_EQ(t.token_text(*bos), "<s>");
  EXPECT_EQ(t.token_id("none such"), std::nullopt);
  EXPECT_EQ(t.token_bytes(*t.token_id("\u0120")), " ");
  EXPECT_FALSE(t.is_token(-1));
  EXPECT_FALSE(t.is_token(static_cast<int32_t>(t.vocab_size())));
  EXPECT_EQ(t.source(), read_bytes(golden() / "tekken.json"));
  expect_error([&] { t.decode(Ids{99999}); }, {"99999"});
  expect_error([&] { t.encode("ab\xff", false); }, {"not UTF-8 at byte 2"});
}

TEST(Tokenizer, ADocumentHasWhatTheTemplateSaysAndOneEnd) {
  const auto around = [](Ids ids, std::optional<int32_t> begin, int32_t end) {
    if (begin) ids.insert(ids.begin(), *begin);
    ids.push_back(end);
    return ids;
  };
  const Tokenizer plain(golden() / "gpt2.json");
  EXPECT_EQ(plain.document("a nest", 7), around(plain.encode("a nest", false), {}, 7));
  const Tokenizer begins(golden() / "llama3.json");
  const int32_t bos = *begins.token_id("<|begin_of_text|>");
  const Ids text = begins.encode("a nest", false);
  EXPECT_EQ(begins.document("a nest", 7), around(text, bos, 7));
  EXPECT_EQ(begins.document("", 7), around({}, bos, 7));
  // A template that closes the text itself.
  Json closing = Json::parse(read_bytes(golden() / "llama3.json"));
  Json& set = closing["post_processor"]["processors"][1];
  const int32_t end = *begins.token_id("<|end_of_text|>");
  set["single"].push_back({{"SpecialToken", {{"id", "<|end_of_text|>"}, {"type_id", 0}}}});
  set["special_tokens"]["<|end_of_text|>"] = {
      {"id", "<|end_of_text|>"}, {"ids", {end}}, {"tokens", {"<|end_of_text|>"}}};
  const Tokenizer both(closing.dump(), "both.json");
  EXPECT_EQ(both.document("a nest", end), around(text, bos, end));
  EXPECT_EQ(both.document("a nest", 7), around(around(text, bos, end), {}, 7));
}

TEST(Tokenizer, EncodesInManyThreads) {
  const Tokenizer t(golden() / "llama3.json");
  const auto cases = read_json(golden() / "cases.json");
  std::vector<std::pair<std::string, Ids>> work;
  for (const Json& c : cases.json())
    if (c["file"] == "llama3.json")
      work.emplace_back(c["text"].get<std::string>(), c["ids"].get<Ids>());
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round)
        for (const auto& [text, ids] : work) wrong += t.encode(text, false) != ids;
    });
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, RefusesWhatItDoesNotDo) {
  const Json good = Json::parse(read_bytes(golden() / "gpt2.json"));
  const auto load = [&](const char* pointer, Json value) {
    Json changed = good;
    changed[Json::json_pointer(pointer)] = std::move(value);
    Tokenizer t(changed.dump(), "t.json");
  };
  EXPECT_NO_THROW(load("/version", "1.0"));
  expect_error([&] { load("/model/type", "Unigram"); }, {"t.json: model.type", "Unigram"});
  expect_error([&] { load("/model/dropout", 0.1); }, {"model.dropout"});
  expect_error([&] { load("/model/byte_fallback", true); }, {"model.byte_fallback"});
  expect_error([&] { load("/model/end_of_word_suffix", "</w>"); }, {"end_of_word_suffix"});
  expect_error([&] { load("/model/merges/3", "a b c"); }, {"model.merges[3]", "a b c"});
  expect_error(
      [&] {
        load("/model/merges/3", {"zz", "qq"});
      },
      {"model.merges[3]", "\"zz\" is not in"});
  expect_error([&] { load("/model/unk_token", "none"); }, {"model.unk_token"});
  const Json split = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "a|"}}}};
  const Json stages = Json::array({split, good["pre_tokenizer"]});
  expect_error(
      [&] {
        load("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", stages}});
      },
      {"t.json: pre_tokenizer.pretokenizers[0].pattern.Regex: regex a| matches empty"});
  expect_error([&] { load("/model/vocab/a", -1); }, {"model.vocab.a", "-1"});
  expect_error([&] { load("/model/vocab/a", 7); }, {"t.json: id 7 belongs to"});
  expect_error([&] { load("/normalizer", {{"type", "NFKC"}}); }, {"normalizer", "NFKC"});
  expect_error(
      [&] {
        load("/pre_tokenizer", {{"type", "Metaspace"}});
      },
      {"pre_tokenizer", "Metaspace"});
  expect_error([&] { load("/post_processor", {{"type", "BertProcessing"}}); }, {"BertProcessing"});
  expect_error([&] { load("/decoder", {{"type", "Metaspace"}}); }, {"decoder", "Metaspace"});
  expect_error([&] { load("/decoder", nullptr); }, {"decoder", "null"});
  expect_error([&] { load("/added_tokens/0/id", 1'000'000'000); },
               {"added_tokens[0].id", "1000000000 is out of range"});
  expect_error([&] { load("/added_tokens/0/content", "a"); },
               {"added_tokens[0]", "in the vocabulary"});
  const auto added = [](const char* content, int id) {
    return Json{{"content", content}, {"id", id}, {"normalized", true}};
  };
  expect_error(
      [&] {
        Json changed = good;
        changed["normalizer"] = {{"type", "NFC"}};
        changed["added_tokens"] = {added("x\u00e9x", 9000), added("xe\u0301x", 9001)};
        Tokenizer t(changed.dump(), "t.json");
      },
      {"t.json", "9000 and 9001", "one text"});
  expect_error([] { Tokenizer t(std::filesystem::path("/nonexistent")); }, {"/nonexistent"});
}

TEST(Tokenizer, MissingBytesAreUnknownOrAnError) {
  Json json = Json::parse(read_bytes(golden() / "gpt2.json"));
  json["model"]["vocab"] = {{"a", 0}, {"<unk>", 1}};
  json["model"]["merges"] = Json::array();
  json["added_tokens"] = Json::array();
  expect_error([&] { Tokenizer(json.dump(), "t.json").encode("abba", false); }, {"byte 98"});
  json["model"]["unk_token"] = "<unk>";
  EXPECT_EQ(Tokenizer(json.dump(), "t.json").encode("abba", false), (Ids{0, 1, 1, 0}));
  json["model"]["fuse_unk"] = true;
  EXPECT_EQ(Tokenizer(json.dump(), "t.json").encode("abba", false), (Ids{0, 1, 0}));
}

}  // namespace
}  // namespace nestling
