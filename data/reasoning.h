// reasoning.h - generated reasoning problems whose answers can be verified.
//
// A problem     a prompt, a visible chain of thought whose every step is one small operation, and a
//               short answer. Numbers are written digit by digit, least significant column first
//               where that is how the sum is done by hand.
// Pure          generate() depends on its arguments alone: every rank and run draws the same.
// Splits        disjoint by construction: the hash of a problem's canonical form (its operands,
//               without wording, names or order that do not matter) puts it in one split, and a
//               stream draws again until it falls in the wanted one. One problem in 10 is held out.
// Levels        1 (easiest) to 4. A document is 40 to 200 tokens with digits as single tokens.
// Text          document() is the ChatML turn a chat template renders with thinking on.
// Errors        an unknown task or level throws Error of kind kInput naming what there is.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nestling::reasoning {

enum class Split : uint8_t { kTrain, kHeldOut };
const char* split_name(Split split);  // "train", "heldout"

inline constexpr int kLevels = 4;

struct Problem {
  std::string task;
  int level = 1;
  std::string prompt;
  std::string thinking;
  std::string answer;
  std::string key;  // canonical form; decides the split
};

const std::vector<std::string>& tasks();  // every task name, in a fixed order

Problem generate(std::string_view task, int level, Split split, uint64_t seed, uint64_t index);
Split split_of(std::string_view key);

// Between thinking and answer.
inline constexpr std::string_view kClosing = "\n</think>\n";
// What the model is given to complete: up to and including "<think>\n".
std::string prompt_text(const Problem& problem);
// prompt_text + "{thinking}{kClosing}{answer}<|im_end|>\n".
std::string document(const Problem& problem);

// What the generated text says: after the first "</think>" up to "<|im_end|>" or the end, without
// white space around it. Empty when thinking never ends. Prompt and chain may stand before it.
std::string_view answer_in(std::string_view generated);
// Exact match of answer_in(generated) with the answer.
bool score(const Problem& problem, std::string_view generated);

}  // namespace nestling::reasoning
