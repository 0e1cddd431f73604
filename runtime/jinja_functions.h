// jinja_functions.h - the filters, tests and methods of runtime/jinja.h on values; used by it alone.
//
// Errors        Refused where the name is not known or the value not of the kind it needs; jinja.cpp adds
//               template and line.
#pragma once
#include <string>
#include <vector>

#include "data/json.h"

namespace nestling::jinja {

struct Refused {
  std::string what;
};

Json undefined();
bool is_undefined(const Json& value);
bool truth(const Json& value);                    // as an `if` sees it
std::string printed(const Json& value);           // as {{ }} prints it
bool contains(const Json& all, const Json& one);  // one in all

Json apply_filter(const std::string& name, const Json& value, const std::vector<Json>& arguments);
bool apply_test(const std::string& name, const Json& value);
bool is_method(const std::string& name, const Json& value);  // whether Python's type has it
Json call_method(const std::string& name, const Json& value, const std::vector<Json>& arguments);
Json apply_binary(const std::string& op, const Json& a, const Json& b);  // all but and, or

}  // namespace nestling::jinja
