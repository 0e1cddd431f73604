// jinja_evaluator.h - the expressions of a chat template evaluated; runtime/jinja.cpp runs the statements.
//
// Scopes        names to values, the innermost last; the first holds what the whole template sees.
// Errors        kInput naming template and line.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "runtime/jinja_arguments.h"
#include "runtime/jinja_parser.h"

namespace nestling::jinja {

class Evaluator {
 public:
  virtual ~Evaluator() = default;

 protected:
  using Scope = std::map<std::string, Value>;
  Evaluator(const std::string& name, const OrderedJson& variables);

  Value value(const Expression& e);
  // The text of a macro whose parameters have these values; those not given are not in there.
  virtual std::string expanded(const Statement& macro, Scope given) = 0;
  [[noreturn]] void fail(int line, const std::string& what) const {
    jinja::fail(name_, line, what);
  }
  // fn(), which may refuse, at this line.
  template <class Fn>
  auto at(int line, const Fn& fn) const {
    try {
      return fn();
    } catch (const Refused& r) {
      fail(line, r.what);
    }
  }
  Value* find(const std::string& name);  // null: no variable

  std::vector<Scope> scopes_;
  std::map<std::string, const Statement*> macros_;

 private:
  Value computed(const Expression& e);
  Value named(const std::string& name);
  Value dict(const Expression& e);
  Value call(const Expression& e);
  Value called(const std::string& name, const Arguments& given);
  Scope bound_to(const Statement& macro, const Arguments& given) const;
  bool compared(const Expression& e);
  bool tested(const Expression& e);
  bool is_function(const std::string& name) const;
  Value part(const Part& p);  // none where it is left out
  Arguments arguments(const Expression& e);

  const std::string& name_;
};

}  // namespace nestling::jinja
