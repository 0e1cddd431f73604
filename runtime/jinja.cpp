#include "runtime/jinja.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "runtime/jinja_functions.h"

namespace nestling {

namespace {

using jinja::Expression;
using jinja::Statement;
using jinja::undefined;

// NOLINTNEXTLINE(bugprone-exception-escape): Json says that moving it does not throw
struct Variable {
  Json value;
  bool is_namespace = false;
};

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
        macros_.insert(s.text);
        return;
    }
  }
  void loop(const Statement& s) {
    const Json items = value(*s.a);
    if (jinja::is_undefined(items) || (items.is_array() && items.empty())) return run(s.otherwise);
    if (!items.is_array()) fail(s.line, "a loop over what is no list");
    if (s.text.find(',') != std::string::npos) fail(s.line, "a loop of several variables");
    const int64_t count = std::ssize(items);
    for (int64_t i = 0; i < count; ++i) {
      scopes_.emplace_back();
      scopes_.back()[s.text] = {items[static_cast<size_t>(i)]};
      scopes_.back()["loop"] = {{{"index", i + 1},
                                 {"index0", i},
                                 {"first", i == 0},
                                 {"last", i + 1 == count},
                                 {"length", count}}};
      run(s.body);
      scopes_.pop_back();
    }
  }
  void set(const Statement& s) {
    Variable to;
    if (s.a) {
      to.is_namespace = is_namespace_call(*s.a);
      to.value = value(*s.a);
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
  static bool is_namespace_call(const Expression& e) {
    return e.kind == Expression::Kind::kCall && e.parts[0]->kind == Expression::Kind::kName &&
           e.parts[0]->text == "namespace";
  }

  Json value(const Expression& e) {
    switch (e.kind) {
      case Expression::Kind::kLiteral:
        return e.value;
      case Expression::Kind::kName: {
        const Variable* found = find(e.text);
        return found ? found->value : undefined();
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
        return item(e, value(*e.parts[0]), e.text);
      case Expression::Kind::kItem:
        return item(e, value(*e.parts[0]), value(*e.parts[1]));
      case Expression::Kind::kSlice:
        return slice(e);
      case Expression::Kind::kCall:
        return call(e);
      case Expression::Kind::kFilter:
        return at(e.line,
                  [&] { return jinja::apply_filter(e.text, value(*e.parts[0]), arguments(e)); });
      case Expression::Kind::kTest:
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
  // Behind the first part.
  std::vector<Json> arguments(const Expression& e) {
    if (!e.named.empty()) fail(e.line, "the named argument " + e.named[0].first);
    std::vector<Json> all;
    for (size_t i = 1; i < e.parts.size(); ++i) all.push_back(value(*e.parts[i]));
    return all;
  }
  Json item(const Expression& e, const Json& of, const Json& key) {
    if (jinja::is_undefined(of)) fail(e.line, "a field of an undefined value");
    if (of.is_object() && key.is_string()) {
      const auto found = of.find(key.get<std::string>());
      return found == of.end() ? undefined() : *found;
    }
    if (of.is_array() && key.is_number_integer()) {
      const auto i = key.get<int64_t>(), n = std::ssize(of);
      return i < -n || i >= n ? undefined() : of[static_cast<size_t>(i < 0 ? i + n : i)];
    }
    if (of.is_string() && key.is_number_integer())
      fail(e.line, "a character of a text by its place");
    return undefined();
  }
  Json slice(const Expression& e) {
    const Json of = value(*e.parts[0]);
    if (!of.is_array()) fail(e.line, "a slice of what is no list");
    const int64_t n = std::ssize(of);
    const auto edge = [&](const jinja::Part& part, int64_t otherwise) {
      if (!part) return otherwise;
      const Json v = value(*part);
      if (!v.is_number_integer()) fail(e.line, "a slice whose end is no integer");
      const auto i = v.get<int64_t>();
      return std::clamp<int64_t>(i < 0 ? i + n : i, 0, n);
    };
    const int64_t begin = edge(e.parts[1], 0), end = edge(e.parts[2], n);
    Json list = Json::array();
    for (int64_t i = begin; i < end; ++i) list.push_back(of[static_cast<size_t>(i)]);
    return list;
  }
  Json call(const Expression& e) {
    const Expression& what = *e.parts[0];
    if (what.kind == Expression::Kind::kField) {
      const Json of = value(*what.parts[0]);
      return at(e.line, [&] { return jinja::call_method(what.text, of, arguments(e)); });
    }
    if (what.kind != Expression::Kind::kName) fail(e.line, "a call of what is no name");
    if (what.text == "namespace") {
      Json fields = Json::object();
      if (e.parts.size() > 1) fail(e.line, "namespace() of an unnamed argument");
      for (const auto& [key, part] : e.named) fields[key] = value(*part);
      return fields;
    }
    if (what.text == "raise_exception") {
      const std::vector<Json> said = arguments(e);
      fail(e.line, "the template says: " + (said.empty() ? "" : jinja::printed(said[0])));
    }
    fail(e.line, (macros_.contains(what.text) ? "the macro " : "the function ") + what.text + "()");
  }
  Json unary(const Expression& e) {
    const Json of = value(*e.parts[0]);
    if (e.text == "not") return !jinja::truth(of);
    return at(e.line, [&] { return jinja::apply_binary("-", 0, of); });
  }
  Json binary(const Expression& e) {
    Json left = value(*e.parts[0]);
    if (e.text == "and" || e.text == "or")
      return jinja::truth(left) == (e.text == "or") ? left : value(*e.parts[1]);
    return at(e.line, [&] { return jinja::apply_binary(e.text, left, value(*e.parts[1])); });
  }

  const std::string& name_;
  std::vector<std::map<std::string, Variable>> scopes_;
  std::set<std::string> macros_;
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
