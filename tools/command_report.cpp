#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/commands.h"
#include "trainer/run/report.h"

namespace nestling {

void add_report_command(CLI::App& app, int& exit_code) {
  auto* command =
      app.add_subcommand("report", "A run folder as one self-contained HTML page with figures");
  auto dir = std::make_shared<std::string>();
  command->add_option("RUN_DIR", *dir, "Folder of the run; report.html is written there")
      ->required();
  command->callback([dir, &exit_code] {
    std::printf("%s\n", write_report(*dir).c_str());
    exit_code = 0;
  });
}

}  // namespace nestling
