// nestling.cpp - the program: parses the command line, runs one subcommand, reports what failed.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>

#include "kernels/core/check.h"
#include "kernels/core/versions.h"
#include "tools/commands.h"

namespace {

// The name given in place of a command; empty: none was.
std::string unknown_command(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  const std::vector<std::string> rest = app.remaining(true);
  if (at->get_require_subcommand_min() == 0 || rest.empty() || rest.front().starts_with('-'))
    return "";
  return nestling::str("no command is named '", rest.front(),
                       "'; those there are: ", at == &app ? "" : "nestling ", at->get_name(),
                       " --help");
}

int run(int argc, char** argv) {
  CLI::App app("Elastic distillation: train one model, run every size inside it.", "nestling");
  app.require_subcommand(1);
  app.set_version_flag("--version", nestling::version_text,
                       "Print the version and what it was built with");
  int exit_code = 0;
  for (const auto add : nestling::kCommands) add(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    constexpr int kBadUsage = 2;
    if (const std::string unknown = unknown_command(app);
        e.get_exit_code() != 0 && !unknown.empty()) {
      std::fprintf(stderr, "nestling: %s\n", unknown.c_str());
      return kBadUsage;
    }
    return app.exit(e) == 0 ? 0 : kBadUsage;  // 0: --help, --version
  }
  return exit_code;
}

// What was printed is on its way, or the command has failed.
int printed(int exit_code) {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
  std::fprintf(stderr, "nestling: cannot write to standard output: %s\n", std::strerror(errno));
  return exit_code != 0 ? exit_code : static_cast<int>(nestling::ErrorKind::kRuntime);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return printed(run(argc, argv));
  } catch (const nestling::Error& e) {
    std::fprintf(stderr, "nestling: %s\n", e.what());
    return static_cast<int>(e.kind());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "nestling: %s\n", e.what());
    return static_cast<int>(nestling::ErrorKind::kRuntime);
  }
}
