#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "kernels/core/parallel.h"
#include "runtime/verify.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct VerifyOptions {
  std::string model;
  int threads = 0;
  bool json = false;
};

int verify(const VerifyOptions& o) {
  if (o.threads > 0) set_thread_count(o.threads);
  Context ctx(Device::kCpu);
  bool ok = true;
  Json checks = Json::array();
  for (const Check& c : verify_model(ctx, o.model)) {
    ok = ok && c.ok;
    checks.push_back({{"name", c.name}, {"ok", c.ok}, {"detail", c.detail}});
    if (!o.json)
      std::printf("%-10s %-6s %s\n", c.name.c_str(), c.ok ? "ok" : "FAILED", c.detail.c_str());
  }
  if (o.json) std::printf("%s\n", dump_json(Json{{"ok", ok}, {"checks", checks}}, -1).c_str());
  return ok ? 0 : 1;
}

}  // namespace

void add_verify_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "verify", "Checksums, nested sizes, slices against cuts, budgets; exit 1 if one fails");
  auto o = std::make_shared<VerifyOptions>();
  command->add_option("MODEL", o->model, kModelHelp)->required();
  command->add_option("--threads", o->threads, "Threads (default: all)")->check(kThreadRange);
  command->add_flag("--json", o->json, "Print one JSON object");
  in_one_process(*command, exit_code, [o] { return verify(*o); });
}

}  // namespace nestling
