// Days of the week and dates, counted on by hand.
#include <cstdlib>

#include "data/reasoning/family.h"
#include "kernels/core/check.h"

namespace nestling::reasoning {

namespace {

constexpr std::array kDays = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                              "Friday", "Saturday", "Sunday"};
constexpr std::array kMonths = {"January",   "February", "March",    "April",
                                "May",       "June",     "July",     "August",
                                "September", "October",  "November", "December"};

struct Date {
  int64_t year;
  int64_t month;  // 0 to 11
  int64_t day;    // from 1
};

bool leap(int64_t year) {
  return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

int64_t month_length(const Date& date) {
  constexpr std::array<int64_t, 12> kLengths = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return date.month == 1 && leap(date.year) ? 29 : kLengths[static_cast<size_t>(date.month)];
}

std::string render(const Date& date) {
  return str(kMonths[static_cast<size_t>(date.month)], " ", date.day, ", ", date.year);
}

// Walks `offset` days on from `day`, whole weeks taken out first.
std::string walk_week(std::string& chain, int64_t day, int64_t offset) {
  const int64_t n = std::abs(offset);
  const int64_t rest = n % 7;
  if (n >= 7) {
    add_line(chain, str("7*", n / 7, "=", n - rest));
    add_line(chain, str(n, "-", n - rest, "=", rest));
  }
  std::string walk = kDays[static_cast<size_t>(day)];
  for (int64_t i = 1; i <= rest; ++i) {
    day = (day + (offset < 0 ? 6 : 1)) % 7;
    walk += str(offset < 0 ? " -" : " +", i, " ", kDays[static_cast<size_t>(day)]);
  }
  add_line(chain, walk);
  return kDays[static_cast<size_t>(day)];
}

// Days from `start` for the level: 1 within the month, 2 into the next, 3 and 4 over several.
int64_t draw_days(int level, const Date& start, Rng& rng) {
  const int64_t left = month_length(start) - start.day;
  if (level == 1) return between(rng, 1, left);
  if (level == 2) return left + between(rng, 1, 28);
  return level == 3 ? between(rng, 40, 99) : between(rng, 60, 150);
}

}  // namespace

Draft draw_weekday(int level, Rng& rng) {
  const auto day = static_cast<int64_t>(rng.below(kDays.size()));
  const char* name = kDays[static_cast<size_t>(day)];
  const int64_t n = level == 1   ? between(rng, 1, 20)
                    : level == 2 ? between(rng, 7, 99)
                    : level == 3 ? between(rng, 100, 999)
                                 : between(rng, 1, 99);
  const bool back = rng.below(2);
  int64_t offset = back ? -n : n;
  Draft d;
  if (level < 4) {
    d.prompt = str("What day is ", n, " days ", back ? "before " : "after ", name, "?");
    d.key = str(name, offset);
  } else {
    // The second move goes the other way, never by as many days.
    int64_t m = between(rng, 1, 98);
    m += m >= n ? 1 : 0;
    offset += back ? m : -m;
    d.prompt = str("Today is ", name, ". Go ", n, " days ", back ? "back" : "ahead", ", then ", m,
                   " days ", back ? "ahead" : "back", ". What day is it?");
    d.thinking = str(std::max(n, m), "-", std::min(n, m), "=", std::abs(offset),
                     offset < 0 ? " back" : " ahead");
    d.key = str(name, back ? -n : n, back ? "+" : "-", m);
  }
  d.answer = walk_week(d.thinking, day, offset);
  return d;
}

Draft draw_date(int level, Rng& rng) {
  Date date{between(rng, 2000, 2049), between(rng, 0, 11), 0};
  if (level == 4) date.month = std::array<int64_t, 4>{0, 1, 10, 11}[rng.below(4)];
  const int64_t length = month_length(date);
  date.day = between(rng, 1, level == 1 ? length - 1 : length);
  int64_t n = draw_days(level, date, rng);
  Draft d;
  d.prompt = str("What date is ", n, " days after ", render(date), "?");
  d.key = str(render(date), "+", n);
  while (true) {
    const int64_t has = month_length(date);
    std::string line = str(kMonths[static_cast<size_t>(date.month)], " has ", has);
    if (date.month == 1) line += leap(date.year) ? " (leap year)" : " (no leap year)";
    if (date.day + n <= has) {
      add_line(d.thinking, str(line, ": ", date.day, "+", n, "=", date.day + n));
      date.day += n;
      break;
    }
    // Day 0 of the next month is the last of this one.
    const int64_t left = has - date.day;
    if (date.day > 0) line += str(": ", has, "-", date.day, "=", left);
    add_line(d.thinking, str(line, ": ", n, "-", left, "=", n - left));
    n -= left;
    date = {date.year + date.month / 11, (date.month + 1) % 12, 0};
  }
  d.answer = render(date);
  return d;
}

}  // namespace nestling::reasoning
