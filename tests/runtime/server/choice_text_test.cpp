// The text of an answer from its tokens: whole characters, stops that begin in one token and end in
// another.
#include "runtime/server/choice_text.h"

#include <gtest/gtest.h>

#include "data/utf8.h"
#include "tests/support/source_dir.h"

namespace nestling {
namespace {

using Tokens = std::vector<int32_t>;

const Tokenizer& tokenizer() {
  static const Tokenizer loaded(testing::source_dir() / "data/parents/tiny-reasoner");
  return loaded;
}

struct Said {
  std::string thinking, text;
  int64_t pieces = 0;
  bool stopped = false;
};

// A token at a time, as the engine does it.
Said say(const ServedRequest& request, const Tokens& prompt, const Tokens& tokens) {
  ChoiceText text(tokenizer(), request, prompt);
  Said said;
  const auto take = [&] {
    const AnswerPiece piece = text.take();
    EXPECT_EQ(find_invalid_utf8(piece.text), std::string::npos);
    EXPECT_EQ(find_invalid_utf8(piece.thinking), std::string::npos);
    said.thinking += piece.thinking;
    said.text += piece.text;
    said.pieces += piece.empty() ? 0 : 1;
  };
  for (const int32_t token : tokens) {
    text.push(token, false);
    take();
  }
  text.finish();
  take();
  said.stopped = text.found_stop();
  return said;
}

Tokens encode(const std::string& text) {
  return tokenizer().encode(text, false);
}

TEST(ChoiceText, CharactersComeWhole) {
  const std::string text = "日本語, naïve — 🙂 12";
  const Tokens tokens = encode(text);
  ASSERT_GT(std::ssize(tokens), 16);  // of many characters every byte is a token
  const Said said = say({}, {}, tokens);
  EXPECT_EQ(said.text, text);
  EXPECT_GT(said.pieces, 5);
  EXPECT_LT(said.pieces, std::ssize(tokens));
  // Cut off within a character.
  const Said cut = say({}, {}, {tokens.begin(), tokens.begin() + 2});
  EXPECT_EQ(cut.text, replace_invalid_utf8(cut.text));
  EXPECT_EQ(cut.text, tokenizer().decode({tokens.data(), 2}));
}

TEST(ChoiceText, StopsAreFoundAcrossTokensAndDoNotLeak) {
  const Tokens tokens = encode("alpha = 12 beta = 34");
  const struct {
    std::vector<std::string> stops;
    const char* text;
    bool stopped;
  } kCases[] = {
      {{"2 be"}, "alpha = 1", true},
      {{"a = 34"}, "alpha = 12 bet", true},
      {{"alpha"}, "", true},
      {{"34"}, "alpha = 12 beta = ", true},
      {{"345"}, "alpha = 12 beta = 34", false},    // held back at the end, and text after all
      {{"beta = 3", "12 b"}, "alpha = ", true},    // the one that is complete first
      {{"pha = 12 beta", "= 1"}, "alpha ", true},  // within another that began before
      {{"gamma", "aa", "zz 12"}, "alpha = 12 beta = 34", false},
  };
  for (const auto& c : kCases) {
    ServedRequest request;
    request.stop = c.stops;
    const Said said = say(request, {}, tokens);
    EXPECT_EQ(said.text, c.text);
    EXPECT_EQ(said.stopped, c.stopped);
  }
}

TEST(ChoiceText, AChatsThinkingIsItsOwnAndHasNoStops) {
  ServedRequest request;
  request.chat = true;
  request.stop = {"7"};
  const Tokens prompt = encode("<|im_start|>assistant\n<think>\n");
  const Said said = say(request, prompt, encode("3 + 4 = 7\n\n</think>\nIt is 7, yes"));
  EXPECT_EQ(said.thinking, "3 + 4 = 7\n");  // without the newline that the template puts there
  EXPECT_EQ(said.text, "It is ");
  EXPECT_TRUE(said.stopped);
  request.stop = {};
  const Said none = say(request, encode("<|im_start|>assistant\n<think></think>"), encode("\nx"));
  EXPECT_EQ(none.thinking, "");
  EXPECT_EQ(none.text, "x");
}

TEST(ChoiceText, AnEchoComesFirstAndIsNoPlaceForStops) {
  ServedRequest request;
  request.echo = true;
  request.stop = {"ab"};
  const Tokens prompt = encode("ab日");
  const Said said = say(request, prompt, encode("cab"));
  EXPECT_EQ(said.text, "ab日c");
}

}  // namespace
}  // namespace nestling
