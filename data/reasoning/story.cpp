// Word problems of one to four steps about people and countable things.
#include <algorithm>

#include "data/reasoning/family.h"
#include "kernels/core/check.h"

namespace nestling::reasoning {

namespace {

struct Person {
  const char* name;
  const char* pronoun;
};
constexpr std::array kPeople = {
    Person{"Anna", "She"},  Person{"Tom", "He"},   Person{"Maria", "She"}, Person{"Ben", "He"},
    Person{"Lucy", "She"},  Person{"Sam", "He"},   Person{"Emma", "She"},  Person{"Jack", "He"},
    Person{"Clara", "She"}, Person{"Paul", "He"},  Person{"Nina", "She"},  Person{"Leo", "He"},
    Person{"Ruth", "She"},  Person{"Oscar", "He"}, Person{"Jane", "She"},  Person{"David", "He"}};

struct Thing {
  const char* one;
  const char* many;
  const char* containers;
};
constexpr std::array kThings = {
    Thing{"apple", "apples", "bags"},   Thing{"pear", "pears", "baskets"},
    Thing{"book", "books", "boxes"},    Thing{"pencil", "pencils", "packs"},
    Thing{"coin", "coins", "purses"},   Thing{"stamp", "stamps", "sheets"},
    Thing{"marble", "marbles", "jars"}, Thing{"egg", "eggs", "cartons"},
    Thing{"card", "cards", "packs"},    Thing{"flower", "flowers", "bunches"},
    Thing{"cookie", "cookies", "tins"}, Thing{"shell", "shells", "buckets"}};

constexpr std::array kGains = {"finds", "gets", "buys", "wins"};
constexpr std::array kLosses = {"loses", "sells", "uses", "gives away"};

// "3 apples", "1 apple".
std::string count_of(int64_t n, const Thing& thing) {
  return str(n, " ", n == 1 ? thing.one : thing.many);
}

std::string step(int64_t a, char op, int64_t b) {
  return str(a, op, b, "=", op == '+' ? a + b : op == '-' ? a - b : a * b);
}

// One owner, `events` things that happen.
Draft draw_events(int events, Rng& rng) {
  const Person& who = pick(rng, kPeople);
  const Thing& thing = pick(rng, kThings);
  int64_t have = between(rng, 2, 60);
  Draft d;
  d.prompt = str(who.name, " has ", count_of(have, thing), ".");
  d.key = std::to_string(have);
  for (int e = 0; e < events; ++e) {
    const uint64_t kind = rng.below(3);
    if (kind == 0 || have < 2) {
      const int64_t n = between(rng, 1, 40);
      d.prompt += str(" ", who.pronoun, " ", pick(rng, kGains), " ", count_of(n, thing), ".");
      add_line(d.thinking, step(have, '+', n));
      d.key += str("+", n);
      have += n;
    } else if (kind == 1) {
      const int64_t n = between(rng, 1, have - 1);
      d.prompt += str(" ", who.pronoun, " ", pick(rng, kLosses), " ", count_of(n, thing), ".");
      add_line(d.thinking, step(have, '-', n));
      d.key += str("-", n);
      have -= n;
    } else {
      const int64_t n = between(rng, 2, 9);
      const int64_t each = between(rng, 2, 9);
      d.prompt += str(" ", who.pronoun, " buys ", n, " ", thing.containers, " of ", each, " ",
                      thing.many, ".");
      add_line(d.thinking, step(n, '*', each));
      add_line(d.thinking, step(have, '+', n * each));
      d.key += str("+", n, "*", each);
      have += n * each;
    }
  }
  d.prompt += str(" How many ", thing.many, " does ", who.name, " have now?");
  d.answer = std::to_string(have);
  return d;
}

// Two owners, compared, then taken together.
Draft draw_comparison(Rng& rng) {
  const auto first = static_cast<size_t>(rng.below(kPeople.size()));
  const size_t second = (first + 1 + rng.below(kPeople.size() - 1)) % kPeople.size();
  const Thing& thing = pick(rng, kThings);
  const int64_t have = between(rng, 5, 60);
  const uint64_t kind = rng.below(3);
  const int64_t n = kind == 2   ? between(rng, 2, 5)
                    : kind == 1 ? between(rng, 1, have - 1)
                                : between(rng, 1, 40);
  const char op = kind == 2 ? '*' : kind == 1 ? '-' : '+';
  const std::string relation = kind == 2 ? str(n, " times as many ", thing.many, " as ")
                                         : str(n, kind == 1 ? " fewer " : " more ",
                                               n == 1 ? thing.one : thing.many, " than ");
  const int64_t other = op == '*' ? have * n : op == '-' ? have - n : have + n;
  Draft d;
  d.prompt =
      str(kPeople[first].name, " has ", count_of(have, thing), ". ", kPeople[second].name, " has ",
          relation, kPeople[first].name, ". How many ", thing.many, " do they have together?");
  d.thinking = step(have, op, n) + "\n" + step(have, '+', other);
  d.answer = std::to_string(have + other);
  d.key = str("together ", have, op, n);
  return d;
}

// Two kinds of goods, paid for with a known sum.
Draft draw_purchase(Rng& rng) {
  const Person& who = pick(rng, kPeople);
  const auto first = static_cast<size_t>(rng.below(kThings.size()));
  const size_t second = (first + 1 + rng.below(kThings.size() - 1)) % kThings.size();
  const int64_t n = between(rng, 2, 9);
  const int64_t m = between(rng, 2, 9);
  const int64_t price_n = between(rng, 2, 9);
  const int64_t price_m = between(rng, 2, 9);
  const int64_t cost = n * price_n + m * price_m;
  const int64_t paid = cost + between(rng, 1, 40);
  Draft d;
  d.prompt =
      str(who.name, " buys ", n, " ", kThings[first].many, " for ", price_n, " dollars each and ",
          m, " ", kThings[second].many, " for ", price_m, " dollars each. ", who.pronoun,
          " pays with ", paid, " dollars. How much change is due?");
  add_line(d.thinking, step(n, '*', price_n));
  add_line(d.thinking, step(m, '*', price_m));
  add_line(d.thinking, step(n * price_n, '+', m * price_m));
  add_line(d.thinking, step(paid, '-', cost));
  d.answer = std::to_string(paid - cost);
  d.key = str("change ", paid, "-", n, "*", price_n, "-", m, "*", price_m);
  return d;
}

}  // namespace

Draft draw_story(int level, Rng& rng) {
  if (level == 2 && rng.below(2)) return draw_comparison(rng);
  if (level == 3 && rng.below(3) == 0) return draw_purchase(rng);
  return draw_events(level, rng);
}

}  // namespace nestling::reasoning
