#include "runtime/jinja_functions.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

const char* kind_of(const Json& v) {
  return is_undefined(v) ? "an undefined value" : v.is_null() ? "none" : v.type_name();
}

[[noreturn]] void refuse(const std::string& what) {
  throw Refused{what};
}

const std::string& text_of(const Json& v, const std::string& of) {
  if (!v.is_string()) refuse(of + " of " + kind_of(v));
  return v.get_ref<const std::string&>();
}

int64_t length(const Json& v) {
  if (is_undefined(v)) return 0;
  if (v.is_string()) return std::ssize(characters(v.get_ref<const std::string&>()));
  if (!v.is_array() && !v.is_object()) refuse(std::string("the length of ") + kind_of(v));
  return std::ssize(v);
}

// Of white space, or of the characters given.
std::string stripped(const std::string& s, const std::vector<Json>& arguments,
                     const std::string& name) {
  const bool left = name != "rstrip", right = name != "lstrip";
  if (arguments.empty() || arguments[0].is_null()) return strip(s, left, right);
  return strip(s, text_of(arguments[0], "an argument of " + name), left, right);
}

// Letters beyond ASCII have no case here.
std::string cased(std::string s, bool upper) {
  for (char& c : s) {
    if ((c & 0x80) != 0)
      refuse(upper ? "upper of text beyond ASCII" : "lower of text beyond ASCII");
    const auto u = static_cast<unsigned char>(c);
    c = static_cast<char>(upper ? std::toupper(u) : std::tolower(u));
  }
  return s;
}

std::string replaced(const std::string& s, const std::string& from, const std::string& to) {
  if (from.empty()) refuse("replace of an empty text");
  std::string out;
  size_t at = 0;
  for (size_t found; (found = s.find(from, at)) != std::string::npos; at = found + from.size())
    out += s.substr(at, found - at) + to;
  return out + s.substr(at);
}

Json split(const std::string& s, const std::string& at, int64_t most) {
  if (at.empty()) refuse("split at an empty text");
  Json parts = Json::array();
  size_t begin = 0;
  for (size_t found; std::ssize(parts) != most && (found = s.find(at, begin)) != std::string::npos;
       begin = found + at.size())
    parts.push_back(s.substr(begin, found - begin));
  parts.push_back(s.substr(begin));
  return parts;
}

Json first_or_last(const std::string& name, const Json& v) {
  if (is_undefined(v)) return undefined();
  const bool first = name == "first";
  if (v.is_array()) return v.empty() ? undefined() : first ? v.front() : v.back();
  const auto all = characters(text_of(v, "the filter " + name));
  return all.empty() ? undefined() : Json(std::string(first ? all.front() : all.back()));
}

std::string joined(const Json& v, const std::string& between) {
  if (!v.is_array()) refuse(std::string("the filter join of ") + kind_of(v));
  std::string out;
  for (size_t i = 0; i < v.size(); ++i) out += (i > 0 ? between : "") + printed(v[i]);
  return out;
}

// A boolean is a number to Python.
Json number_of(const Json& v) {
  return v.is_boolean() ? Json(v.get<bool>() ? 1 : 0) : v;
}
bool same(const Json& a, const Json& b) {
  if (is_undefined(a) || is_undefined(b)) return is_undefined(a) && is_undefined(b);
  if (a.is_array() && b.is_array()) return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
  if (a.is_object() && b.is_object()) {
    const auto fits = [&](const auto& field) {
      return b.contains(field.key()) && same(field.value(), b[field.key()]);
    };
    const auto fields = a.items();
    return a.size() == b.size() && std::all_of(fields.begin(), fields.end(), fits);
  }
  return number_of(a) == number_of(b);
}

void need_arguments(const std::string& name, const std::vector<Json>& arguments, size_t least,
                    size_t most) {
  if (arguments.size() < least || arguments.size() > most)
    refuse(str(name, " with ", arguments.size(), " arguments"));
}

Json arithmetic(const std::string& op, const Json& a, const Json& b) {
  if (op == "+" && a.is_string() && b.is_string())
    return a.get<std::string>() + b.get<std::string>();
  if (op == "+" && a.is_array() && b.is_array()) {
    Json all = a;
    all.insert(all.end(), b.begin(), b.end());
    return all;
  }
  // Booleans and fractions are numbers to Python; no template needs them.
  if (!a.is_number_integer() || !b.is_number_integer())
    refuse(str(kind_of(a), " ", op, " ", kind_of(b)));
  const auto x = a.get<int64_t>(), y = b.get<int64_t>();
  int64_t result = 0;
  if ((op == "+" && !__builtin_add_overflow(x, y, &result)) ||
      (op == "-" && !__builtin_sub_overflow(x, y, &result)) ||
      (op == "*" && !__builtin_mul_overflow(x, y, &result)))
    return result;
  // The sign of a remainder is the divisor's, as in Python.
  if (op == "%" && y > 0) return (x % y + y) % y;
  if (op == "//" && y > 0) return x / y - (x % y < 0 ? 1 : 0);
  refuse(str(x, " ", op, " ", y));
}

bool ordered(const std::string& op, const Json& a, const Json& b) {
  if (!(a.is_number() && b.is_number()) && !(a.is_string() && b.is_string()))
    refuse(str(kind_of(a), " ", op, " ", kind_of(b)));
  if (op == "<") return a < b;
  if (op == "<=") return a <= b;
  if (op == ">") return a > b;
  return a >= b;
}

}  // namespace

Json undefined() {
  return Json(Json::value_t::discarded);
}
bool is_undefined(const Json& value) {
  return value.is_discarded();
}

bool truth(const Json& v) {
  if (is_undefined(v) || v.is_null()) return false;
  if (v.is_boolean()) return v.get<bool>();
  if (v.is_number()) return v != 0;
  if (v.is_string()) return !v.get_ref<const std::string&>().empty();
  return !v.empty();
}

std::string printed(const Json& v) {
  if (is_undefined(v)) return "";
  if (v.is_null()) return "None";
  if (v.is_boolean()) return v.get<bool>() ? "True" : "False";
  if (v.is_string()) return v.get<std::string>();
  if (v.is_number_integer()) return v.dump();
  refuse(std::string("printing ") + kind_of(v));
}

bool contains(const Json& all, const Json& one) {
  if (all.is_string())
    return all.get<std::string>().find(text_of(one, "`in` a text")) != std::string::npos;
  if (all.is_object()) {
    if (one.is_structured()) refuse(std::string(kind_of(one)) + " `in` object");
    return one.is_string() && all.contains(one.get<std::string>());
  }
  if (is_undefined(all)) return false;
  if (!all.is_array()) refuse(std::string("`in` ") + kind_of(all));
  return std::any_of(all.begin(), all.end(), [&](const Json& v) { return same(v, one); });
}

Json apply_filter(const std::string& name, const Json& v, const std::vector<Json>& arguments) {
  if (name == "default" || name == "d") {
    need_arguments(name, arguments, 0, 2);
    const bool falsy = arguments.size() > 1 && truth(arguments[1]);
    if (falsy ? truth(v) : !is_undefined(v)) return v;
    return arguments.empty() ? Json("") : arguments[0];
  }
  if (name == "trim") {
    need_arguments("the filter trim", arguments, 0, 1);
    return stripped(printed(v), arguments, name);
  }
  if (name == "join") {
    need_arguments("the filter join", arguments, 0, 1);
    return joined(v, arguments.empty() ? "" : printed(arguments[0]));
  }
  if (name == "replace") {
    need_arguments("the filter replace", arguments, 2, 2);
    return replaced(printed(v), printed(arguments[0]), printed(arguments[1]));
  }
  need_arguments("the filter " + name, arguments, 0, 0);
  if (name == "length" || name == "count") return length(v);
  if (name == "string") return printed(v);
  if (name == "lower" || name == "upper") return cased(printed(v), name == "upper");
  if (name == "first" || name == "last") return first_or_last(name, v);
  refuse("the filter " + name);
}

bool apply_test(const std::string& name, const Json& v) {
  if (name == "defined") return !is_undefined(v);
  if (name == "undefined") return is_undefined(v);
  if (name == "none") return v.is_null();
  if (name == "string") return v.is_string();
  if (name == "mapping") return v.is_object();
  if (name == "iterable" || name == "sequence")
    return v.is_string() || v.is_array() || v.is_object() || is_undefined(v);
  if (name == "boolean") return v.is_boolean();
  if (name == "number") return v.is_number() || v.is_boolean();
  if (name == "true") return v.is_boolean() && v.get<bool>();
  if (name == "false") return v.is_boolean() && !v.get<bool>();
  refuse("the test " + name);
}

bool is_method(const std::string& name, const Json& v) {
  static const std::set<std::string_view> kOfText = {
      "capitalize", "casefold",    "center",    "count",        "encode",       "endswith",
      "expandtabs", "find",        "format",    "format_map",   "index",        "isalnum",
      "isalpha",    "isascii",     "isdecimal", "isdigit",      "isidentifier", "islower",
      "isnumeric",  "isprintable", "isspace",   "istitle",      "isupper",      "join",
      "ljust",      "lower",       "lstrip",    "maketrans",    "partition",    "removeprefix",
      "replace",    "rfind",       "rindex",    "removesuffix", "rjust",        "rpartition",
      "rsplit",     "rstrip",      "split",     "splitlines",   "startswith",   "strip",
      "swapcase",   "title",       "translate", "upper",        "zfill"};
  static const std::set<std::string_view> kOfList = {"append", "clear",   "copy",   "count",
                                                     "extend", "index",   "insert", "pop",
                                                     "remove", "reverse", "sort"};
  static const std::set<std::string_view> kOfDict = {"clear",  "copy",       "fromkeys", "get",
                                                     "items",  "keys",       "pop",      "popitem",
                                                     "update", "setdefault", "values"};
  return (v.is_string() && kOfText.contains(name)) || (v.is_array() && kOfList.contains(name)) ||
         (v.is_object() && kOfDict.contains(name));
}

Json call_method(const std::string& name, const Json& v, const std::vector<Json>& arguments) {
  const std::string of = "." + name + "()";
  if (name == "get" && v.is_object()) {
    need_arguments(of, arguments, 1, 2);
    const auto found = v.find(text_of(arguments[0], "an argument of " + of));
    if (found != v.end()) return *found;
    return arguments.size() > 1 ? arguments[1] : Json();
  }
  const std::string& s = text_of(v, of);
  const auto argument = [&](size_t i) { return text_of(arguments.at(i), "an argument of " + of); };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    need_arguments(of, arguments, 0, 1);
    return stripped(s, arguments, name);
  }
  if (name == "lower" || name == "upper") {
    need_arguments(of, arguments, 0, 0);
    return cased(s, name == "upper");
  }
  if (name == "replace") {
    need_arguments(of, arguments, 2, 2);
    return replaced(s, argument(0), argument(1));
  }
  if (name != "split" && name != "startswith" && name != "endswith") refuse("the method " + of);
  if (name == "split") {
    need_arguments(of, arguments, 0, 2);
    const Json most = arguments.size() > 1 ? arguments[1] : Json(-1);
    if (!most.is_number_integer()) refuse(of + " up to " + kind_of(most));
    const auto n = most.get<int64_t>();
    if (arguments.empty() || arguments[0].is_null()) return words(s, n);
    return split(s, argument(0), n);
  }
  need_arguments(of, arguments, 1, 1);
  return name == "startswith" ? s.starts_with(argument(0)) : s.ends_with(argument(0));
}

Json apply_binary(const std::string& op, const Json& a, const Json& b) {
  if (op == "~") return printed(a) + printed(b);
  if (op == "==" || op == "!=") return same(a, b) == (op == "==");
  if (op == "in") return contains(b, a);
  if (op[0] == '<' || op[0] == '>') return ordered(op, a, b);
  return arithmetic(op, a, b);
}

}  // namespace nestling::jinja
