#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "runtime/model_fit.h"
#include "tools/commands.h"
#include "tools/one_process.h"
#include "tools/set_option.h"
#include "trainer/run/plan.h"
#include "trainer/yaml_tree.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

struct PlanOptions {
  std::string what, cluster;
  std::vector<std::string> set, cluster_set;
  int64_t context = 0;  // 0: that of FitOptions
  bool reference = false, json = false;
};

bool is_config(const fs::path& path) {
  return !fs::is_directory(path) && (path.extension() == ".yaml" || path.extension() == ".yml");
}

// Of an elastic run, not of pretraining: it has what only such a config has.
bool is_elastic_run(const fs::path& file, const std::vector<std::string>& overrides) {
  YamlNode root = read_yaml(file);
  for (const std::string& assignment : overrides) apply_override(root, assignment);
  for (const char* key : {"parent", "elastic", "curriculum"})
    if (root.find(key) != nullptr) return true;
  return false;
}

int plan_config(const PlanOptions& o) {
  NESTLING_CHECK_INPUT(!o.cluster.empty(), "plan ", o.what,
                       ": a config needs --cluster FILE, such as configs/clusters/h100-8.yaml");
  NESTLING_CHECK_INPUT(o.context == 0, "plan ", o.what, ": a config; --context is for a model");
  // A cluster's ranks run on its devices, whatever this machine has.
  std::vector<std::string> set = {"device=cuda"};
  set.insert(set.end(), o.set.begin(), o.set.end());
  const ClusterConfig cluster = read_cluster(o.cluster, o.cluster_set);
  const Plan plan = is_elastic_run(o.what, set)
                        ? plan_run(read_run_config(o.what, set), cluster)
                        : plan_run(read_pretrain_config(o.what, set), cluster);
  std::printf("%s", o.json ? (plan_json(plan) + "\n").c_str() : plan_text(plan).c_str());
  return 0;
}

int plan_model(const PlanOptions& o) {
  NESTLING_CHECK_INPUT(o.set.empty(), "plan ", o.what, ": a model; --set is for a config");
  FitOptions options{.cards = usual_cards()};
  if (o.context > 0) options.context = o.context;
  if (!o.cluster.empty()) {
    const ClusterConfig cluster = read_cluster(o.cluster, o.cluster_set);
    options.cards = {{.name = cluster.device.name, .bytes = cluster.usable_bytes()}};
  }
  const std::vector<ModelFit> fits = fit_model(o.what, options);
  std::printf("%s",
              o.json ? (fit_json(fits, options) + "\n").c_str() : fit_text(fits, options).c_str());
  return 0;
}

}  // namespace

void add_plan_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "plan",
      "A run on a cluster that is not here: memory, time, cost; what of a model fits where");
  auto o = std::make_shared<PlanOptions>();
  auto* what = command->add_option("CONFIG|MODEL", o->what,
                                   "YAML file of a run or of pretraining; or an elastic .h5 or a "
                                   "Hugging Face directory");
  auto* cluster = command->add_option("--cluster", o->cluster,
                                      "YAML file of the cluster; of a MODEL the device it has");
  command->add_option("--cluster-set", o->cluster_set, "Override in the cluster's file: a.b=value")
      ->allow_extra_args(false)
      ->needs(cluster);
  add_set_option(*command, o->set);
  command
      ->add_option("--context", o->context, "Of a MODEL: tokens of each sequence that runs at once")
      ->default_str(str(FitOptions{}.context))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  command->add_flag("--help-cluster", o->reference, "Print every key of a cluster's file and end");
  command->add_flag("--json", o->json, "Print one JSON object");
  in_one_process(*command, exit_code, [o, what] {
    if (o->reference) {
      std::printf("%s", cluster_reference().c_str());
      return 0;
    }
    NESTLING_CHECK_INPUT(what->count() == 1, "plan: CONFIG or MODEL is needed");
    return is_config(o->what) ? plan_config(*o) : plan_model(*o);
  });
}

}  // namespace nestling
