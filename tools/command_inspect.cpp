#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/gguf_reader.h"
#include "model/elastic_file.h"
#include "runtime/inspect.h"
#include "runtime/model_card.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct InspectOptions {
  std::string model, size;
  bool json = false;
};

void print_size(const Json& s) {
  const auto number = [&](const char* key) {
    return s[key].is_null() ? std::string("-") : std::to_string(s[key].get<int64_t>());
  };
  const std::string budget =
      s["budget"].is_null() ? "-" : str(100 * s["budget"].get<double>(), "%");
  std::printf("%-12s %14s %14s %14s %14s %8s%s\n", s["name"].get<std::string>().c_str(),
              number("params_total").c_str(), number("params_active").c_str(),
              number("bytes").c_str(), number("bytes_read").c_str(), budget.c_str(),
              s["trained"].get<bool>() ? "" : "  not trained by itself");
}

void print_widths(const Json& found, const InspectOptions& o) {
  const ModelConfig config = read_elastic_header(o.model).model.config;
  for (const Json& s : found["sizes"]) {
    const Size size = find_elastic_size(o.model, s["name"].get<std::string>());
    std::printf("%s: %s\n", size.name.c_str(), widths_text(config, size.widths).c_str());
    if (is_limit(size.target.kind))
      std::printf("%s: costs %g %s\n", size.name.c_str(), s["cost"].get<double>(),
                  s["target_terms"].get<std::string>().c_str());
  }
}

void print_measured(const Json& found) {
  bool any = false;
  for (const Json& s : found["sizes"]) {
    const Json& m = s["measured"];
    if (m.is_null()) continue;
    if (!any)
      std::printf("measured by the run that made it:\n%-12s %12s %10s %10s %10s %10s %10s\n",
                  "size", "KL to parent", "loss", "tokens", "accuracy", "problems", "products");
    any = true;
    const auto number = [&](const char* key, double scale, int digits, const char* unit) {
      if (m[key].is_null()) return std::string("-");
      char text[64];
      std::snprintf(text, sizeof text, "%.*f%s", digits, scale * m[key].get<double>(), unit);
      return std::string(text);
    };
    std::printf("%-12s %12s %10s %10s %10s %10s %10s\n", s["name"].get<std::string>().c_str(),
                number("kl_to_parent", 1, 5, "").c_str(), number("nll", 1, 5, "").c_str(),
                number("tokens", 1, 0, "").c_str(), number("accuracy", 100, 1, "%").c_str(),
                number("problems", 1, 0, "").c_str(), m["compute"].get<std::string>().c_str());
  }
  if (!any)
    std::printf("quality: not measured by what made the file (nestling eval measures it)\n");
}

void print_table(const Json& found, const InspectOptions& o) {
  std::printf("%-12s %14s %14s %14s %14s %8s\n", "size", "parameters", "active", "bytes",
              "read to open", "budget");
  for (const Json& s : found["sizes"]) print_size(s);
  std::printf("stored as %s", found["precision"].get<std::string>().c_str());
  if (!found["unquantized"].is_null())
    std::printf(", what is not quantized %s", found["unquantized"].get<std::string>().c_str());
  std::printf("\n");
  const bool elastic = !std::filesystem::is_directory(o.model) && !is_gguf(o.model);
  if (elastic && !found["router"].get<bool>())
    std::printf("no router: sizes are asked for by name, not by budget\n");
  if (elastic) print_measured(found);
  if (elastic) print_widths(found, o);
  const Json& provenance = found["provenance"];
  for (const auto& [key, text] : provenance.items())
    if (text.get<std::string>().find('\n') == std::string::npos)
      std::printf("%s: %s\n", key.c_str(), text.get<std::string>().c_str());
}

int inspect(const InspectOptions& o) {
  const Json found = inspect_model(o.model, o.size);
  if (o.json)
    std::printf("%s\n", dump_json(found, -1).c_str());
  else
    print_table(found, o);
  return 0;
}

}  // namespace

void add_inspect_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "inspect", "Sizes of a model: widths, parameters, bytes, what opening one reads");
  auto o = std::make_shared<InspectOptions>();
  command->add_option("MODEL", o->model, kModelHelp)->required();
  command->add_option("--size", o->size, "One size alone, by name or budget (65%)");
  command->add_flag("--json", o->json, "Print one JSON object");
  in_one_process(*command, exit_code, [o] { return inspect(*o); });
}

}  // namespace nestling
