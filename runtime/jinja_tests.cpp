#include "runtime/jinja_tests.h"

#include <map>
#include <string_view>

#include "runtime/jinja_operators.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;
using Names = std::map<std::string_view, const char*>;

// Tests that are operators.
const Names kOperators = {{"eq", "=="},      {"equalto", "=="}, {"ne", "!="}, {"lt", "<"},
                          {"lessthan", "<"}, {"le", "<="},      {"gt", ">"},  {"greaterthan", ">"},
                          {"ge", ">="},      {"in", "in"}};

bool is_iterable(const Value& v) {
  return v.is(Kind::kUndefined) || (v.kind() >= Kind::kText && v.kind() <= Kind::kDict);
}

}  // namespace

bool apply_test(const std::string& name, const Value& v, const Arguments& arguments) {
  const std::string what = "the test " + name;
  if (const auto op = kOperators.find(name); op != kOperators.end())
    return compares(op->second, v, *bound(what, arguments, {"other"}, 1)[0]);
  if (name == "divisibleby") {
    const Value by = *bound(what, arguments, {"num"}, 1)[0];
    return !truth(binary("%", v, by));
  }
  bound(what, arguments, {});
  if (name == "defined") return !v.is(Kind::kUndefined);
  if (name == "undefined") return v.is(Kind::kUndefined);
  if (name == "none") return v.is(Kind::kNone);
  if (name == "string") return v.is_text();
  if (name == "mapping") return v.is(Kind::kDict);
  if (name == "iterable" && !v.is(Kind::kLoop)) return is_iterable(v);
  if (name == "sequence" && !v.is(Kind::kLoop))
    return is_iterable(v) && !v.is(Kind::kView) && !v.is(Kind::kStream);
  if (name == "boolean") return v.is(Kind::kBoolean);
  if (name == "number") return v.is_number();
  if (name == "integer") return v.is(Kind::kInteger);
  if (name == "float") return v.is(Kind::kFloat);
  if (name == "true") return v.is(Kind::kBoolean) && v.boolean();
  if (name == "false") return v.is(Kind::kBoolean) && !v.boolean();
  if (name == "even" || name == "odd")
    return truth(binary("%", v, Value(int64_t{2}))) == (name == "odd");
  refuse(what);
}

}  // namespace nestling::jinja
