#include "data/regex.h"

#include <gtest/gtest.h>
#include <vector>

#include "data/pretokenizer.h"
#include "tests/support/expect_error.h"

namespace nestling {
namespace {

using namespace nestling::testing;  // NOLINT(google-build-using-namespace)
using Pieces = std::vector<std::string>;

Pieces all_matches(const Regex& regex, std::string_view text) {
  Pieces found;
  RegexMatcher matcher(regex);
  for (size_t at = 0;;) {
    const auto m = matcher.next(text, at);
    if (!m) return found;
    found.emplace_back(text.substr(m->first, m->second - m->first));
    at = m->second;
  }
}

TEST(Regex, WhiteSpaceIsUnicodes) {
  // PCRE2's own \s also takes U+180E; Oniguruma's does not.
  const Regex space("\\s");
  for (const char* c :
       {" ", "\t", "\r", "\u0085", "\u00a0", "\u1680", "\u2003", "\u2028", "\u3000"})
    EXPECT_EQ(all_matches(space, c).size(), 1u) << c;
  for (const char* c : {"x", "\u180e", "\u200b", "\ufeff"})
    EXPECT_EQ(all_matches(space, c).size(), 0u) << c;
  EXPECT_EQ(all_matches(Regex("[^\\S]"), "a b"), Pieces{" "});
  EXPECT_EQ(all_matches(Regex("[\\w]+"), "a\u0301b_1-c"), (Pieces{"a\u0301b_1", "c"}));
}

// A script, as in Oniguruma; not all that is used with it.
TEST(Regex, ScriptsAreOfTheirOwnCharacters) {
  const std::string han = "\u6f22\u3001\u5b57";  // two ideographs about a comma
  EXPECT_EQ(all_matches(Regex("\\p{Han}+"), han), (Pieces{"\u6f22", "\u5b57"}));
  EXPECT_EQ(all_matches(Regex("[\\p{Han}]+"), han), (Pieces{"\u6f22", "\u5b57"}));
  EXPECT_EQ(all_matches(Regex("\\P{Han}+"), han), Pieces{"\u3001"});
  EXPECT_EQ(all_matches(Regex("\\p{^Han}+"), han), Pieces{"\u3001"});
  EXPECT_EQ(all_matches(Regex("\\p{Hiragana}+"), "\u3042\u30fc"), Pieces{"\u3042"});
}

TEST(Regex, RefusesWhatMeansSomethingElse) {
  for (const char* pattern : {"^a", "a$", "\\bx", "\\h", "\\W", "\\p{N}{1,3}+", "[a[b]]", "[a&&b]",
                              "(?m)a", "(?<name>a)", "a{,3}", "a{x}", "[]a]", "\\"})
    expect_error([&] { Regex regex(pattern); }, {"regex ", pattern, "is not supported"});
  expect_error([] { Regex regex("(a"); }, {"regex (a", "at byte 2"});
  expect_error([] { Regex regex("a*"); }, {"matches empty text"});
  expect_error([] { all_matches(Regex("(?:a+)+[bc]"), std::string(60, 'a')); }, {"match limit"});
  EXPECT_NO_THROW(Regex("[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}|(?i:'s)|\\[\\x{1F600}a-z\\]"));
}

TEST(Regex, LiteralTextHasNoSyntax) {
  EXPECT_EQ(all_matches(Regex::literal("a.[b"), "a.[b axb a.[b"), (Pieces{"a.[b", "a.[b"}));
}

Pieces split(const std::string& json, std::string_view text) {
  const auto document = parse_json(json, "t.json");
  Pieces pieces;
  Pretokenizer(document.root()).split(text, [&](std::string_view p) { pieces.emplace_back(p); });
  return pieces;
}

TEST(Pretokenizer, FollowsTheFile) {
  const std::string bytes = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":)";
  EXPECT_EQ(split(bytes + "true}", "It's  12 x"), (Pieces{"It", "'s", " ", " 12", " x"}));
  EXPECT_EQ(split(bytes + "false}", "It's  12 x"), Pieces{"It's  12 x"});
  EXPECT_EQ(split(R"({"type":"ByteLevel"})", "a b"), (Pieces{" a", " b"}));
  const auto sequence = [&](const std::string& item) {
    return R"({"type":"Sequence","pretokenizers":[)" + item + "," + bytes + "false}]}";
  };
  EXPECT_EQ(split(sequence(R"({"type":"Digits","individual_digits":true})"), "a12b"),
            (Pieces{"a", "1", "2", "b"}));
  EXPECT_EQ(split(sequence(R"({"type":"Digits","individual_digits":false})"), "a12b"),
            (Pieces{"a", "12", "b"}));
  const auto by = [&](const char* pattern, const char* behavior) {
    return sequence(
        str(R"({"type":"Split","pattern":)", pattern, R"(,"behavior":")", behavior, "\"}"));
  };
  EXPECT_EQ(split(by(R"({"Regex":"\\p{L}+"})", "Isolated"), "a,b"), (Pieces{"a", ",", "b"}));
  EXPECT_EQ(split(by(R"({"String":"."})", "Isolated"), "a.b"), (Pieces{"a", ".", "b"}));
  EXPECT_EQ(split(by(R"({"Regex":"\\p{L}+"})", R"(Removed","invert":true,"x":")"), "a,b"),
            (Pieces{"a", "b"}));
  expect_error([&] { split(by(R"({"String":"."})", "MergedWithNext"), ""); },
               {"t.json: pretokenizers[0]", "MergedWithNext"});
  expect_error([&] { split(sequence(R"({"type":"Metaspace"})"), ""); },
               {"t.json: pretokenizers[0]", "Metaspace"});
  expect_error([&] { split(R"({"type":"Digits","individual_digits":true})", ""); },
               {"Digits is last"});
  expect_error([&] { split("null", ""); }, {"found null"});
}

TEST(Pretokenizer, LongRunsDoNotBlowUp) {
  const std::string json =
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)"
      R"("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},)"
      R"("behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})";
  constexpr size_t kLong = 4'000'000;
  for (const char* unit : {" ", "a", "\n", "=", "\u4e2d", "\t"}) {
    std::string text;
    while (text.size() < kLong) text += unit;
    EXPECT_LE(split(json, text + "x").size(), 3u) << unit;
  }
}

}  // namespace
}  // namespace nestling
