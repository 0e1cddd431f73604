#include "runtime/jinja_operators.h"

#include <algorithm>

#include "runtime/jinja_methods.h"
#include "runtime/jinja_print.h"
#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;

constexpr size_t kMostRepeated = size_t{1} << 20;  // bytes of a text times a number

Value whole(const std::string& op, int64_t x, int64_t y) {
  int64_t result = 0;
  if ((op == "+" && !__builtin_add_overflow(x, y, &result)) ||
      (op == "-" && !__builtin_sub_overflow(x, y, &result)) ||
      (op == "*" && !__builtin_mul_overflow(x, y, &result)))
    return Value(result);
  if ((op == "%" || op == "//") && y != 0 && (x != INT64_MIN || y != -1)) {
    // The sign of a remainder is the divisor's, as in Python.
    const bool other_sign = x % y != 0 && (x % y < 0) != (y < 0);
    return Value(op == "%" ? x % y + (other_sign ? y : 0) : x / y - (other_sign ? 1 : 0));
  }
  // Of larger ones the division of doubles is rounded three times, Python's once.
  constexpr int64_t kExact = int64_t{1} << 53;
  const auto exact = [](int64_t i) { return i >= -kExact && i <= kExact; };
  if (op == "/" && y != 0 && exact(x) && exact(y))
    return Value(static_cast<double>(x) / static_cast<double>(y));
  refuse(str(x, " ", op, " ", y));
}

Value fractions(const std::string& op, const Value& a, const Value& b) {
  const auto x = static_cast<double>(a.number()), y = static_cast<double>(b.number());
  if (op == "+") return Value(x + y);
  if (op == "-") return Value(x - y);
  if (op == "*") return Value(x * y);
  if (op == "/" && y != 0) return Value(x / y);
  refuse(str(printed(a), " ", op, " ", printed(b)));
}

Value repeated(const std::string& text, int64_t times) {
  if (times > 0 && text.size() > kMostRepeated / static_cast<size_t>(times))
    refuse(str("a text of ", text.size(), " bytes * ", times));
  std::string out;
  for (int64_t i = 0; i < times; ++i) out += text;
  return Value(std::move(out));
}

// What `safe` gave stays so, and escapes what it is added to.
Value joined_texts(const Value& a, const Value& b) {
  if (a.is(Kind::kText) && b.is(Kind::kText)) return Value(a.text() + b.text());
  const auto part = [](const Value& v) {
    return v.is(Kind::kMarkup) ? v.text() : html_escaped(v.text());
  };
  return Value(part(a) + part(b), Kind::kMarkup);
}

// Of a slice: an end or its step.
std::optional<int64_t> slice_number(const Value& v) {
  if (v.is(Kind::kNone)) return std::nullopt;
  if (!v.is_whole()) refuse("a slice whose end is no integer");
  return v.integer();
}

Value indexed(const Value& of, int64_t i) {
  const int64_t n = length(of);
  if (i < -n || i >= n) return {};
  const auto place = static_cast<size_t>(i < 0 ? i + n : i);
  if (!of.is_text()) return of.items()[place];
  return Value(std::string(characters(of.text())[place]), of.kind());
}

}  // namespace

Value unary(const std::string& op, const Value& of) {
  if (of.is(Kind::kFloat)) return Value(op == "-" ? -of.fraction() : of.fraction());
  if (!of.is_whole()) refuse(str(op, " ", kind_name(of)));
  return whole(op, 0, of.integer());
}

Value binary(const std::string& op, const Value& a, const Value& b) {
  if (op == "~") return Value(printed(a) + printed(b));
  if (a.is_whole() && b.is_whole()) return whole(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return fractions(op, a, b);
  if (op == "+" && a.is_text() && b.is_text()) return joined_texts(a, b);
  if (op == "+" && a.is_list() && a.kind() == b.kind()) {
    Items all = a.items();
    all.insert(all.end(), b.items().begin(), b.items().end());
    return Value(std::move(all), a.kind());
  }
  if (op == "*" && a.is(Kind::kText) && b.is_whole()) return repeated(a.text(), b.integer());
  if (op == "*" && b.is(Kind::kText) && a.is_whole()) return repeated(b.text(), a.integer());
  refuse(str(kind_name(a), " ", op, " ", kind_name(b)));
}

bool compares(const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return same(a, b);
  if (op == "!=") return !same(a, b);
  if (op == "in") return contains(b, a);
  if (op == "not in") return !contains(b, a);
  if (!(a.is_number() && b.is_number()) && !(a.is_text() && b.is_text()))
    refuse(str(kind_name(a), " ", op, " ", kind_name(b)));
  if (op == "<") return less(a, b);
  if (op == ">") return less(b, a);
  return op == "<=" ? less(a, b) || same(a, b) : less(b, a) || same(a, b);
}

Value item(const Value& of, const Value& key) {
  if (of.is(Kind::kUndefined)) refuse("a field of an undefined value");
  if (of.kind() >= Kind::kDict && key.kind() < Kind::kList) {
    if (const Value* found = of.fields().find(key)) return *found;
  }
  if (key.is_whole() && (of.is_list() || of.is(Kind::kRange) || of.is_text()))
    return indexed(of, key.integer());
  if (key.is_text() && has_attribute(of, key.text())) refuse("." + key.text() + " without a call");
  return {};
}

// Of a value that has both, Python's method comes before the field.
Value field(const Value& of, const std::string& name) {
  if (has_attribute(of, name)) refuse("." + name + " without a call");
  return item(of, Value(name));
}

Value slice(const Value& of, const Value& from, const Value& to, const Value& by) {
  if (!of.is_list() && !of.is_text()) refuse(str("a slice of ", kind_name(of)));
  std::vector<std::string_view> text;
  if (of.is_text()) text = characters(of.text());
  const int64_t n = length(of);
  const int64_t step = slice_number(by).value_or(1);
  if (step == 0) refuse("a slice of step 0");
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const auto edge = [&](const Value& v, int64_t open) {
    const std::optional<int64_t> i = slice_number(v);
    return i ? std::clamp(*i < 0 ? *i + n : *i, low, high) : open;
  };
  const int64_t begin = edge(from, step > 0 ? 0 : n - 1), end = edge(to, step > 0 ? n : -1);
  Items items;
  std::string out;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
    if (of.is_text())
      out += text[static_cast<size_t>(i)];
    else
      items.push_back(of.items()[static_cast<size_t>(i)]);
  }
  return of.is_text() ? Value(std::move(out), of.kind()) : Value(std::move(items), of.kind());
}

}  // namespace nestling::jinja
