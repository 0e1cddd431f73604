#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/json.h"
#include "data/reasoning.h"
#include "runtime/evaluate.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/one_process.h"

namespace nestling {

namespace {

struct EvalOptions : ModelOptions {
  std::string parent;
  std::vector<std::string> data;
  std::vector<std::string> tasks;
  int64_t seq_len = 512;
  int64_t max_tokens = 65536;
  bool outcomes = false;
  ReasoningOptions reasoning;
};

// "reasoning" stands for all of its tasks.
std::vector<std::string> expand_tasks(const std::vector<std::string>& names) {
  std::vector<std::string> tasks;
  for (const std::string& name : names)
    if (name == "reasoning")
      tasks.insert(tasks.end(), reasoning::tasks().begin(), reasoning::tasks().end());
    else
      tasks.push_back(name);
  return tasks;
}

// A character a problem.
std::string bits_of(const std::vector<bool>& outcomes) {
  std::string bits;
  for (const bool right : outcomes) bits += right ? '1' : '0';
  return bits;
}

// What sizes are compared with; both empty without --parent.
struct Parent {
  std::optional<ParentStates> states;
  std::vector<TaskAccuracy> tasks;
};

// Of all tasks together.
void add_speed(Json& json, const TaskAccuracy& t, const ThinkingControl& control) {
  const double speed = static_cast<double>(t.tokens) / t.seconds;
  json["tokens"] = t.tokens;
  json["seconds"] = t.seconds;
  json["tokens_per_second"] = speed;
  std::printf("%-40s %lld tokens in %.2f s, %.0f tokens/s", "", static_cast<long long>(t.tokens),
              t.seconds, speed);
  if (control.any()) {
    json["thinking_tokens"] = t.thinking;
    json["tokens_run_again"] = t.again;
    std::printf("; %lld of thinking, %lld run again where the size changed",
                static_cast<long long>(t.thinking), static_cast<long long>(t.again));
  }
  std::printf("\n");
}

// "tasks" of the selected size, or of the pair in o.reasoning.control; prints their figures.
Json evaluate_tasks(Context& ctx, Comm& comm, LoadedModel& model, const Parent& parent,
                    const EvalOptions& o) {
  Json tasks = Json::object();
  const std::vector<TaskAccuracy> found = evaluate_reasoning(ctx, comm, model, o.reasoning);
  for (size_t i = 0; i < found.size(); ++i) {
    const TaskAccuracy& t = found[i];
    std::printf("%-40s accuracy %5.1f%%  95%% interval %5.1f to %5.1f  n %lld\n", t.task.c_str(),
                100 * t.accuracy.estimate, 100 * t.accuracy.low, 100 * t.accuracy.high,
                static_cast<long long>(t.n));
    Json& json = tasks[t.task];
    json = {
        {"accuracy", t.accuracy.estimate}, {"ci95", {t.accuracy.low, t.accuracy.high}}, {"n", t.n}};
    if (t.seconds > 0) add_speed(json, t, o.reasoning.control);
    if (o.outcomes) json["outcomes"] = bits_of(t.outcomes);
    if (!parent.states) continue;
    const Interval d = paired_difference(t, parent.tasks[i]);
    std::printf("%-40s against the parent %+5.1f points  paired 95%% interval %+5.1f to %+5.1f\n",
                "", 100 * d.estimate, 100 * d.low, 100 * d.high);
    json["minus_parent"] = {{"estimate", d.estimate}, {"ci95", {d.low, d.high}}};
  }
  return tasks;
}

// The selected size's entry of "sizes", nothing measured yet.
Json entry_of(const LoadedModel& model, const EvalOptions& o) {
  const ParameterCost cost = model.cost();
  Json size = {{"name", model.size()},
               {"trained", model.trained()},
               {"params_total", cost.total},
               {"params_active", cost.active},
               {"tokens", 0},
               {"cut", Json::array()},
               {"nll", nullptr},
               {"perplexity", nullptr},
               {"kl_to_parent", nullptr},
               {"tokens_per_second", nullptr},
               {"tasks", Json::object()}};
  if (o.reasoning.control.budget) size["think_budget"] = *o.reasoning.control.budget;
  return size;
}

// Prints the selected size's figures as they come.
Json evaluate_size(Context& ctx, Comm& comm, LoadedModel& model, const Parent& parent,
                   const EvalOptions& o) {
  Json size = entry_of(model, o);
  double nll = 0, kl = 0, seconds = 0;
  int64_t tokens = 0;
  for (const std::string& spec : o.data) {
    const TextLoss loss = evaluate_text(ctx, comm, model, spec,
                                        {.seq_len = o.seq_len,
                                         .max_tokens = o.max_tokens,
                                         .parent = parent.states ? &*parent.states : nullptr});
    std::printf("%-40s loss %.4f nats  perplexity %8.3f  %lld tokens  %.0f tokens/s\n",
                spec.c_str(), loss.nll, std::exp(loss.nll), static_cast<long long>(loss.tokens),
                static_cast<double>(loss.tokens) / loss.seconds);
    if (parent.states) std::printf("%-40s KL to the parent %.5f nats\n", "", loss.kl);
    if (loss.cut) {
      std::fprintf(stderr, "%s: cut at --max-tokens %lld\n", spec.c_str(),
                   static_cast<long long>(o.max_tokens));
      size["cut"].push_back(spec);
    }
    nll += loss.nll * static_cast<double>(loss.tokens);
    kl += loss.kl * static_cast<double>(loss.tokens);
    tokens += loss.tokens;
    seconds += loss.seconds;
  }
  if (tokens > 0) {
    size["tokens"] = tokens;
    size["nll"] = nll / static_cast<double>(tokens);
    size["perplexity"] = std::exp(nll / static_cast<double>(tokens));
    if (parent.states) size["kl_to_parent"] = kl / static_cast<double>(tokens);
    size["tokens_per_second"] = static_cast<double>(tokens) / seconds;
  }
  if (!o.tasks.empty()) size["tasks"] = evaluate_tasks(ctx, comm, model, parent, o);
  return size;
}

// The entry of a pair: parameters are those of its larger size, which is what has to be there.
Json evaluate_pair(Context& ctx, Comm& comm, LoadedModel& model, const Parent& parent,
                   EvalOptions o, const std::string& think, const std::string& answer) {
  o.reasoning.control.think = think;
  o.reasoning.control.answer = answer;
  const ThinkingSizes sizes = thinking_sizes(model, o.reasoning.control);
  model.select(sizes.think);
  const Json thinks = entry_of(model, o);
  model.select(sizes.answer);
  Json pair = entry_of(model, o);
  pair["name"] = sizes.think.name + ">" + sizes.answer.name;
  pair["think"] = sizes.think.name;
  pair["answer"] = sizes.answer.name;
  pair["trained"] = sizes.think.trained && sizes.answer.trained;
  for (const char* key : {"params_total", "params_active"})
    pair[key] = std::max(thinks[key].get<int64_t>(), pair[key].get<int64_t>());
  std::printf("size %s thinks, %s answers\n", sizes.think.name.c_str(), sizes.answer.name.c_str());
  pair["tasks"] = evaluate_tasks(ctx, comm, model, parent, o);
  return pair;
}

Json evaluate_pairs(Context& ctx, Comm& comm, LoadedModel& model, const Parent& parent,
                    const EvalOptions& o) {
  const auto named = [&](const std::string& size) {
    return size == "all" ? model.sizes() : std::vector{size};
  };
  Json pairs = Json::array();
  for (const std::string& think : named(o.reasoning.control.think))
    for (const std::string& answer : named(o.reasoning.control.answer))
      pairs.push_back(evaluate_pair(ctx, comm, model, parent, o, think, answer));
  return pairs;
}

Json evaluate_sizes(Context& ctx, Comm& comm, LoadedModel& model, const Parent& parent,
                    const EvalOptions& o) {
  Json sizes = Json::array();
  const bool all = o.size == "all";
  const std::vector<std::string> names = all ? model.sizes() : std::vector{model.size()};
  for (const std::string& name : names) {
    model.select(name);
    if (all) std::printf("size %s\n", name.c_str());
    if (!model.trained()) std::printf("size %s: not trained by itself\n", name.c_str());
    sizes.push_back(evaluate_size(ctx, comm, model, parent, o));
  }
  return sizes;
}

// What can be refused before the parent is measured, which may take long.
void check_model(const EvalOptions& o) {
  const std::filesystem::path file = o.model;
  NESTLING_CHECK_INPUT(std::filesystem::exists(file), o.model, ": not found");
  if (file.extension() == ".h5" && !o.size.empty() && o.size != "all")
    static_cast<void>(find_elastic_size(file, o.size));
}

// The parent is measured by itself, and is gone before the model comes.
Parent measured_parent(Context& ctx, Comm& comm, const EvalOptions& o) {
  Parent parent;
  if (o.parent.empty()) return parent;
  LoadedModel model(o.parent, o.precision(), "", o.device());
  parent.states.emplace(model);
  for (const std::string& spec : o.data)
    static_cast<void>(
        evaluate_text(ctx, comm, model, spec,
                      {.seq_len = o.seq_len, .max_tokens = o.max_tokens, .keep = &*parent.states}));
  ReasoningOptions asked = o.reasoning;
  asked.control = {.budget = o.reasoning.control.budget};  // the parent thinks as long
  if (!o.tasks.empty()) parent.tasks = evaluate_reasoning(ctx, comm, model, asked);
  return parent;
}

int run_eval(EvalOptions& o) {
  o.apply();
  const ThinkingControl& control = o.reasoning.control;
  NESTLING_CHECK_INPUT(!o.data.empty() || !o.tasks.empty(), "eval: needs --data or --tasks");
  NESTLING_CHECK_INPUT(!control.any() || !o.tasks.empty(),
                       "eval: --think, --answer and --think-budget need --tasks");
  NESTLING_CHECK_INPUT(!control.has_sizes() || o.data.empty(),
                       "eval: --think and --answer: nothing thinks in the text of --data ",
                       o.data.empty() ? "" : o.data.front());
  o.reasoning.tasks = expand_tasks(o.tasks);
  check_model(o);
  Context ctx(o.device());
  const auto comm = make_self_comm();
  const Parent parent = measured_parent(ctx, *comm, o);
  LoadedModel model(o.model, o.precision(), o.size == "all" ? "" : o.size, o.device());
  const Json sizes = control.has_sizes() ? evaluate_pairs(ctx, *comm, model, parent, o)
                                         : evaluate_sizes(ctx, *comm, model, parent, o);
  if (o.json) std::printf("%s\n", dump_json(Json{{"sizes", sizes}}, -1).c_str());
  return 0;
}

}  // namespace

void add_eval_command(CLI::App& app, int& exit_code) {
  auto* command = app.add_subcommand("eval", "Loss on text and accuracy on verifiable tasks");
  auto o = std::make_shared<EvalOptions>();
  o->add_to(*command);
  add_thinking(*command, o->reasoning.control);
  command->add_flag("--json", o->json, "Print one JSON object as the last line");
  command->add_option(
      "--data", o->data,
      "Text: .txt and .jsonl files, folders of them or of token shards, a shard's prefix, "
      "reasoning:TASKS:LEVELS:BEGIN-END");
  command->add_option(
      "--parent", o->parent,
      "Model of the same vocabulary to measure the KL to, and to compare by pairs of problems");
  command->add_option("--tasks", o->tasks, "Reasoning tasks, or `reasoning` for all")
      ->delimiter(',');
  command->add_option("--problems", o->reasoning.problems, "Held-out problems in all")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--max-new-tokens", o->reasoning.max_new_tokens, "Of a completion")
      ->check(kTokenRange)
      ->capture_default_str();
  command->add_flag(
      "--outcomes", o->outcomes,
      "With --json: which problems were solved, 1 or 0 each, to compare models by pairs");
  command->add_option("--batch", o->reasoning.batch, "Completions at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--seed", o->reasoning.seed, "Of the problems drawn")->capture_default_str();
  command->add_option("--seq-len", o->seq_len, "Window of the loss")
      ->check(kTokenRange)
      ->capture_default_str();
  command
      ->add_option("--max-tokens", o->max_tokens,
                   "Of each text; a longer one is cut, and said to be")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  in_one_process(*command, exit_code, [o] { return run_eval(*o); });
}

}  // namespace nestling
