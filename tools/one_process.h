// one_process.h - the callback of a command that does not share its work among ranks: several would each do all of it.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>

#include "kernels/comm/mpi_world.h"

namespace nestling {

// exit_code becomes what `body` returns. Where a launcher started several processes none runs it: rank 0 says so and ends
// with 2, which the launcher hands on; the others end with 0, as a rank that fails has the launcher end rank 0 unheard.
inline void in_one_process(CLI::App& command, int& exit_code, std::function<int()> body) {
  command.callback([&command, &exit_code, body = std::move(body)] {
    const LaunchedRank launched = launched_rank();
    if (launched.size == 1) {
      exit_code = body();
      return;
    }
    if (launched.rank != 0) return;
    const CLI::App* group = command.get_parent();
    std::fprintf(
        stderr,
        "nestling: %s%s: started as %s, but shares no work among them; run it without a "
        "launcher\n",
        group->get_parent() != nullptr ? (group->get_name() + " ").c_str() : "",
        command.get_name().c_str(),
        launched.size == 0 ? "one of several ranks" : str(launched.size, " ranks").c_str());
    exit_code = 2;
  });
}

}  // namespace nestling
