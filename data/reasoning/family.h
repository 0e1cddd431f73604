// family.h - what a task family draws, and the small tools families share. Internal to reasoning.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "kernels/core/rng.h"

namespace nestling::reasoning {

struct Draft {
  std::string prompt;
  std::string thinking;  // lines, no newline at the end
  std::string answer;
  std::string key;  // canonical form, without the task's name
};

Draft draw_addition(int level, Rng& rng);
Draft draw_subtraction(int level, Rng& rng);
Draft draw_multiplication(int level, Rng& rng);
Draft draw_expression(int level, Rng& rng);
Draft draw_sorting(int level, Rng& rng);
Draft draw_counting(int level, Rng& rng);
Draft draw_sequence(int level, Rng& rng);
Draft draw_weekday(int level, Rng& rng);
Draft draw_date(int level, Rng& rng);
Draft draw_story(int level, Rng& rng);

// Uniform in [low, high].
inline int64_t between(Rng& rng, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(rng.below(static_cast<uint64_t>(high - low + 1)));
}

template <class T, size_t N>
const T& pick(Rng& rng, const std::array<T, N>& from) {
  return from[rng.below(N)];
}

// Adds a line to a chain of thought.
inline void add_line(std::string& chain, const std::string& line) {
  if (!chain.empty()) chain += '\n';
  chain += line;
}

}  // namespace nestling::reasoning
