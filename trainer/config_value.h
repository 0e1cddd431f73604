// config_value.h - single values of a config: text to number and back, and what a value may be.
//
// Integers      digits, with `_` between them, or a decimal number that is whole: 12_000_000, 1e9,
//               2.5e3. Exact: no rounding on the way.
// Numbers       decimal, finite, the nearest double; 2% is 0.02. Printed in the shortest form that reads the same.
// Lists         of numbers or of texts, written on one line: [1.0, 0.05].
// Terms         a word ("uniform"), or names with a value each ({30B: 0.5, 12B: 0.5}); kept as texts,
//               for whoever knows what the names mean.
// Text          any scalar; printed plain where that reads back, else quoted.
// Rules         each kind of value has one: what it allows, and that in words.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nestling {

inline constexpr int64_t kMaxCount = int64_t{1} << 50;  // tokens and steps: exact in a double
inline constexpr int64_t kMaxWidth = int64_t{1} << 24;  // no published axis comes near it

struct IntegerRule {
  int64_t low = 0;
  int64_t high = kMaxCount;
  bool required = false;
};
struct NumberRule {
  double low = 0;
  double high = 0;
  bool above = false;  // low itself is refused
  bool required = false;
};
struct TextRule {
  std::vector<std::string> one_of = {};  // empty: anything
  const char* letters = nullptr;         // the only characters allowed
  bool file_name = false;                // one name: no folders
  bool filled = false;                   // not empty
  bool width = false;                    // empty, or as model/choices.h reads it
  bool required = false;
};
struct FlagRule {
  bool required = false;
};
struct SeedRule {  // the whole range of uint64_t
  bool required = false;
};
struct NumbersRule {
  NumberRule each;
  int64_t count = 0;  // exactly so many
  bool required = false;
};
struct TextsRule {
  const char* meaning_of_item;  // in words, for messages
  bool required = false;
};
struct TermsRule {
  const char* allowed;  // in words, for messages
  bool required = false;
};
struct ListRule {
  bool required = false;  // at least one item
};

// A word: one term without a value.
struct Term {
  std::string name;
  std::string value;
  bool operator==(const Term&) const = default;
};
using Terms = std::vector<Term>;
using Numbers = std::vector<double>;
using Texts = std::vector<std::string>;

// Absent when the text is no such value.
std::optional<int64_t> parse_integer(const std::string& text);
std::optional<uint64_t> parse_seed(const std::string& text);
std::optional<double> parse_number(const std::string& text);

std::string print_value(int64_t value);
std::string print_value(uint64_t value);
std::string print_value(double value);
std::string print_value(bool value);
std::string print_value(const std::string& value);
std::string print_value(const Numbers& value);
std::string print_value(const Texts& value);
std::string print_value(const Terms& value);

// What a rule allows, in words: "0 to 65536", "cpu or cuda". Empty: anything.
std::string describe(const IntegerRule& rule);
std::string describe(const NumberRule& rule);
std::string describe(const TextRule& rule);
std::string describe(const FlagRule& rule);
std::string describe(const SeedRule& rule);
std::string describe(const NumbersRule& rule);
std::string describe(const TextsRule& rule);
std::string describe(const TermsRule& rule);

bool allows(const IntegerRule& rule, int64_t value);
bool allows(const NumberRule& rule, double value);
bool allows(const TextRule& rule, const std::string& value);

// Insertions, deletions, replacements and swaps of neighbours that turn a into b.
int64_t edit_distance(const std::string& a, const std::string& b);

}  // namespace nestling
