#include <CLI/CLI.hpp>

#include "kernels/comm/mpi_world.h"
#include "tools/commands.h"
#include "tools/dry_run_options.h"
#include "tools/set_option.h"
#include "trainer/pretrain.h"

namespace nestling {

namespace {

struct PretrainOptions {
  std::string config;
  std::vector<std::string> set;
  bool reference = false;
  bool change_config = false;
  DryRunOptions dry;
};

}  // namespace

void add_pretrain_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "pretrain", "Train a model from scratch, or on from a directory; resumes by itself");
  auto o = std::make_shared<PretrainOptions>();
  auto* config = command->add_option("CONFIG", o->config, "YAML file of the run");
  add_set_option(*command, o->set);
  command->add_flag("--change-config", o->change_config,
                    "Resume although the config differs from the checkpoint's");
  command->add_flag("--help-config", o->reference, "Print every config key and end");
  add_dry_run_options(*command, o->dry);
  command->callback([o, config, &exit_code] {
    if (o->reference) {
      std::printf("%s", pretrain_config_reference().c_str());
      return;
    }
    NESTLING_CHECK_INPUT(config->count() == 1, "pretrain: CONFIG is missing");
    if (o->dry.on)
      return print_dry_run(o->dry, [&](int ranks) {
        return dry_run(read_pretrain_config(o->config, o->set), ranks);
      });
    exit_code = run_on_ranks([&](Comm& comm) {
      return pretrain(read_pretrain_config(o->config, o->set), comm,
                      o->change_config ? ConfigChange::kAllowed : ConfigChange::kRefused);
    });
  });
}

}  // namespace nestling
