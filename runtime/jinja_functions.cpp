#include "runtime/jinja_functions.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

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

// Characters, not bytes; the text is UTF-8.
int64_t length(const Json& v) {
  if (v.is_string()) {
    const std::string& s = v.get_ref<const std::string&>();
    return std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; });
  }
  if (!v.is_array() && !v.is_object()) refuse(std::string("the length of ") + kind_of(v));
  return std::ssize(v);
}

// Of ASCII whitespace, or of the characters given.
std::string strip(const std::string& s, const std::string& of, bool left, bool right) {
  const size_t begin = left ? s.find_first_not_of(of) : 0;
  if (begin == std::string::npos) return "";
  const size_t end = right ? s.find_last_not_of(of) : s.size() - 1;
  return end == std::string::npos ? "" : s.substr(begin, end + 1 - begin);
}
constexpr const char* kBlanks = " \t\n\r\v\f";

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

Json split(const std::string& s, const std::string& at) {
  if (at.empty()) refuse("split at an empty text");
  Json parts = Json::array();
  size_t begin = 0;
  for (size_t found; (found = s.find(at, begin)) != std::string::npos; begin = found + at.size())
    parts.push_back(s.substr(begin, found - begin));
  parts.push_back(s.substr(begin));
  return parts;
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
  if (all.is_object()) return one.is_string() && all.contains(one.get<std::string>());
  if (!all.is_array()) refuse(std::string("`in` ") + kind_of(all));
  return std::find(all.begin(), all.end(), one) != all.end();
}

Json apply_filter(const std::string& name, const Json& v, const std::vector<Json>& arguments) {
  if (name == "default" || name == "d") {
    need_arguments(name, arguments, 0, 2);
    const bool falsy = arguments.size() > 1 && truth(arguments[1]);
    if (falsy ? truth(v) : !is_undefined(v)) return v;
    return arguments.empty() ? Json("") : arguments[0];
  }
  need_arguments("the filter " + name, arguments, 0, 0);
  if (name == "length" || name == "count") return length(v);
  if (name == "string") return printed(v);
  if (name == "trim") return strip(printed(v), kBlanks, true, true);
  if (name == "lower" || name == "upper") return cased(printed(v), name == "upper");
  if (name == "first" || name == "last") {
    if (!v.is_array()) refuse("the filter " + name + " of " + kind_of(v));
    if (v.empty()) return undefined();
    return name == "first" ? v.front() : v.back();
  }
  refuse("the filter " + name);
}

bool apply_test(const std::string& name, const Json& v) {
  if (name == "defined") return !is_undefined(v);
  if (name == "undefined") return is_undefined(v);
  if (name == "none") return v.is_null();
  if (name == "string") return v.is_string();
  if (name == "mapping") return v.is_object();
  if (name == "iterable" || name == "sequence")
    return v.is_string() || v.is_array() || v.is_object() ||
           (is_undefined(v) && name == "iterable");
  if (name == "boolean") return v.is_boolean();
  if (name == "number") return v.is_number() || v.is_boolean();
  if (name == "true") return v.is_boolean() && v.get<bool>();
  if (name == "false") return v.is_boolean() && !v.get<bool>();
  refuse("the test " + name);
}

Json call_method(const std::string& name, const Json& v, const std::vector<Json>& arguments) {
  const std::string of = "." + name + "()";
  const std::string& s = text_of(v, of);
  const auto argument = [&](size_t i) { return text_of(arguments.at(i), "an argument of " + of); };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    need_arguments(of, arguments, 0, 1);
    return strip(s, arguments.empty() ? kBlanks : argument(0), name != "rstrip", name != "lstrip");
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
  need_arguments(of, arguments, 1, 1);
  if (name == "split") return split(s, argument(0));
  return name == "startswith" ? s.starts_with(argument(0)) : s.ends_with(argument(0));
}

Json apply_binary(const std::string& op, const Json& a, const Json& b) {
  if (op == "~") return printed(a) + printed(b);
  if (op == "==" || op == "!=") {
    const bool same =
        is_undefined(a) || is_undefined(b) ? is_undefined(a) && is_undefined(b) : a == b;
    return same == (op == "==");
  }
  if (op == "in") return contains(b, a);
  if (op[0] == '<' || op[0] == '>') return ordered(op, a, b);
  return arithmetic(op, a, b);
}

}  // namespace nestling::jinja
