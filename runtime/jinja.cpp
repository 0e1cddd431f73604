#include "runtime/jinja.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/jinja_evaluator.h"
#include "runtime/jinja_filters.h"
#include "runtime/jinja_print.h"

namespace nestling {

namespace {

using jinja::Fields;
using jinja::Items;
using jinja::Statement;
using jinja::Value;

constexpr int kMostCalls = 16;  // of macros in each other: no stack is at risk

// How a statement ends: with what follows it, or with the loop around it left or at its next item.
enum class Flow : uint8_t { kOn, kBreak, kContinue };

Value loop_at(const Items& items, size_t i) {
  const auto number = [](size_t n) { return Value(static_cast<int64_t>(n)); };
  const size_t count = items.size();
  Fields loop;
  loop.set("index", number(i + 1));
  loop.set("index0", number(i));
  loop.set("revindex", number(count - i));
  loop.set("revindex0", number(count - i - 1));
  loop.set("first", Value(i == 0));
  loop.set("last", Value(i + 1 == count));
  loop.set("length", number(count));
  loop.set("depth", number(1));
  loop.set("depth0", number(0));
  if (i > 0) loop.set("previtem", items[i - 1]);
  if (i + 1 < count) loop.set("nextitem", items[i + 1]);
  return Value(std::move(loop), Value::Kind::kLoop);
}

class Renderer : private jinja::Evaluator {
 public:
  Renderer(const std::string& name, const OrderedJson& variables) : Evaluator(name, variables) {}
  Flow run(const std::vector<Statement>& statements) {
    for (const Statement& s : statements)
      if (const Flow flow = run(s); flow != Flow::kOn) return flow;
    return Flow::kOn;
  }
  std::string text() { return std::move(out_); }

 private:
  Flow run(const Statement& s) {
    return at(s.line, [&] { return step(s); });
  }
  Flow step(const Statement& s) {
    switch (s.kind) {
      case Statement::Kind::kText:
        out_ += s.text;
        return Flow::kOn;
      case Statement::Kind::kOutput:
        return output(s, value(*s.a));
      case Statement::Kind::kIf:
        return run(jinja::truth(value(*s.a)) ? s.body : s.otherwise);
      case Statement::Kind::kFor:
        return loop(s);
      case Statement::Kind::kSet:
        return s.a ? set(s, value(*s.a)) : set_block(s);
      case Statement::Kind::kMacro:
        if (scopes_.size() > 1) fail(s.line, "a macro within a loop, a block or a macro");
        scopes_[0].erase(s.text);
        macros_[s.text] = &s;
        return Flow::kOn;
      case Statement::Kind::kScope: {
        Scope scope;
        for (const auto& [name, part] : s.parameters) scope.insert_or_assign(name, value(*part));
        return run_in(std::move(scope), s.body);
      }
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kOn;
  }
  Flow output(const Statement& s, const Value& v) {
    if (!s.text.empty() && !v.is_text()) fail(s.line, s.text + " that gives " + kind_name(v));
    out_ += jinja::printed(v);
    return Flow::kOn;
  }
  Flow run_in(Scope scope, const std::vector<Statement>& body) {
    scopes_.push_back(std::move(scope));
    const Flow flow = run(body);
    scopes_.pop_back();
    return flow;
  }
  Flow loop(const Statement& s) {
    const Items all = value(*s.a).elements("a loop over");
    std::vector<bool> kept;
    for (const Value& one : all) kept.push_back(holds(s, one));
    Items items;
    for (size_t i = 0; i < all.size(); ++i)
      if (kept[i]) items.push_back(all[i]);
    bool whole = false;  // whether an item went through the body to its end: if not, `else` is run
    for (size_t i = 0, place = 0; i < all.size(); ++i) {
      // Jinja2 asks some time between: what it sees is certain where both answers are the same.
      if (i > 0 && holds(s, all[i]) != kept[i])
        fail(s.line, "a loop's condition that changes while the loop runs");
      if (!kept[i]) continue;
      Scope scope = {{"loop", loop_at(items, place++)}};
      assign(s, all[i], scope);
      const Flow flow = run_in(std::move(scope), s.body);
      if (flow == Flow::kBreak) break;
      whole = whole || flow == Flow::kOn;
    }
    return whole ? Flow::kOn : run_in({}, s.otherwise);
  }
  // Whether the loop's condition holds for an item; `loop` is that of a loop around it there.
  bool holds(const Statement& s, const Value& one) {
    if (!s.b) return true;
    Scope scope;
    assign(s, one, scope);
    scopes_.push_back(std::move(scope));
    const bool result = jinja::truth(value(*s.b));
    scopes_.pop_back();
    return result;
  }
  // The value, or its items, as the statement's names.
  void assign(const Statement& s, const Value& v, Scope& scope) const {
    if (s.names.size() == 1) {
      scope.insert_or_assign(s.names[0], v);
      return;
    }
    const Items items = v.elements("several variables for");
    if (items.size() != s.names.size())
      fail(s.line, str(s.names.size(), " variables for ", items.size(), " values"));
    for (size_t i = 0; i < items.size(); ++i) scope.insert_or_assign(s.names[i], items[i]);
  }
  Flow set(const Statement& s, const Value& v) {
    if (!s.names.empty()) {
      assign(s, v, scopes_.back());
      return Flow::kOn;
    }
    Value* space = find(s.text);
    if (space == nullptr || !space->is(Value::Kind::kNamespace))
      fail(s.line, s.text + "." + s.field + " set, and " + s.text + " is no namespace");
    if (s.field.starts_with('_')) fail(s.line, "the field " + s.field + " of a namespace");
    space->fields().set(Value(s.field), v);
    return Flow::kOn;
  }
  Flow set_block(const Statement& s) {
    std::string outer = std::exchange(out_, {});
    const Flow flow = run_in({}, s.body);
    const Value v(std::exchange(out_, std::move(outer)));
    return flow == Flow::kOn ? set(s, v) : flow;
  }
  // It sees its parameters and what the whole template sees.
  std::string expanded(const Statement& macro, Scope given) override {
    if (++calls_ > kMostCalls)
      fail(macro.line, str("more than ", kMostCalls, " macros in each other"));
    std::vector<Scope> outer;
    outer.push_back(std::move(scopes_[0]));
    outer.swap(scopes_);
    scopes_.push_back(std::move(given));
    std::string before = std::exchange(out_, {});
    for (const auto& [name, fallback] : macro.parameters)
      if (!scopes_[1].contains(name))
        scopes_[1].emplace(name, fallback ? value(*fallback) : Value());
    run(macro.body);
    outer[0] = std::move(scopes_[0]);
    scopes_ = std::move(outer);
    --calls_;
    return std::exchange(out_, std::move(before));
  }

  int calls_ = 0;
  std::string out_;
};

}  // namespace

JinjaTemplate::JinjaTemplate(const std::string& source, std::string name)
    : name_(std::move(name)), statements_(jinja::parse(source, name_)) {}

std::string JinjaTemplate::render(const OrderedJson& variables) const {
  Renderer renderer(name_, variables);
  renderer.run(statements_);
  return renderer.text();
}

}  // namespace nestling
