#include "runtime/jinja_evaluator.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "runtime/jinja_filters.h"
#include "runtime/jinja_methods.h"
#include "runtime/jinja_operators.h"
#include "runtime/jinja_print.h"
#include "runtime/jinja_tests.h"

namespace nestling::jinja {

namespace {

// Names that stand for functions where no variable has them.
constexpr std::array<std::string_view, 9> kFunctions = {
    "namespace", "raise_exception", "strftime_now", "range", "dict",
    "lipsum",    "cycler",          "joiner",       "self"};

std::string now_as(const Arguments& given) {
  const std::string format =
      text_of(*bound("strftime_now()", given, {"format"}, 1)[0], "an argument of strftime_now()");
  for (size_t i = 0; i + 1 < format.size(); ++i) {
    if (format[i] != '%') continue;
    if (std::string_view("fzZ:").find(format[++i]) != std::string_view::npos)
      refuse(std::string("%") + format[i] + " in strftime_now()");  // Python's own
  }
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 1024> text{};
  const size_t size = std::strftime(text.data(), text.size(), format.c_str(), &local);
  if (size == 0 && !format.empty()) refuse("strftime_now() of '" + format + "'");
  return {text.data(), size};
}

// Of namespace() and dict(): those of a dictionary, then the named ones.
Fields fields_of(const std::string& name, const Arguments& given) {
  Fields fields;
  const std::string what = name + "()";
  const Value first = bound(what, {.list = given.list}, {"mapping"})[0].value_or(Value(Fields()));
  if (!first.is(Value::Kind::kDict)) refuse(str(what, " of ", kind_name(first)));
  for (const auto& [key, value] : first.fields()) fields.set(key, value);
  for (const auto& [key, value] : given.named) fields.set(Value(key), value);
  for (const auto& field : fields)
    if (name == "namespace" && text_of(field.first, "a key").starts_with('_'))
      refuse("the field " + field.first.text() + " of a namespace");
  return fields;
}

Value range_of(const Arguments& given) {
  constexpr int64_t kMost = 100000;  // as Jinja2's sandbox has it
  if (!given.named.empty()) refuse("range() with the argument " + given.named[0].first);
  const std::string of = "an argument of range()";
  const Bound ends = bound("range()", given, {"start", "stop", "step"}, 1);
  const int64_t begin = ends[1] ? whole_of(*ends[0], of) : 0;
  const int64_t end = whole_of(ends[1] ? *ends[1] : *ends[0], of);
  const int64_t step = ends[2] ? whole_of(*ends[2], of) : 1;
  if (step == 0) refuse("range() of step 0");
  for (const int64_t number : {begin, end, step})
    if (number < -kMost || number > kMost) refuse(str("range() to ", number));
  Items items;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) items.emplace_back(i);
  if (std::ssize(items) > kMost) refuse(str("range() of ", items.size(), " numbers"));
  return Value(std::move(items), Value::Kind::kRange);
}

}  // namespace

Evaluator::Evaluator(const std::string& name, const OrderedJson& variables)
    : scopes_(1), name_(name) {
  for (const auto& variable : variables.items()) {
    try {
      scopes_[0].emplace(variable.key(), Value(variable.value()));
    } catch (const Refused& r) {
      throw Error(str(name_, ": the variable ", variable.key(), ": ", r.what), ErrorKind::kInput);
    }
  }
}

Value* Evaluator::find(const std::string& name) {
  for (size_t i = scopes_.size(); i-- > 0;)
    if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return &found->second;
  return nullptr;
}

Value Evaluator::value(const Expression& e) {
  return at(e.line, [&] { return computed(e); });
}

Value Evaluator::computed(const Expression& e) {
  using Kind = Expression::Kind;
  const auto of = [&](size_t i) { return value(*e.parts[i]); };
  switch (e.kind) {
    case Kind::kLiteral:
      return e.value;
    case Kind::kName:
      return named(e.text);
    case Kind::kList:
      return Value(arguments(e).list);
    case Kind::kTuple:
      return Value(arguments(e).list, Value::Kind::kTuple);
    case Kind::kDict:
      return dict(e);
    case Kind::kField:
      return field(of(0), e.text);
    case Kind::kItem: {
      const Value whole = of(0);
      return item(whole, of(1));
    }
    case Kind::kSlice: {
      const Value whole = of(0), begin = part(e.parts[1]), end = part(e.parts[2]);
      return slice(whole, begin, end, part(e.parts[3]));
    }
    case Kind::kCall:
      return call(e);
    case Kind::kFilter: {
      const Value filtered = of(0);
      return apply_filter(e.text, filtered, arguments(e));
    }
    case Kind::kTest:
      return Value(tested(e));
    case Kind::kUnary:
      return e.text == "not" ? Value(!truth(of(0))) : unary(e.text, of(0));
    case Kind::kBinary: {
      const Value left = of(0);
      if (e.text == "and" || e.text == "or") return truth(left) == (e.text == "or") ? left : of(1);
      return binary(e.text, left, of(1));
    }
    case Kind::kCompare:
      return Value(compared(e));
    case Kind::kChoice:
      return truth(of(0)) ? of(1) : e.parts[2] ? of(2) : Value();
  }
  fail(e.line, "an expression of no kind");
}

bool Evaluator::is_function(const std::string& name) const {
  return macros_.contains(name) ||
         std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
}

Value Evaluator::named(const std::string& name) {
  if (const Value* found = find(name)) return *found;
  if (is_function(name)) refuse(name + " without a call");
  return {};
}

Value Evaluator::part(const Part& p) {
  return p ? value(*p) : Value::none();
}

Value Evaluator::dict(const Expression& e) {
  Fields fields;
  for (size_t i = 0; i + 1 < e.parts.size(); i += 2) {
    const Value key = value(*e.parts[i]);
    fields.set(key, value(*e.parts[i + 1]));
  }
  return Value(std::move(fields));
}

// Those of a call, a filter or a test stand behind its first part.
Arguments Evaluator::arguments(const Expression& e) {
  using Kind = Expression::Kind;
  Arguments all;
  for (size_t i = e.kind == Kind::kList || e.kind == Kind::kTuple ? 0 : 1; i < e.parts.size(); ++i)
    all.list.push_back(value(*e.parts[i]));
  for (const auto& [name, given] : e.named) all.named.emplace_back(name, value(*given));
  return all;
}

bool Evaluator::compared(const Expression& e) {
  Value left = value(*e.parts[0]);
  for (const auto& [op, operand] : e.named) {
    Value right = value(*operand);
    if (!compares(op, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

bool Evaluator::tested(const Expression& e) {
  const Expression& of = *e.parts[0];
  const bool function =
      of.kind == Expression::Kind::kName && find(of.text) == nullptr && is_function(of.text);
  if (e.text == "defined" && function) return true;
  const Value v = value(of);
  return apply_test(e.text, v, arguments(e));
}

Value Evaluator::call(const Expression& e) {
  const Expression& what = *e.parts[0];
  if (what.kind == Expression::Kind::kField) {
    const Value of = value(*what.parts[0]);
    return call_method(what.text, of, arguments(e));
  }
  if (what.kind != Expression::Kind::kName) refuse("a call of what is no name");
  if (find(what.text) == nullptr) return called(what.text, arguments(e));
  refuse("the function " + what.text + "()");
}

Value Evaluator::called(const std::string& name, const Arguments& given) {
  if (const auto macro = macros_.find(name); macro != macros_.end())
    return Value(expanded(*macro->second, bound_to(*macro->second, given)));
  if (name == "raise_exception")
    refuse("the template says: " +
           printed(bound("raise_exception()", given, {"message"}, 1)[0].value()));
  if (name == "strftime_now") return Value(now_as(given));
  if (name == "namespace") return Value(fields_of(name, given), Value::Kind::kNamespace);
  if (name == "dict") return Value(fields_of(name, given));
  if (name == "range") return range_of(given);
  refuse("the function " + name + "()");
}

Evaluator::Scope Evaluator::bound_to(const Statement& macro, const Arguments& given) const {
  Scope scope = {{"varargs", Value(Items(), Value::Kind::kTuple)}, {"kwargs", Value(Fields())}};
  const auto& parameters = macro.parameters;
  if (given.list.size() > parameters.size())
    refuse(str(macro.text, "() with ", given.list.size(), " arguments"));
  for (size_t i = 0; i < given.list.size(); ++i)
    scope.insert_or_assign(parameters[i].first, given.list[i]);
  for (const auto& argument : given.named) {
    const auto is_it = [&](const auto& p) { return p.first == argument.first; };
    if (std::none_of(parameters.begin(), parameters.end(), is_it) ||
        !scope.emplace(argument.first, argument.second).second)
      refuse(macro.text + "() with the argument " + argument.first);
  }
  return scope;
}

}  // namespace nestling::jinja
