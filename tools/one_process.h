// one_process.h - the callback of a command that does not share its work among ranks: several would each do all of it.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>

#include "kernels/comm/mpi_world.h"

namespace nestling {

// exit_code becomes what `body` returns; 2, with a line from rank 0, where a launcher started several processes.
inline void in_one_process(CLI::App& command, int& exit_code, std::function<int()> body) {
  command.callback([&command, &exit_code, body = std::move(body)] {
    const LaunchedRank launched = launched_rank();
    const CLI::App* group = command.get_parent();
    if (launched.size > 1 && launched.rank == 0)
      std::fprintf(stderr,
                   "nestling: %s%s: started as %d ranks, but shares no work among them; run it "
                   "without a launcher\n",
                   group->get_parent() != nullptr ? (group->get_name() + " ").c_str() : "",
                   command.get_name().c_str(), launched.size);
    exit_code = launched.size > 1 ? 2 : body();
  });
}

}  // namespace nestling
