// jinja_tests.h - the tests of chat templates: `value is name`.
#pragma once
#include <string>

#include "runtime/jinja_arguments.h"

namespace nestling::jinja {

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments);

}  // namespace nestling::jinja
