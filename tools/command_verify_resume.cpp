#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "kernels/comm/mpi_world.h"
#include "tools/commands.h"
#include "tools/set_option.h"
#include "trainer/run/verify_resume.h"
#include "trainer/stop_signal.h"

namespace nestling {

namespace {

struct ResumeOptions {
  std::string config;
  std::vector<std::string> set;
  std::optional<int64_t> steps;
  bool json = false;
};

Json proof_json(const ResumeProof& proof) {
  Json json = {{"ok", proof.ok()},
               {"steps", proof.steps},
               {"cuts", proof.cuts},
               {"frozen_after", nullptr},
               {"checks", Json::array()},
               {"covered", proof.covered},
               {"not_covered", proof.not_covered}};
  if (proof.frozen_after) json["frozen_after"] = *proof.frozen_after;
  for (const Check& c : proof.checks)
    json["checks"].push_back({{"name", c.name}, {"ok", c.ok}, {"detail", c.detail}});
  return json;
}

int verify_on_ranks(const ResumeOptions& o, Comm& comm) {
  const bool speaks = comm.rank() == 0;
  const ResumeProof proof =
      verify_resume(read_run_config(o.config, o.set), comm, o.steps, [&](const Check& c) {
        if (!speaks || o.json) return;
        std::printf("%-20s %-6s %s\n", c.name.c_str(), c.ok ? "ok" : "FAILED", c.detail.c_str());
        std::fflush(stdout);
      });
  if (speaks && o.json) std::printf("%s\n", dump_json(proof_json(proof), -1).c_str());
  if (speaks && !o.json) {
    for (const std::string& line : proof.covered) std::printf("covered: %s\n", line.c_str());
    for (const std::string& line : proof.not_covered)
      std::printf("NOT covered: %s\n", line.c_str());
    std::printf("verdict: a run of %lld steps, dropped and resumed %zu times, %s\n",
                static_cast<long long>(proof.steps), proof.cuts.size(),
                proof.ok() ? "ends in the same bits as in one go" : "DIFFERS from one in one go");
  }
  return proof.ok() ? 0 : 1;
}

}  // namespace

void add_verify_resume_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "verify-resume",
      "A run in one go against one dropped and resumed, bit for bit; exit 1 if they differ");
  auto o = std::make_shared<ResumeOptions>();
  command->add_option("CONFIG", o->config, "YAML file of the run")->required();
  add_set_option(*command, o->set);
  command->add_option("--steps", o->steps,
                      "Steps before the resume, and after it (default: half of the curriculum)");
  command->add_flag("--json", o->json, "Print one JSON object");
  command->callback([o, &exit_code] {
    exit_code = run_on_ranks([&](Comm& comm) {
      return unless_interrupted(comm, [&] { return verify_on_ranks(*o, comm); });
    });
  });
}

}  // namespace nestling
