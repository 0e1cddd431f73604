// dry_run_options.h - --dry-run of the commands that take a config, and what it prints.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdio>

#include "kernels/comm/mpi_world.h"
#include "trainer/run/dry_run.h"

namespace nestling {

struct DryRunOptions {
  bool on = false;
  int ranks = 1;
  bool json = false;
};

inline void add_dry_run_options(CLI::App& command, DryRunOptions& o) {
  auto* on =
      command.add_flag("--dry-run", o.on,
                       "Print shapes, work, collectives and memory of the steps; compute nothing");
  command.add_option("--ranks", o.ranks, "Of the run that --dry-run is about (default: 1)")
      ->needs(on)
      ->check(CLI::PositiveNumber);
  command.add_flag("--json", o.json, "With --dry-run: print one JSON object as the last line")
      ->needs(on);
}

// dry(ranks) takes the steps of a config.
template <class Dry>
void print_dry_run(const DryRunOptions& o, const Dry& dry) {
  NESTLING_CHECK_INPUT(
      !launched_as_rank(),
      "--dry-run: runs alone, not under a launcher; --ranks says how many there are");
  const DryRun run = dry(o.ranks);
  if (o.json)
    std::printf("%s\n", dry_run_json(run).c_str());
  else
    std::printf("%s", dry_run_text(run).c_str());
}

}  // namespace nestling
