#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"
#include "tools/profile.h"

namespace nestling {

namespace {

struct ProfileCommand : ModelOptions {
  std::string out;
  std::vector<std::string> widths;
  ProfileOptions profile;
};

// "100%,75%,50%" as shares.
std::vector<double> shares_of(const std::vector<std::string>& widths) {
  std::vector<double> shares;
  for (const std::string& text : widths) {
    const WrittenWidth width = parse_width(text, "profile --widths");
    const double share = width.value / 100;
    const bool falls = shares.empty() ? share == 1 : share > 0 && share < shares.back();
    NESTLING_CHECK_INPUT(width.percent && falls, "profile --widths: '", text,
                         "', needs shares that fall from 100%, as 100%,75%,50%");
    shares.push_back(share);
  }
  return shares;
}

int run_profile(ProfileCommand& o) {
  o.apply();
  if (!o.widths.empty()) o.profile.shares = shares_of(o.widths);
  LoadedModel model(o.model, o.precision(), "", o.device());
  Context ctx(o.device());
  o.profile.say = [](const std::string& text) {
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  };
  const LatencyTable table = profile_model(ctx, model, o.profile);
  const Json json = latency_json(table);
  write_json(o.out, json);
  std::printf("%s\n%s\n", latency_text(table).c_str(), o.out.c_str());
  if (o.json) std::printf("%s\n", dump_json(json, -1).c_str());
  return 0;
}

}  // namespace

void add_profile_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand(
      "profile", "Measure decoding steps at many widths: the table of a budget in milliseconds");
  auto o = std::make_shared<ProfileCommand>();
  o->add_to(*command);
  command->remove_option(command->get_option("--size"));  // all of them
  command->add_option("--out", o->out, "File to make, for elastic.sizes: target: profile")
      ->required();
  command
      ->add_option("--context", o->profile.context,
                   "Tokens in the caches of every sequence, as the last timed step finds them")
      ->check(CLI::Range(kLeastContext, int64_t{1} << 24))
      ->capture_default_str();
  command->add_option("--batch", o->profile.batch, "Sequences that decode together")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command
      ->add_option("--widths", o->widths, "Shares of every axis to measure (default: 100%,75%,50%)")
      ->delimiter(',');
  command->add_option("--seconds", o->profile.seconds, "How long to measure; at least three rounds")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", o->json, "Print the table as one JSON object, last");
  in_one_process(*command, exit_code, [o] { return run_profile(*o); });
}

}  // namespace nestling
