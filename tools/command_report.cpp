#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/commands.h"
#include "tools/one_process.h"
#include "trainer/run/report.h"

namespace nestling {

void add_report_command(CLI::App& app, int& exit_code) {
  auto* command =
      app.add_subcommand("report", "A run folder as one self-contained HTML page with figures");
  auto dir = std::make_shared<std::string>();
  command->add_option("RUN_DIR", *dir, "Folder of the run; report.html is written there")
      ->required();
  in_one_process(*command, exit_code, [dir] {
    std::printf("%s\n", write_report(*dir).c_str());
    return 0;
  });
}

}  // namespace nestling
