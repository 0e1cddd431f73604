// Tasks over lists: sorting by selection, counting a letter by walking, continuing a sequence.
#include <algorithm>
#include <vector>

#include "data/reasoning/family.h"
#include "data/reasoning/words.h"
#include "kernels/core/check.h"

namespace nestling::reasoning {

namespace {

std::string join(const std::vector<int64_t>& numbers) {
  std::string out;
  for (const int64_t n : numbers) out += (out.empty() ? "" : " ") + std::to_string(n);
  return out;
}

std::string random_letters(int level, Rng& rng) {
  // Three letters to choose from, so that the counted one occurs often.
  std::array<char, 3> letters{};
  for (char& c : letters) c = static_cast<char>('a' + rng.below(26));
  const int64_t n = level == 1 ? between(rng, 4, 7) : between(rng, 8, 12);
  std::string text;
  for (int64_t i = 0; i < n; ++i) text += pick(rng, letters);
  return text;
}

// The terms of a sequence and its next one are sums of these steps.
std::vector<int64_t> draw_steps(int level, int64_t n, Rng& rng) {
  std::vector<int64_t> steps(static_cast<size_t>(n));
  const int64_t first = between(rng, 1, level == 2 ? 20 : 9);
  const int64_t second = between(rng, 1, 9);
  const bool down = level == 2 && rng.below(2);
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    if (level <= 2) steps[at] = down ? -first : first;
    if (level == 3) steps[at] = i % 2 ? second : first;
    if (level == 4) steps[at] = first + i * second;
  }
  return steps;
}

}  // namespace

Draft draw_sorting(int level, Rng& rng) {
  const auto n = static_cast<size_t>(level) + 2;
  std::vector<int64_t> numbers;
  while (numbers.size() < n) {
    const int64_t x = between(rng, 1, level == 4 ? 999 : 99);
    if (std::find(numbers.begin(), numbers.end(), x) == numbers.end()) numbers.push_back(x);
  }
  const bool up = rng.below(2);
  Draft d;
  d.prompt = str("Sort ", up ? "up" : "down", ": ", join(numbers));
  std::vector<int64_t> left = numbers;
  std::vector<int64_t> sorted;
  while (left.size() > 1) {
    const auto next = up ? std::min_element(left.begin(), left.end())
                         : std::max_element(left.begin(), left.end());
    add_line(d.thinking, str(join(left), up ? " min " : " max ", *next));
    sorted.push_back(*next);
    left.erase(next);
  }
  add_line(d.thinking, join(left));
  sorted.push_back(left[0]);
  d.answer = join(sorted);
  std::sort(numbers.begin(), numbers.end());
  d.key = join(numbers);  // one key for all orders of the same numbers
  return d;
}

Draft draw_counting(int level, Rng& rng) {
  std::string text;
  if (level <= 2) text = random_letters(level, rng);
  if (level >= 3) text = pick(rng, kWords);
  if (level == 4) text += std::string(" ") + pick(rng, kWords);
  // Mostly a letter that occurs; one in eight any letter.
  char letter = text[rng.below(text.size())];
  if (letter == ' ' || rng.below(8) == 0) letter = static_cast<char>('a' + rng.below(26));
  Draft d;
  std::string shown = text;
  if (level <= 2) {
    shown.clear();
    for (const char c : text) shown += shown.empty() ? std::string(1, c) : std::string(" ") + c;
  }
  d.prompt = str("How many ", letter, " in: ", shown);
  int count = 0;
  for (const char c : text) {
    if (c == ' ') continue;
    count += c == letter ? 1 : 0;
    d.thinking += str(d.thinking.empty() ? "" : " ", c, count);
  }
  d.answer = std::to_string(count);
  d.key = str(text, "/", letter);
  return d;
}

Draft draw_sequence(int level, Rng& rng) {
  const int64_t shown = level <= 2 ? 4 : 5;
  const std::vector<int64_t> steps = draw_steps(level, shown, rng);
  // A falling sequence starts high enough to stay above 0.
  int64_t term = between(rng, 1, 99) + (steps[0] < 0 ? -steps[0] * shown : 0);
  std::vector<int64_t> terms = {term};
  for (int64_t i = 0; i + 1 < shown; ++i) terms.push_back(term += steps[static_cast<size_t>(i)]);
  Draft d;
  d.prompt =
      rng.below(2) ? str("What comes next: ", join(terms), "?") : str("Continue: ", join(terms));
  for (size_t i = 0; i + 1 < terms.size(); ++i) {
    const bool down = steps[i] < 0;
    add_line(d.thinking, str(down ? terms[i] : terms[i + 1], "-", down ? terms[i + 1] : terms[i],
                             "=", std::abs(steps[i])));
  }
  const int64_t last = steps.back();
  if (level == 4) add_line(d.thinking, str(steps[3], "+", steps[1] - steps[0], "=", last));
  add_line(d.thinking,
           str(terms.back(), last < 0 ? "-" : "+", std::abs(last), "=", terms.back() + last));
  d.answer = std::to_string(terms.back() + last);
  d.key = join(terms);
  return d;
}

}  // namespace nestling::reasoning
