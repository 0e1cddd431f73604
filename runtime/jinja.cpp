#include "runtime/jinja.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "runtime/jinja_functions.h"
#include "runtime/jinja_text.h"

namespace nestling {

namespace {

using jinja::Expression;
using jinja::Statement;
using jinja::undefined;

// NOLINTNEXTLINE(bugprone-exception-escape): Json says that moving it does not throw
struct Variable {
  Json value;
  bool is_namespace = false;  // or loop: fields, and no value by itself
};

// Names that stand for functions where no variable has them.
constexpr std::array<std::string_view, 8> kFunctions = {
    "namespace", "raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner"};

constexpr int kMostCalls = 16;  // of macros in each other: no stack is at risk

std::string now_as(const std::string& format) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 256> text{};
  return {text.data(), std::strftime(text.data(), text.size(), format.c_str(), &local)};
}

class Renderer {
 public:
  Renderer(const std::string& name, const Json& variables) : name_(name), scopes_(1) {
    for (const auto& [key, value] : variables.items()) scopes_[0][key] = {value};
  }
  void run(const std::vector<Statement>& statements) {
    for (const Statement& s : statements) run(s);
  }
  std::string text() { return std::move(out_); }

 private:
  [[noreturn]] void fail(int line, const std::string& what) const {
    jinja::fail(name_, line, what);
  }
  // What is refused deeper down, at a line.
  template <class Fn>
  auto at(int line, Fn fn) const {
    try {
      return fn();
    } catch (const jinja::Refused& r) {
      fail(line, r.what);
    }
  }
  Variable* find(const std::string& name) {
    for (size_t i = scopes_.size(); i-- > 0;)
      if (const auto found = scopes_[i].find(name); found != scopes_[i].end())
        return &found->second;
    return nullptr;
  }

  void run(const Statement& s) {
    switch (s.kind) {
      case Statement::Kind::kText:
        out_ += s.text;
        return;
      case Statement::Kind::kOutput:
        out_ += at(s.line, [&] { return jinja::printed(value(*s.a)); });
        return;
      case Statement::Kind::kIf:
        return run(jinja::truth(value(*s.a)) ? s.body : s.otherwise);
      case Statement::Kind::kFor:
        return loop(s);
      case Statement::Kind::kSet:
        return set(s);
      case Statement::Kind::kMacro:
        if (scopes_.size() > 1) fail(s.line, "a macro within a loop or a macro");
        scopes_[0].erase(s.text);
        macros_[s.text] = &s;
        return;
      case Statement::Kind::kScope:
        scopes_.emplace_back();
        run(s.body);
        scopes_.pop_back();
        return;
    }
  }
  void loop(const Statement& s) {
    Json items = value(*s.a);
    if (jinja::is_undefined(items)) items = Json::array();
    if (!items.is_array()) fail(s.line, "a loop over what is no list");
    if (s.text.find(',') != std::string::npos) fail(s.line, "a loop of several variables");
    if (s.b) items = kept(s, items);
    if (items.empty()) return run(s.otherwise);
    const size_t count = items.size();
    for (size_t i = 0; i < count; ++i) {
      scopes_.emplace_back();
      scopes_.back()[s.text] = {items[i]};
      Json loop = {{"index", i + 1},
                   {"index0", i},
                   {"revindex", count - i},
                   {"revindex0", count - i - 1},
                   {"first", i == 0},
                   {"last", i + 1 == count},
                   {"length", count},
                   {"depth", 1},
                   {"depth0", 0}};
      if (i > 0) loop["previtem"] = items[i - 1];
      if (i + 1 < count) loop["nextitem"] = items[i + 1];
      scopes_.back()["loop"] = {std::move(loop), true};
      run(s.body);
      scopes_.pop_back();
    }
  }
  // Of the items, those for which the loop's condition holds.
  Json kept(const Statement& s, const Json& items) {
    Json list = Json::array();
    for (const Json& one : items) {
      scopes_.emplace_back();
      scopes_.back()[s.text] = {one};
      scopes_.back()["loop"] = {undefined()};  // it has not begun
      if (jinja::truth(value(*s.b))) list.push_back(one);
      scopes_.pop_back();
    }
    return list;
  }
  void set(const Statement& s) {
    Variable to;
    if (s.a) {
      to.is_namespace = is_namespace_call(*s.a);
      to.value = to.is_namespace ? namespace_of(*s.a) : value(*s.a);
    } else {
      std::string outer = std::move(out_);
      out_.clear();
      run(s.body);
      to.value = std::move(out_);
      out_ = std::move(outer);
    }
    if (s.field.empty()) {
      scopes_.back()[s.text] = std::move(to);
      return;
    }
    Variable* space = find(s.text);
    if (space == nullptr || !space->is_namespace)
      fail(s.line, s.text + "." + s.field + " set, and " + s.text + " is no namespace");
    space->value[s.field] = std::move(to.value);
  }
  Json namespace_of(const Expression& call) {
    Json fields = Json::object();
    if (call.parts.size() > 1) fail(call.line, "namespace() of an unnamed argument");
    for (const auto& [key, part] : call.named) fields[key] = value(*part);
    return fields;
  }
  static bool is_namespace_call(const Expression& e) {
    return e.kind == Expression::Kind::kCall && e.parts[0]->kind == Expression::Kind::kName &&
           e.parts[0]->text == "namespace";
  }

  Json value(const Expression& e) {
    switch (e.kind) {
      case Expression::Kind::kLiteral:
        return e.value;
      case Expression::Kind::kName: {
        if (const Variable* found = find(e.text)) {
          if (found->is_namespace) fail(e.line, "the namespace " + e.text + " as a value");
          return found->value;
        }
        if (is_function(e.text)) fail(e.line, e.text + " without a call");
        return undefined();
      }
      case Expression::Kind::kList: {
        Json list = Json::array();
        for (const auto& part : e.parts) list.push_back(value(*part));
        return list;
      }
      case Expression::Kind::kDict: {
        Json dict = Json::object();
        for (const auto& [key, part] : e.named) dict[key] = value(*part);
        return dict;
      }
      case Expression::Kind::kField:
        return field(e);
      case Expression::Kind::kItem: {
        const Json key = value(*e.parts[1]);
        if (const Json* fields = fields_of(*e.parts[0])) return found_in(*fields, key);
        return item(e, value(*e.parts[0]), key);
      }
      case Expression::Kind::kSlice:
        return slice(e);
      case Expression::Kind::kCall:
        return call(e);
      case Expression::Kind::kFilter:
        return at(e.line,
                  [&] { return jinja::apply_filter(e.text, value(*e.parts[0]), arguments(e)); });
      case Expression::Kind::kTest:
        if (e.text == "defined" && is_function_name(*e.parts[0])) return true;
        return at(e.line, [&] { return Json(jinja::apply_test(e.text, value(*e.parts[0]))); });
      case Expression::Kind::kUnary:
        return unary(e);
      case Expression::Kind::kBinary:
        return binary(e);
      case Expression::Kind::kChoice:
        if (jinja::truth(value(*e.parts[0]))) return value(*e.parts[1]);
        return e.parts[2] ? value(*e.parts[2]) : undefined();
    }
    fail(e.line, "an expression of no kind");
  }
  bool is_function(const std::string& name) const {
    return macros_.contains(name) ||
           std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
  }
  bool is_function_name(const Expression& e) {
    return e.kind == Expression::Kind::kName && find(e.text) == nullptr && is_function(e.text);
  }
  // Behind the first part.
  std::vector<Json> arguments(const Expression& e) {
    const bool fallback = e.kind == Expression::Kind::kFilter && e.text == "default";
    if (fallback && e.parts.size() == 2 && e.named.size() == 1 && e.named[0].first == "boolean")
      return {value(*e.parts[1]), value(*e.named[0].second)};
    if (!e.named.empty()) fail(e.line, "the named argument " + e.named[0].first);
    std::vector<Json> all;
    for (size_t i = 1; i < e.parts.size(); ++i) all.push_back(value(*e.parts[i]));
    return all;
  }
  // Of a namespace or of loop; null: `e` names neither.
  const Json* fields_of(const Expression& e) {
    const Variable* named = e.kind == Expression::Kind::kName ? find(e.text) : nullptr;
    return named != nullptr && named->is_namespace ? &named->value : nullptr;
  }
  static Json found_in(const Json& fields, const Json& key) {
    const auto found = key.is_string() ? fields.find(key.get<std::string>()) : fields.end();
    return found == fields.end() ? undefined() : *found;
  }
  // Of a value that has both, Python's method comes before the field.
  Json field(const Expression& e) {
    if (const Json* fields = fields_of(*e.parts[0])) return found_in(*fields, e.text);
    const Json of = value(*e.parts[0]);
    if (jinja::is_method(e.text, of)) fail(e.line, "." + e.text + " without a call");
    return item(e, of, e.text);
  }
  Json item(const Expression& e, const Json& of, Json key) {
    if (jinja::is_undefined(of)) fail(e.line, "a field of an undefined value");
    if (of.is_object() && key.is_string()) {
      const auto found = of.find(key.get<std::string>());
      if (found != of.end()) return *found;
    }
    if (key.is_boolean()) key = key.get<bool>() ? 1 : 0;
    if (key.is_number_integer() && (of.is_array() || of.is_string())) {
      const auto i = key.get<int64_t>(), n = jinja::apply_filter("length", of, {}).get<int64_t>();
      if (i < -n || i >= n) return undefined();
      const auto place = static_cast<size_t>(i < 0 ? i + n : i);
      if (of.is_array()) return of[place];
      return std::string(jinja::characters(of.get_ref<const std::string&>())[place]);
    }
    if (key.is_string() && jinja::is_method(key.get<std::string>(), of))
      fail(e.line, "." + key.get<std::string>() + " without a call");
    return undefined();
  }
  // An end of a slice or its step; none: open.
  std::optional<int64_t> slice_number(const Expression& e, const jinja::Part& part) {
    const Json v = part ? value(*part) : Json();
    if (v.is_null()) return std::nullopt;
    if (v.is_boolean()) return v.get<bool>() ? 1 : 0;
    if (!v.is_number_integer()) fail(e.line, "a slice whose end is no integer");
    return v.get<int64_t>();
  }
  Json slice(const Expression& e) {
    const Json of = value(*e.parts[0]);
    if (!of.is_array() && !of.is_string()) fail(e.line, "a slice of what is no list and no text");
    std::vector<std::string_view> text;
    if (of.is_string()) text = jinja::characters(of.get_ref<const std::string&>());
    const int64_t n = of.is_string() ? std::ssize(text) : std::ssize(of);
    const int64_t step = slice_number(e, e.parts[3]).value_or(1);
    if (step == 0) fail(e.line, "a slice of step 0");
    const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    const auto edge = [&](const jinja::Part& part, int64_t open) {
      const std::optional<int64_t> i = slice_number(e, part);
      return i ? std::clamp(*i < 0 ? *i + n : *i, low, high) : open;
    };
    const int64_t begin = edge(e.parts[1], step > 0 ? 0 : n - 1);
    const int64_t end = edge(e.parts[2], step > 0 ? n : -1);
    Json list = Json::array();
    std::string out;
    for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
      if (of.is_string())
        out += text[static_cast<size_t>(i)];
      else
        list.push_back(of[static_cast<size_t>(i)]);
    }
    return of.is_string() ? Json(out) : list;
  }
  Json call(const Expression& e) {
    const Expression& what = *e.parts[0];
    if (what.kind == Expression::Kind::kField) {
      const Json of = value(*what.parts[0]);
      return at(e.line, [&] { return jinja::call_method(what.text, of, arguments(e)); });
    }
    if (what.kind != Expression::Kind::kName) fail(e.line, "a call of what is no name");
    if (what.text == "raise_exception") {
      const std::vector<Json> said = arguments(e);
      fail(e.line, "the template says: " + (said.empty() ? "" : jinja::printed(said[0])));
    }
    if (what.text == "strftime_now") {
      const std::vector<Json> format = arguments(e);
      if (format.size() != 1 || !format[0].is_string()) fail(e.line, "strftime_now() of no format");
      return now_as(format[0].get<std::string>());
    }
    if (const auto macro = macros_.find(what.text);
        macro != macros_.end() && find(what.text) == nullptr)
      return expand(*macro->second, e);
    fail(e.line, "the function " + what.text + "()");
  }
  // A macro's text. It sees its parameters and what the whole template sees.
  std::string expand(const Statement& macro, const Expression& call) {
    std::map<std::string, Variable> given = {{"varargs", {Json::array()}},
                                             {"kwargs", {Json::object()}}};
    const auto& parameters = macro.parameters;
    const size_t count = call.parts.size() - 1;
    if (count > parameters.size())
      fail(call.line, str(macro.text, "() with ", count, " arguments"));
    for (size_t i = 0; i < count; ++i) given[parameters[i].first] = {value(*call.parts[i + 1])};
    for (const auto& argument : call.named) {
      const std::string& name = argument.first;
      const auto is_name = [&](const auto& p) { return p.first == name; };
      const auto known = std::find_if(parameters.begin(), parameters.end(), is_name);
      if (known == parameters.end() || given.contains(name))
        fail(call.line, macro.text + "() with the argument " + name);
      given[name] = {value(*argument.second)};
    }
    if (++calls_ > kMostCalls)
      fail(call.line, str("more than ", kMostCalls, " macros in each other"));
    std::vector<std::map<std::string, Variable>> outer;
    outer.push_back(std::move(scopes_[0]));
    outer.swap(scopes_);
    scopes_.push_back(std::move(given));
    std::string before = std::exchange(out_, {});
    for (const auto& [name, fallback] : parameters)
      if (!scopes_[1].contains(name))
        scopes_[1][name] = {fallback ? value(*fallback) : undefined()};
    run(macro.body);
    outer[0] = std::move(scopes_[0]);
    scopes_ = std::move(outer);
    --calls_;
    return std::exchange(out_, std::move(before));
  }
  Json unary(const Expression& e) {
    const Json of = value(*e.parts[0]);
    if (e.text == "not") return !jinja::truth(of);
    return at(e.line, [&] { return jinja::apply_binary(e.text, 0, of); });
  }
  Json binary(const Expression& e) {
    Json left = value(*e.parts[0]);
    if (e.text == "and" || e.text == "or")
      return jinja::truth(left) == (e.text == "or") ? left : value(*e.parts[1]);
    return at(e.line, [&] { return jinja::apply_binary(e.text, left, value(*e.parts[1])); });
  }

  const std::string& name_;
  std::vector<std::map<std::string, Variable>> scopes_;
  std::map<std::string, const Statement*> macros_;
  int calls_ = 0;
  std::string out_;
};

}  // namespace

JinjaTemplate::JinjaTemplate(const std::string& source, std::string name)
    : name_(std::move(name)), statements_(jinja::parse(source, name_)) {}

std::string JinjaTemplate::render(const Json& variables) const {
  Renderer renderer(name_, variables);
  renderer.run(statements_);
  return renderer.text();
}

}  // namespace nestling
