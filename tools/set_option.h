// set_option.h - --set of the commands that take a config.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace nestling {

// One a.b=value each time it is said: what follows may be CONFIG.
inline void add_set_option(CLI::App& command, std::vector<std::string>& set) {
  command.add_option("--set", set, "Override: a.b=value")->allow_extra_args(false);
}

}  // namespace nestling
