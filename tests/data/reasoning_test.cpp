// Answers are checked by computing them anew from the prompt alone, never through the generator.
#include "data/reasoning.h"

#include <algorithm>
#include <chrono>
#include <gtest/gtest.h>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "kernels/core/check.h"

namespace nestling::reasoning {
namespace {

// expression := term {(+|-) term}, term := factor {* factor}, factor := number | ( expression )
struct Parser {
  std::string_view text;
  int64_t factor() {
    if (text[0] == '(') {
      text.remove_prefix(1);
      const int64_t v = expression();
      EXPECT_EQ(text[0], ')');
      text.remove_prefix(1);
      return v;
    }
    int64_t v = 0;
    while (!text.empty() && std::isdigit(static_cast<unsigned char>(text[0]))) {
      v = v * 10 + (text[0] - '0');
      text.remove_prefix(1);
    }
    return v;
  }
  int64_t term() {
    int64_t v = factor();
    while (!text.empty() && text[0] == '*') {
      text.remove_prefix(1);
      v *= factor();
    }
    return v;
  }
  int64_t expression() {
    int64_t v = term();
    while (!text.empty() && (text[0] == '+' || text[0] == '-')) {
      const char op = text[0];
      text.remove_prefix(1);
      const int64_t t = term();
      v += op == '+' ? t : -t;
    }
    return v;
  }
};

int64_t evaluate(std::string_view text) {
  Parser parser{text};
  const int64_t v = parser.expression();
  EXPECT_TRUE(parser.text.empty()) << text;
  return v;
}

std::smatch match(const std::string& text, const std::string& pattern) {
  std::smatch m;
  EXPECT_TRUE(std::regex_search(text, m, std::regex(pattern))) << text;
  return m;
}

std::vector<int64_t> numbers_in(const std::string& text) {
  std::vector<int64_t> found;
  static const std::regex kNumber("[0-9]+");
  for (std::sregex_iterator it(text.begin(), text.end(), kNumber), end; it != end; ++it)
    found.push_back(std::stoll(it->str()));
  return found;
}

std::string join(const std::vector<int64_t>& v) {
  std::string out;
  for (const int64_t x : v) out += (out.empty() ? "" : " ") + std::to_string(x);
  return out;
}

std::string solve_arithmetic(const std::string& prompt) {
  return std::to_string(evaluate(match(prompt, "[0-9(][0-9()*+-]*").str()));
}

std::string solve_sorting(const std::string& prompt) {
  auto v = numbers_in(prompt);
  std::sort(v.begin(), v.end());
  if (prompt.starts_with("Sort down")) std::reverse(v.begin(), v.end());
  return join(v);
}

std::string solve_counting(const std::string& prompt) {
  const auto m = match(prompt, "^How many ([a-z]) in: (.*)$");
  const std::string text = m[2];
  return std::to_string(std::count(text.begin(), text.end(), m[1].str()[0]));
}

// Newton's forward differences continue linear and quadratic sequences; the period continues the
// alternating one.
std::string solve_sequence(const std::string& prompt, int level) {
  const auto t = numbers_in(prompt);
  const size_t n = t.size();
  if (level <= 2) return std::to_string(2 * t[n - 1] - t[n - 2]);
  if (level == 3) return std::to_string(t[4] + t[1] - t[0]);  // steps a b a b, then a
  return std::to_string(3 * t[n - 1] - 3 * t[n - 2] + t[n - 3]);
}

std::string solve_weekday(const std::string& prompt) {
  static const std::vector<std::string> kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                 "Thursday", "Friday", "Saturday"};
  const std::string name = match(prompt, "(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day").str();
  const auto start =
      static_cast<unsigned>(std::find(kDays.begin(), kDays.end(), name) - kDays.begin());
  std::chrono::weekday day{start};
  const auto n = numbers_in(prompt);
  if (n.size() == 1) {
    const std::chrono::days d{n[0]};
    day = prompt.find("before") != std::string::npos ? day - d : day + d;
  } else {
    const bool ahead = prompt.find(str("Go ", n[0], " days ahead")) != std::string::npos;
    day = day + std::chrono::days(ahead ? n[0] - n[1] : n[1] - n[0]);
  }
  return kDays[day.c_encoding()];
}

std::string solve_date(const std::string& prompt) {
  static const std::vector<std::string> kMonths = {"January",   "February", "March",    "April",
                                                   "May",       "June",     "July",     "August",
                                                   "September", "October",  "November", "December"};
  const auto m = match(prompt, "is ([0-9]+) days after ([A-Z][a-z]+) ([0-9]+), ([0-9]+)");
  const auto month = static_cast<unsigned>(std::find(kMonths.begin(), kMonths.end(), m[2].str()) -
                                           kMonths.begin() + 1);
  using namespace std::chrono;
  const sys_days start = year{std::stoi(m[4])} / std::chrono::month{month} / std::stoi(m[3]);
  const year_month_day end{start + days{std::stoi(m[1])}};
  return str(kMonths[static_cast<unsigned>(end.month()) - 1], " ", static_cast<unsigned>(end.day()),
             ", ", static_cast<int>(end.year()));
}

std::string solve_story(const std::string& prompt) {
  const auto n = numbers_in(prompt);
  if (prompt.find("change") != std::string::npos)
    return std::to_string(n[4] - n[0] * n[1] - n[2] * n[3]);
  if (prompt.find("together") != std::string::npos) {
    if (prompt.find("times") != std::string::npos) return std::to_string(n[0] * (1 + n[1]));
    return std::to_string(prompt.find("fewer") != std::string::npos ? 2 * n[0] - n[1]
                                                                    : 2 * n[0] + n[1]);
  }
  std::istringstream sentences(prompt);
  std::string sentence;
  int64_t have = 0;
  while (std::getline(sentences, sentence, '.')) {
    const auto v = numbers_in(sentence);
    if (v.empty()) continue;
    static const std::regex kLoss("loses|sells|uses|gives away");
    if (v.size() == 2)
      have += v[0] * v[1];
    else
      have += std::regex_search(sentence, kLoss) ? -v[0] : v[0];
  }
  return std::to_string(have);
}

std::string solve(const Problem& p) {
  if (p.task == "sorting") return solve_sorting(p.prompt);
  if (p.task == "counting") return solve_counting(p.prompt);
  if (p.task == "sequence") return solve_sequence(p.prompt, p.level);
  if (p.task == "weekday") return solve_weekday(p.prompt);
  if (p.task == "date") return solve_date(p.prompt);
  if (p.task == "story") return solve_story(p.prompt);
  return solve_arithmetic(p.prompt);
}

// Words, digits, spaces and signs: what a tokenizer with single digits makes of a document, about.
int64_t rough_tokens(const std::string& text) {
  static const std::regex kToken("<[^>]+>| ?[A-Za-z]+|[0-9]| ?[^A-Za-z0-9\\s]|\\s");
  return std::distance(std::sregex_iterator(text.begin(), text.end(), kToken), {});
}

// Of "b0 a1 b1": the number at the end.
int64_t walk_count(const std::string& walk) {
  return std::stoll(walk.substr(walk.find_last_not_of("0123456789") + 1));
}

class EveryTask : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryTask, AnswersAreRight) {
  for (int level = 1; level <= kLevels; ++level)
    for (const Split split : {Split::kTrain, Split::kHeldOut})
      for (uint64_t i = 0; i < 300; ++i) {
        const Problem p = generate(GetParam(), level, split, 7, i);
        ASSERT_EQ(p.answer, solve(p)) << document(p);
      }
}

// Every equation of a chain holds, and the answer is a copy of its last number or word (of a column
// sum: without leading zeros). Sorted lists and dates are put together from several lines.
TEST_P(EveryTask, ChainsAreRight) {
  static const std::regex kEquation("([0-9(][0-9()*+-]*)=([0-9]+)");
  for (int level = 1; level <= kLevels; ++level)
    for (uint64_t i = 0; i < 200; ++i) {
      const Problem p = generate(GetParam(), level, Split::kTrain, 8, i);
      ASSERT_FALSE(p.thinking.empty()) << p.prompt;
      ASSERT_NE(p.thinking.back(), '\n');
      std::sregex_iterator it(p.thinking.begin(), p.thinking.end(), kEquation);
      for (; it != std::sregex_iterator(); ++it)
        ASSERT_EQ(evaluate((*it)[1].str()), std::stoll((*it)[2])) << document(p);
      if (p.task == "sorting" || p.task == "date") continue;
      std::string last = p.thinking.substr(p.thinking.find_last_of(" =\n") + 1);
      if (p.task == "counting") last = std::to_string(walk_count(p.thinking));
      if (p.task == "subtraction")
        last.erase(0, std::min(last.find_first_not_of('0'), last.size() - 1));
      ASSERT_EQ(last, p.answer) << document(p);
    }
}

TEST_P(EveryTask, DocumentsRoundTripAndFit) {
  for (int level = 1; level <= kLevels; ++level) {
    int64_t total = 0;
    int64_t longest = 0;
    constexpr int64_t kCount = 300;
    for (uint64_t i = 0; i < kCount; ++i) {
      const Problem p = generate(GetParam(), level, Split::kTrain, 9, i);
      const std::string text = document(p);
      ASSERT_EQ(text, str("<|im_start|>user\n", p.prompt, "<|im_end|>\n<|im_start|>assistant\n",
                          "<think>\n", p.thinking, "\n</think>\n", p.answer, "<|im_end|>\n"));
      ASSERT_TRUE(text.starts_with(prompt_text(p)));
      ASSERT_TRUE(score(p, text));
      ASSERT_TRUE(score(p, std::string_view(text).substr(prompt_text(p).size())));
      const int64_t n = rough_tokens(text);
      total += n;
      longest = std::max(longest, n);
    }
    RecordProperty(str("mean_tokens_level_", level), static_cast<int>(total / kCount));
    RecordProperty(str("max_tokens_level_", level), static_cast<int>(longest));
    EXPECT_GE(total / kCount, 20) << level;
    EXPECT_LE(longest, 260) << level;
  }
}

TEST_P(EveryTask, IsAPureFunctionOfItsArguments) {
  std::set<std::string> distinct;
  for (uint64_t i = 0; i < 50; ++i) {
    const Problem p = generate(GetParam(), 2, Split::kTrain, 11, i);
    ASSERT_EQ(document(p), document(generate(GetParam(), 2, Split::kTrain, 11, i)));
    distinct.insert(document(p));
    distinct.insert(document(generate(GetParam(), 2, Split::kTrain, 12, i)));
  }
  EXPECT_GE(distinct.size(), 70u);  // seed and index both matter
}

INSTANTIATE_TEST_SUITE_P(All, EveryTask, ::testing::ValuesIn(tasks()),
                         [](const auto& test) { return test.param; });

// 100,000 draws: no key is in both splits, no prompt either, and both splits hold many problems.
TEST(Splits, AreDisjoint) {
  std::map<std::string, Split> keys;
  std::map<std::string, Split> prompts;
  std::map<std::string, int64_t> held_out;
  const uint64_t per_stream = 100000 / (tasks().size() * kLevels * 2);
  for (const std::string& task : tasks())
    for (int level = 1; level <= kLevels; ++level) {
      std::set<std::string> fresh;
      for (const Split split : {Split::kTrain, Split::kHeldOut})
        for (uint64_t i = 0; i < per_stream; ++i) {
          const Problem p = generate(task, level, split, 13, i);
          ASSERT_EQ(keys.emplace(p.key, split).first->second, split) << p.key;
          ASSERT_EQ(prompts.emplace(p.prompt, split).first->second, split) << p.prompt;
          if (split == Split::kHeldOut) fresh.insert(p.key);
        }
      RecordProperty(str(task, "_", level), static_cast<int>(fresh.size()));
      EXPECT_GE(fresh.size(), 15u) << task << " level " << level;
    }
}

TEST(Score, ReadsTheAnswerAfterTheThought) {
  const Problem p{"addition", 1, "2+2=?", "2+2=4 -> 4", "4", "addition:2+2"};
  EXPECT_TRUE(score(p, "2+2=4 -> 4\n</think>\n4<|im_end|>\n"));
  EXPECT_TRUE(score(p, "</think> 4 "));
  EXPECT_TRUE(score(p, "</think>\n4<|im_end|>\n<|im_start|>user\nmore"));
  EXPECT_FALSE(score(p, "4"));
  EXPECT_FALSE(score(p, "</think>\n4 5<|im_end|>"));
  EXPECT_FALSE(score(p, "</think>\n44<|im_end|>"));
  EXPECT_FALSE(score(p, "</think>"));
  EXPECT_EQ(answer_in("x</think>\n May 1, 2024 \n<|im_end|>"), "May 1, 2024");
}

TEST(Generate, NamesWhatItDoesNotKnow) {
  for (const auto& [task, level, needle] :
       {std::tuple{"adition", 1, "there are: addition"}, {"addition", 5, "levels are 1 to 4"}}) {
    try {
      generate(task, level, Split::kTrain, 0, 0);
      FAIL() << "accepted " << task << " " << level;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput);
      EXPECT_NE(std::string(e.what()).find(needle), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace nestling::reasoning
