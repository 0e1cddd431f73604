#include <CLI/CLI.hpp>

#include "kernels/comm/mpi_world.h"
#include "tools/commands.h"
#include "tools/dry_run_options.h"
#include "tools/set_option.h"
#include "trainer/run/elastic_run.h"

namespace nestling {

namespace {

struct RunOptions {
  std::string config;
  std::vector<std::string> set;
  bool reference = false;
  bool change_config = false;
  DryRunOptions dry;
};

void add_stages(CLI::App& app, int& exit_code, const char* name, const char* meaning,
                LastStage last) {
  auto* command = app.add_subcommand(name, meaning);
  auto o = std::make_shared<RunOptions>();
  auto* config = command->add_option("CONFIG", o->config, "YAML file of the run");
  add_set_option(*command, o->set);
  command->add_flag("--change-config", o->change_config,
                    "Resume although the config differs from the checkpoint's");
  command->add_flag("--help-config", o->reference, "Print every config key and end");
  add_dry_run_options(*command, o->dry);
  command->callback([o, config, last, name, &exit_code] {
    if (o->reference) {
      std::printf("%s", run_config_reference().c_str());
      return;
    }
    NESTLING_CHECK_INPUT(config->count() == 1, name, ": CONFIG is missing");
    if (o->dry.on)
      return print_dry_run(o->dry, [&](int ranks) {
        const RunConfig run = read_run_config(o->config, o->set);
        return last == LastStage::kImportance ? dry_run_importance(run, ranks)
                                              : dry_run(run, ranks);
      });
    exit_code = run_on_ranks([&](Comm& comm) {
      return elastic_run(read_run_config(o->config, o->set), comm,
                         o->change_config ? ConfigChange::kAllowed : ConfigChange::kRefused, last);
    });
  });
}

}  // namespace

void add_run_commands(CLI::App& app, int& exit_code) {
  add_stages(app, exit_code, "run",
             "From a parent to one elastic checkpoint: importance, distillation, evaluation",
             LastStage::kReport);
  add_stages(app, exit_code, "importance", "The first stage of a run: scores of every unit",
             LastStage::kImportance);
  add_stages(app, exit_code, "train", "A run up to its elastic checkpoint, without the evaluation",
             LastStage::kTraining);
}

}  // namespace nestling
