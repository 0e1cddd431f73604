// jinja_methods.h - what Python's types have by themselves: text.strip(), dictionary.items(), ...
#pragma once
#include <string>

#include "runtime/jinja_arguments.h"

namespace nestling::jinja {

// Whether Python's type has an attribute of this name, which comes before a field.
bool has_attribute(const Value& of, const std::string& name);
Value call_method(const std::string& name, const Value& of, const Arguments& arguments);

}  // namespace nestling::jinja
