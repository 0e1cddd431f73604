#include "runtime/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>

#include "runtime/jinja_print.h"
#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;

// The same kind of text as `like`: what `safe` gave stays so.
Value text_like(const Value& like, std::string text) {
  return Value(std::move(text), like.is(Kind::kMarkup) ? Kind::kMarkup : Kind::kText);
}

Value or_default(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"default_value", "boolean"});
  const bool missing = flag_of(given[1], false) ? !truth(v) : v.is(Kind::kUndefined);
  return missing ? given[0].value_or(Value("")) : v;
}

Value trimmed(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"chars"});
  const std::string text = printed(v);
  if (!given[0] || given[0]->is(Kind::kNone)) return text_like(v, strip(text, true, true));
  return text_like(v, strip(text, text_of(*given[0], "an argument of " + what), true, true));
}

Value with_replaced(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"old", "new", "count"}, 2);
  const int64_t most =
      given[2] && !given[2]->is(Kind::kNone) ? whole_of(*given[2], "an argument of " + what) : -1;
  return Value(replaced(printed(v), printed(*given[0]), printed(*given[1]), most));
}

// Jinja2's integer of anything; its answer for what is no number is `default`.
Value integer(const std::string& what, const Value& v, const Arguments& arguments) {
  Value fallback = bound(what, arguments, {"default"})[0].value_or(Value(int64_t{0}));
  if (v.is_whole()) return Value(v.integer());
  if (v.is(Kind::kNone)) return fallback;
  const std::string text = strip(text_of(v, what), true, true);
  if (text.find_first_of("0123456789") == std::string::npos) {
    for (const char c : text)
      if ((c & 0x80) != 0) refuse(what + " of text beyond ASCII");
    return fallback;
  }
  const std::string_view digits = std::string_view(text).substr(text[0] == '+' ? 1 : 0);
  int64_t number = 0;
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (text.starts_with("+-") || read.ec != std::errc() ||
      read.ptr != digits.data() + digits.size() || digits.empty())
    refuse(what + " of '" + text + "'");
  return Value(number);
}

Value indented(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"width", "first", "blank"});
  const Value width = given[0].value_or(Value(int64_t{4}));
  const std::string by = width.is_text()
                             ? width.text()
                             : std::string(static_cast<size_t>(std::clamp<int64_t>(
                                               whole_of(width, "an argument of " + what), 0, 1000)),
                                           ' ');
  const std::string& text = text_of(v, what);
  if (v.is(Kind::kMarkup)) refuse(what + " of " + kind_name(v));
  for (const char* end : {"\r", "\v", "\f", "\x1C", "\x1D", "\x1E", "\u0085", "\u2028", "\u2029"})
    if (text.find(end) != std::string::npos)
      refuse(what + " of a text with other line ends than \\n");
  std::string out;
  const bool blank = flag_of(given[2], false);
  bool begun = false;
  for (const std::string& line : split(text, "\n", -1)) {
    const bool moved = begun ? blank || !line.empty() : flag_of(given[1], false);
    out += (begun ? "\n" : "") + (moved ? by : "") + line;
    begun = true;
  }
  return Value(std::move(out));
}

Value as_json(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  const std::string of = "an argument of " + what;
  JsonStyle style{.ascii = flag_of(given[0], false), .sorted = flag_of(given[3], false)};
  if (given[1] && !given[1]->is(Kind::kNone)) {
    if (given[1]->is_text()) {
      style.indent = given[1]->text();
    } else {
      const int64_t blanks = std::clamp<int64_t>(whole_of(*given[1], of), 0, 1000);
      style.indent = std::string(static_cast<size_t>(blanks), ' ');
    }
    style.between = ",";
  }
  if (given[2] && !given[2]->is(Kind::kNone)) {
    if (!given[2]->is_list() || given[2]->items().size() != 2) refuse(of + ": no two separators");
    style.between = text_of(given[2]->items()[0], of);
    style.behind_key = text_of(given[2]->items()[1], of);
  }
  return Value(json_text(v, style));
}

Value with_case(const std::string& what, const Value& v, const Arguments& arguments, Case to) {
  bound(what, arguments, {});
  return text_like(v, cased(printed(v), to));
}

}  // namespace

Value apply_filter(const std::string& name, const Value& v, const Arguments& arguments) {
  const std::string what = "the filter " + name;
  if (name == "default" || name == "d") return or_default(what, v, arguments);
  if (name == "trim") return trimmed(what, v, arguments);
  if (name == "replace") return with_replaced(what, v, arguments);
  if (name == "tojson") return as_json(what, v, arguments);
  if (name == "indent") return indented(what, v, arguments);
  if (name == "int") return integer(what, v, arguments);
  if (name == "lower") return with_case(what, v, arguments, Case::kLower);
  if (name == "upper") return with_case(what, v, arguments, Case::kUpper);
  if (name == "capitalize") return with_case(what, v, arguments, Case::kCapital);
  if (std::optional<Value> items = apply_item_filter(name, v, arguments)) return *std::move(items);
  bound(what, arguments, {});
  if (name == "length" || name == "count") return Value(length(v));
  if (name == "string") return text_like(v, printed(v));
  if (name == "safe") return Value(printed(v), Kind::kMarkup);
  refuse(what);
}

}  // namespace nestling::jinja
