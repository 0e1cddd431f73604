#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/elastic_file.h"
#include "runtime/inspect.h"
#include "runtime/model_card.h"
#include "tools/commands.h"

namespace nestling {

namespace {

struct InspectOptions {
  std::string model;
  bool json = false;
};

void print_table(const Json& found, const std::string& model) {
  std::printf("%-12s %14s %14s %14s %8s\n", "size", "parameters", "active", "bytes", "budget");
  for (const Json& s : found["sizes"]) {
    const std::string budget =
        s["budget"].is_null() ? "-" : str(100 * s["budget"].get<double>(), "%");
    std::printf("%-12s %14lld %14lld %14lld %8s\n", s["name"].get<std::string>().c_str(),
                static_cast<long long>(s["params_total"].get<int64_t>()),
                static_cast<long long>(s["params_active"].get<int64_t>()),
                static_cast<long long>(s["bytes"].get<int64_t>()), budget.c_str());
  }
  std::printf("stored as %s\n", found["precision"].get<std::string>().c_str());
  if (std::filesystem::is_directory(model)) return;
  const ElasticModel elastic = read_elastic_header(model).model;
  for (const Size& s : elastic.sizes)
    std::printf("%s: %s\n", s.name.c_str(), widths_text(elastic.config, s.widths).c_str());
  for (const auto& [key, text] : elastic.provenance)
    if (text.find('\n') == std::string::npos) std::printf("%s: %s\n", key.c_str(), text.c_str());
}

int inspect(const InspectOptions& o) {
  const Json found = inspect_model(o.model);
  if (o.json)
    std::printf("%s\n", dump_json(found, -1).c_str());
  else
    print_table(found, o.model);
  return 0;
}

}  // namespace

void add_inspect_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("inspect", "Sizes of a model: widths, parameters, bytes");
  auto o = std::make_shared<InspectOptions>();
  command->add_option("MODEL", o->model, "An elastic .h5 or a Hugging Face directory")->required();
  command->add_flag("--json", o->json, "Print one JSON object");
  command->callback([o, &exit_code] { exit_code = inspect(*o); });
}

}  // namespace nestling
