#include "data/reasoning.h"

#include <algorithm>
#include <array>

#include "data/chat_turn.h"
#include "data/reasoning/family.h"
#include "kernels/core/check.h"

namespace nestling::reasoning {

namespace {

struct Task {
  const char* name;
  Draft (*draw)(int level, Rng& rng);
};

constexpr std::array kTasks = {
    Task{"addition", draw_addition},
    Task{"subtraction", draw_subtraction},
    Task{"multiplication", draw_multiplication},
    Task{"expression", draw_expression},
    Task{"sorting", draw_sorting},
    Task{"counting", draw_counting},
    Task{"sequence", draw_sequence},
    Task{"weekday", draw_weekday},
    Task{"date", draw_date},
    Task{"story", draw_story},
};

constexpr uint64_t kHeldOutOneIn = 10;
// A draw misses the rarer split with probability 0.9: 2,000 misses in a row do not happen by
// chance.
constexpr int kMaxDraws = 2000;

// FNV-1a, then the finaliser of splitmix64: the low bits of FNV alone are not uniform.
uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

const Task& find_task(std::string_view name) {
  for (const Task& task : kTasks)
    if (name == task.name) return task;
  std::string known;
  for (const Task& task : kTasks) known += std::string(known.empty() ? "" : ", ") + task.name;
  throw Error(str("unknown reasoning task \"", name, "\"; there are: ", known), ErrorKind::kInput);
}

}  // namespace

const char* split_name(Split split) {
  return split == Split::kTrain ? "train" : "heldout";
}

const std::vector<std::string>& tasks() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    names.reserve(std::size(kTasks));
    for (const Task& task : kTasks) names.emplace_back(task.name);
    return names;
  }();
  return kNames;
}

Split split_of(std::string_view key) {
  return hash(key) % kHeldOutOneIn == 0 ? Split::kHeldOut : Split::kTrain;
}

Problem generate(std::string_view task, int level, Split split, uint64_t seed, uint64_t index) {
  const Task& family = find_task(task);
  NESTLING_CHECK_INPUT(level >= 1 && level <= kLevels, "reasoning level ", level, " of ", task,
                       "; levels are 1 to ", kLevels);
  Rng rng(seed ^ hash(str(task, ":", level)), index);
  for (int draw = 0; draw < kMaxDraws; ++draw) {
    Draft draft = family.draw(level, rng);
    draft.key = str(task, ":", draft.key);
    if (split_of(draft.key) != split) continue;
    return {std::string(task),       level,
            std::move(draft.prompt), std::move(draft.thinking),
            std::move(draft.answer), std::move(draft.key)};
  }
  throw Error(str("reasoning task ", task, " level ", level, " has no problem in split ",
                  split_name(split)));
}

std::string prompt_text(const Problem& problem) {
  return chat_turn(problem.prompt);
}

std::string document(const Problem& problem) {
  return str(prompt_text(problem), problem.thinking, kClosing, problem.answer, "<|im_end|>\n");
}

std::string_view answer_in(std::string_view generated) {
  constexpr std::string_view kEndOfThought = "</think>";
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t end = generated.find(kEndOfThought);
  if (end == std::string_view::npos) return {};
  std::string_view said = generated.substr(end + kEndOfThought.size());
  said = said.substr(0, said.find("<|im_end|>"));
  const size_t first = said.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return said.substr(first, said.find_last_not_of(kSpace) - first + 1);
}

bool score(const Problem& problem, std::string_view generated) {
  return answer_in(generated) == problem.answer;
}

}  // namespace nestling::reasoning
