// jinja_arguments.h - the arguments of a call in a chat template, bound as Python binds them.
#pragma once
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/jinja_value.h"

namespace nestling::jinja {

struct Arguments {
  Items list = {};
  std::vector<std::pair<std::string, Value>> named = {};
};

// One for each of `names`, in their order; empty: not given. Refused: too many, one that is not known or
// given twice, fewer than `needed`. `what` stands in messages.
using Bound = std::vector<std::optional<Value>>;
Bound bound(const std::string& what, const Arguments& arguments,
            std::initializer_list<const char*> names, size_t needed = 0);

// Of one that is bound; `fallback` where it is not given.
bool flag_of(const std::optional<Value>& argument, bool fallback);
const std::string& text_of(const Value& argument,
                           const std::string& what);               // refuses what is no text
int64_t whole_of(const Value& argument, const std::string& what);  // no integer

}  // namespace nestling::jinja
