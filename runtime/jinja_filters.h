// jinja_filters.h - the filters of chat templates: `value | name(...)`, as Jinja2 has them; tojson as
// transformers has it.
//
// Errors        Refused where the name is not known or the value not of the kind it needs.
#pragma once
#include <optional>
#include <string>

#include "runtime/jinja_arguments.h"

namespace nestling::jinja {

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments);
// The filters that give, order or choose items (runtime/jinja_item_filters.cpp); none: `name` is no such one.
std::optional<Value> apply_item_filter(const std::string& name, const Value& value,
                                       const Arguments& arguments);

}  // namespace nestling::jinja
