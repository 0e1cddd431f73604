#include "runtime/jinja_arguments.h"

#include <algorithm>

namespace nestling::jinja {

Bound bound(const std::string& what, const Arguments& arguments,
            std::initializer_list<const char*> names, size_t needed) {
  const size_t count = arguments.list.size();
  if (count > names.size()) refuse(str(what, " with ", count, " arguments"));
  Bound all(names.size());
  std::copy(arguments.list.begin(), arguments.list.end(), all.begin());
  for (const auto& argument : arguments.named) {
    const auto at = std::find(names.begin(), names.end(), argument.first) - names.begin();
    if (at == std::ssize(all) || all[static_cast<size_t>(at)])
      refuse(what + " with the argument " + argument.first);
    all[static_cast<size_t>(at)] = argument.second;
  }
  const auto given = [](const auto& one) { return one.has_value(); };
  if (!std::all_of(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(needed), given))
    refuse(str(what, " with ", count, " arguments"));
  return all;
}

bool flag_of(const std::optional<Value>& argument, bool fallback) {
  return argument ? truth(*argument) : fallback;
}

const std::string& text_of(const Value& argument, const std::string& what) {
  if (!argument.is_text()) refuse(what + " of " + kind_name(argument));
  return argument.text();
}

int64_t whole_of(const Value& argument, const std::string& what) {
  if (!argument.is_whole()) refuse(what + " of " + kind_name(argument));
  return argument.integer();
}

}  // namespace nestling::jinja
