// Sums, differences and products of long numbers, done by hand in columns from the right.
//
// Every line ends with the digits found so far, so that the answer is a copy of the last one:
//   47+85:  7+5=12 carry 1 -> 2
//           4+8+1=13 -> 132
#include <algorithm>

#include "data/reasoning/family.h"
#include "kernels/core/check.h"

namespace nestling::reasoning {

namespace {

// Uniform among the numbers of `digits` digits; of one digit: 1 to 9.
int64_t number_of_digits(Rng& rng, int64_t digits) {
  int64_t low = 1;
  for (int64_t d = 1; d < digits; ++d) low *= 10;
  return between(rng, low, low * 10 - 1);
}

int digit(const std::string& number, size_t column) {
  return column < number.size() ? number[number.size() - 1 - column] - '0' : 0;
}

// Chain of a + b; the number after the last "->" is the sum.
void add_columns(std::string& chain, int64_t a, int64_t b) {
  const std::string x = std::to_string(a);
  const std::string y = std::to_string(b);
  const size_t columns = std::max(x.size(), y.size());
  std::string found;
  int carry = 0;
  for (size_t c = 0; c < columns; ++c) {
    const int sum = digit(x, c) + digit(y, c) + carry;
    std::string line = str(digit(x, c), "+", digit(y, c), carry ? "+1" : "", "=", sum);
    carry = sum / 10;
    const bool last = c + 1 == columns;
    found = std::to_string(last ? sum : sum % 10) + found;
    add_line(chain, line + (carry && !last ? " carry 1" : "") + " -> " + found);
  }
}

// Chain of a * d for one digit d.
void multiply_columns(std::string& chain, int64_t a, int d) {
  const std::string x = std::to_string(a);
  std::string found;
  int carry = 0;
  for (size_t c = 0; c < x.size(); ++c) {
    const int product = digit(x, c) * d + carry;
    std::string line = str(digit(x, c), "*", d, carry ? str("+", carry) : "", "=", product);
    carry = product / 10;
    const bool last = c + 1 == x.size();
    found = std::to_string(last ? product : product % 10) + found;
    add_line(chain, line + (carry && !last ? str(" carry ", carry) : "") + " -> " + found);
  }
}

std::string ask(Rng& rng, int64_t a, char op, int64_t b) {
  switch (rng.below(3)) {
    case 0:
      return str(a, op, b, "=?");
    case 1:
      return str("What is ", a, op, b, "?");
    default:
      return str("Compute ", a, op, b, ".");
  }
}

int64_t draw_operand(int level, Rng& rng) {
  switch (level) {
    case 1:
      return number_of_digits(rng, between(rng, 1, 2));
    case 2:
      return number_of_digits(rng, 3);
    case 3:
      return number_of_digits(rng, between(rng, 4, 5));
    default:
      return number_of_digits(rng, between(rng, 6, 7));
  }
}

}  // namespace

Draft draw_addition(int level, Rng& rng) {
  const int64_t a = draw_operand(level, rng);
  const int64_t b = draw_operand(level, rng);
  Draft d;
  d.prompt = ask(rng, a, '+', b);
  add_columns(d.thinking, a, b);
  d.answer = std::to_string(a + b);
  d.key = str(std::min(a, b), "+", std::max(a, b));
  return d;
}

Draft draw_subtraction(int level, Rng& rng) {
  int64_t a = draw_operand(level, rng);
  int64_t b = draw_operand(level, rng);
  if (a < b) std::swap(a, b);
  Draft d;
  d.prompt = ask(rng, a, '-', b);
  const std::string x = std::to_string(a);
  const std::string y = std::to_string(b);
  std::string found;
  bool borrowed = false;
  for (size_t c = 0; c < x.size(); ++c) {
    int top = digit(x, c);
    const int bottom = digit(y, c) + (borrowed ? 1 : 0);
    const bool borrow = top < bottom;
    if (borrow) top += 10;
    const int rest = top - bottom;
    found = std::to_string(rest) + found;
    add_line(d.thinking, str(top, "-", digit(y, c), borrowed ? "-1" : "", "=", rest,
                             borrow ? " borrow 1" : "", " -> ", found));
    borrowed = borrow;
  }
  d.answer = std::to_string(a - b);
  d.key = str(a, "-", b);
  return d;
}

Draft draw_multiplication(int level, Rng& rng) {
  const int64_t a = level == 1   ? between(rng, 2, 99)
                    : level == 2 ? number_of_digits(rng, between(rng, 3, 4))
                    : level == 3 ? number_of_digits(rng, 2)
                                 : number_of_digits(rng, 3);
  const int64_t b = level <= 2 ? between(rng, 2, 9) : between(rng, 11, 99);
  Draft d;
  d.prompt = ask(rng, a, '*', b);
  if (b < 10) {
    multiply_columns(d.thinking, a, static_cast<int>(b));
  } else {
    const int64_t tens = b / 10;
    const int64_t units = b % 10;
    add_line(d.thinking, str(a, "*", units, ":"));
    multiply_columns(d.thinking, a, static_cast<int>(units));
    add_line(d.thinking, str(a, "*", tens, ":"));
    multiply_columns(d.thinking, a, static_cast<int>(tens));
    add_line(d.thinking, str(a * units, "+", a * tens, "0:"));
    add_columns(d.thinking, a * units, a * tens * 10);
  }
  d.answer = std::to_string(a * b);
  d.key = str(std::min(a, b), "*", std::max(a, b));
  return d;
}

}  // namespace nestling::reasoning
