// jinja_operators.h - the operators of runtime/jinja.h on values, as Python has them.
//
// Numbers       integers of 64 bits: what overflows is refused; fractions are float64.
// Errors        Refused where the values are not of a kind that has the operator.
#pragma once
#include <optional>
#include <string>

#include "runtime/jinja_value.h"

namespace nestling::jinja {

Value unary(const std::string& op, const Value& of);                   // + -
Value binary(const std::string& op, const Value& a, const Value& b);   // + - * / // % ~
bool compares(const std::string& op, const Value& a, const Value& b);  // == != < <= > >= in, not in
Value item(const Value& of, const Value& key);                         // of[key]
Value field(const Value& of, const std::string& name);                 // of.name
// of[begin:end:step]; none: open.
Value slice(const Value& of, const Value& begin, const Value& end, const Value& step);

}  // namespace nestling::jinja
