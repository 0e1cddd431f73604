#include "runtime/jinja_methods.h"

#include <algorithm>
#include <set>
#include <string_view>

#include "runtime/jinja_print.h"
#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;
using Names = std::set<std::string_view>;

// The attributes of Python's type, but for those of all types.
const Names& names_of(const Value& v) {
  static const Names kOfText = {
      "capitalize", "casefold",    "center",    "count",        "encode",       "endswith",
      "expandtabs", "find",        "format",    "format_map",   "index",        "isalnum",
      "isalpha",    "isascii",     "isdecimal", "isdigit",      "isidentifier", "islower",
      "isnumeric",  "isprintable", "isspace",   "istitle",      "isupper",      "join",
      "ljust",      "lower",       "lstrip",    "maketrans",    "partition",    "removeprefix",
      "replace",    "rfind",       "rindex",    "removesuffix", "rjust",        "rpartition",
      "rsplit",     "rstrip",      "split",     "splitlines",   "startswith",   "strip",
      "swapcase",   "title",       "translate", "upper",        "zfill",        "escape",
      "striptags",  "unescape"};  // the last three: of what `safe` gave
  static const Names kOfList = {"append", "clear", "copy",   "count",   "extend", "index",
                                "insert", "pop",   "remove", "reverse", "sort"};
  static const Names kOfTuple = {"count", "index"};
  static const Names kOfRange = {"count", "index", "start", "step", "stop"};
  static const Names kOfView = {"isdisjoint", "mapping"};
  static const Names kOfStream = {"close",        "gi_code",      "gi_frame", "gi_running",
                                  "gi_suspended", "gi_yieldfrom", "send",     "throw"};
  static const Names kOfDict = {"clear", "copy",    "fromkeys", "get",        "items", "keys",
                                "pop",   "popitem", "update",   "setdefault", "values"};
  static const Names kOfNumber = {
      "real", "imag",    "numerator",        "denominator", "bit_length", "bit_count", "conjugate",
      "hex",  "fromhex", "as_integer_ratio", "to_bytes",    "from_bytes", "is_integer"};
  static const Names kOfLoop = {"changed", "cycle"};
  static const Names kNone;
  switch (v.kind()) {
    case Kind::kText:
    case Kind::kMarkup:
      return kOfText;
    case Kind::kList:
      return kOfList;
    case Kind::kTuple:
      return kOfTuple;
    case Kind::kRange:
      return kOfRange;
    case Kind::kView:
      return kOfView;
    case Kind::kStream:
      return kOfStream;
    case Kind::kDict:
      return kOfDict;
    case Kind::kLoop:
      return kOfLoop;
    default:
      return v.is_number() ? kOfNumber : kNone;
  }
}

Value texts(const std::vector<std::string>& all) {
  return Value(Items(all.begin(), all.end()));
}

Value of_dict(const std::string& name, const Fields& fields, const Arguments& arguments) {
  const std::string what = "." + name + "()";
  if (name == "get") {
    if (!arguments.named.empty()) refuse(what + " with the argument " + arguments.named[0].first);
    const Bound given = bound(what, arguments, {"key", "default"}, 1);
    if (given[0]->kind() >= Kind::kList) refuse(what + " of " + kind_name(*given[0]));
    const Value* found = fields.find(*given[0]);
    return found != nullptr ? *found : given[1].value_or(Value::none());
  }
  bound(what, arguments, {});
  Items all;
  for (const auto& [key, value] : fields) {
    if (name == "keys") all.push_back(key);
    if (name == "values") all.push_back(value);
    if (name == "items") all.emplace_back(Items{key, value}, Kind::kTuple);
  }
  if (name == "keys" || name == "values" || name == "items")
    return Value(std::move(all), Kind::kView);
  refuse("the method " + what);
}

// str.format() of places without a name or a format: {}.
std::string formatted(const std::string& what, const std::string& s, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < s.size(); ++i) {
    const bool brace = s[i] == '{' || s[i] == '}';
    const char behind = i + 1 < s.size() ? s[i + 1] : ' ';
    if (brace && behind == s[i]) {
      out += s[i++];
    } else if (s[i] == '{' && behind == '}') {
      if (next == arguments.list.size()) refuse(str(what, " with ", next, " arguments"));
      out += printed(arguments.list[next++]);
      ++i;
    } else if (brace) {
      refuse(what + " with more than {}");
    } else {
      out += s[i];
    }
  }
  return out;
}

bool begins_or_ends(const std::string& name, const std::string& s, const Value& with) {
  if (with.is(Kind::kTuple))
    return std::any_of(with.items().begin(), with.items().end(),
                       [&](const Value& one) { return begins_or_ends(name, s, one); });
  const std::string& text = text_of(with, "an argument of ." + name + "()");
  return name == "startswith" ? s.starts_with(text) : s.ends_with(text);
}

Value of_text(const std::string& name, const std::string& s, const Arguments& arguments) {
  const std::string what = "." + name + "()", of_it = "an argument of " + what;
  if (name == "split") {
    const Bound given = bound(what, arguments, {"sep", "maxsplit"});
    const int64_t most = given[1] ? whole_of(*given[1], of_it) : -1;
    if (!given[0] || given[0]->is(Kind::kNone)) return texts(words(s, most));
    return texts(split(s, text_of(*given[0], of_it), most));
  }
  if (!arguments.named.empty()) refuse(what + " with the argument " + arguments.named[0].first);
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Bound given = bound(what, arguments, {"chars"});
    const bool left = name != "rstrip", right = name != "lstrip";
    if (!given[0] || given[0]->is(Kind::kNone)) return Value(strip(s, left, right));
    return Value(strip(s, text_of(*given[0], of_it), left, right));
  }
  if (name == "replace") {
    const Bound given = bound(what, arguments, {"old", "new", "count"}, 2);
    const int64_t most = given[2] ? whole_of(*given[2], of_it) : -1;
    return Value(replaced(s, text_of(*given[0], of_it), text_of(*given[1], of_it), most));
  }
  if (name == "format") return Value(formatted(what, s, arguments));
  if (name == "startswith" || name == "endswith")
    return Value(begins_or_ends(name, s, *bound(what, arguments, {"prefix"}, 1)[0]));
  if (name != "lower" && name != "upper" && name != "capitalize" && name != "title")
    refuse("the method " + what);
  bound(what, arguments, {});
  return Value(cased(s, name == "lower"   ? Case::kLower
                        : name == "upper" ? Case::kUpper
                        : name == "title" ? Case::kTitle
                                          : Case::kCapital));
}

}  // namespace

bool has_attribute(const Value& of, const std::string& name) {
  return name.starts_with("__") || (of.is(Kind::kLoop) && name.starts_with('_')) ||
         names_of(of).contains(name);
}

Value call_method(const std::string& name, const Value& of, const Arguments& arguments) {
  if (of.is(Kind::kDict)) return of_dict(name, of.fields(), arguments);
  if (of.is(Kind::kText)) return of_text(name, of.text(), arguments);
  refuse(str("the method .", name, "() of ", kind_name(of)));
}

}  // namespace nestling::jinja
