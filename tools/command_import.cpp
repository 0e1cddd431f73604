#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/mapped_file.h"
#include "model/huggingface.h"
#include "runtime/import_directory.h"
#include "runtime/inspect.h"
#include "tools/commands.h"
#include "tools/one_process.h"
#include "trainer/widths_file.h"

namespace nestling {

namespace {

struct ImportCommand {
  std::string directory, widths, out, precision;
  bool json = false, reference = false;
};

// A line every ten seconds.
std::function<void(int64_t, int64_t)> progress_lines() {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  return [start, said = start](int64_t done, int64_t all) mutable {
    constexpr std::chrono::seconds kEvery{10};
    const Clock::time_point now = Clock::now();
    if (now - said < kEvery) return;
    said = now;
    const double share = static_cast<double>(done) / static_cast<double>(all);
    const double seconds = std::chrono::duration<double>(now - start).count();
    std::fprintf(stderr, "importing: %.0f%% of %lld parameters, %.0f s left\n", 100 * share,
                 static_cast<long long>(all), seconds * (1 - share) / share);
  };
}

void print_sizes(const ImportCommand& o, const Json& made,
                 const std::vector<std::string>& rounded) {
  if (!rounded.empty())
    std::printf("note: rounded to BF16: %zu tensors, the first %s\n", rounded.size(),
                rounded.front().c_str());
  for (const Json& s : made["sizes"])
    std::printf("%s: %lld parameters, %lld active (%.1f%%)\n", s["name"].get<std::string>().c_str(),
                static_cast<long long>(s["params_total"].get<int64_t>()),
                static_cast<long long>(s["params_active"].get<int64_t>()),
                100 * s["budget"].get<double>());
  std::printf("%s, %zu sizes in %s, no router: %s\n", o.directory.c_str(), made["sizes"].size(),
              made["precision"].get<std::string>().c_str(), o.out.c_str());
}

int import_model(const ImportCommand& o) {
  NESTLING_CHECK_INPUT(!o.directory.empty(), "import: DIR is missing");
  NESTLING_CHECK_INPUT(!o.widths.empty(), "import: --widths is missing");
  NESTLING_CHECK_INPUT(!o.out.empty(), "import: --out is missing");
  ImportOptions options{
      .sizes = {}, .precision = {}, .provenance = {}, .progress = progress_lines()};
  if (!o.precision.empty())
    options.precision = o.precision == "fp32" ? StoredType::kF32 : StoredType::kBF16;
  const WidthsFile widths = read_widths_file(o.widths);
  options.sizes = sizes_of(widths, read_weights_config(o.directory), o.widths);
  options.provenance = {{"made_by", "nestling import: sizes as written, nothing was trained"},
                        {"widths", std::string(MappedFile(o.widths).text())}};
  const std::vector<std::string> rounded = import_directory(o.directory, o.out, options);
  const Json made = inspect_model(o.out);
  if (o.json)
    std::printf("%s\n", dump_json(made, -1).c_str());
  else
    print_sizes(o, made, rounded);
  return 0;
}

}  // namespace

void add_import_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "import", "A directory that is elastic already, with its sizes, into one elastic file");
  auto o = std::make_shared<ImportCommand>();
  command->add_option("DIR", o->directory,
                      "A Hugging Face directory whose weights are in importance order");
  command->add_option("--widths", o->widths, "YAML: the sizes and their widths");
  command->add_option("--out", o->out, "File to make");
  command
      ->add_option("--precision", o->precision,
                   "bf16 or fp32 (default: bf16, where that rounds nothing)")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  command->add_flag("--json", o->json, "Print of the file what inspect --json prints");
  command->add_flag("--help-config", o->reference, "Print every key of the widths and end");
  in_one_process(*command, exit_code, [o] {
    if (!o->reference) return import_model(*o);
    std::printf("%s", widths_file_reference().c_str());
    return 0;
  });
}

}  // namespace nestling
