#include "tools/model_options.h"

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include "kernels/core/parallel.h"
#include "runtime/chat_template.h"
#include "tools/bench/step_setting.h"

namespace nestling {

void ModelOptions::add_to(CLI::App& command) {
  command.add_option("MODEL", model, kModelHelp)->required();
  command.add_option(
      "--size", size,
      "Size of an elastic model: its name, or a budget as 65% or 1.8e6 (default: the "
      "largest; eval: or all; serve: every size)");
  command.add_option("--compute", compute, "Precision of the products: fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  command
      .add_option("--activations", activations,
                  "Between the operators: fp32 or bf16 (default: bf16 on cuda with bf16 products)")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  command.add_option("--device", on, "Where it computes: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--threads", threads, "Threads (default: all)")->check(kThreadRange);
}

Precision ModelOptions::precision() const {
  const PrecisionConfig p = bench::precision_on(on, compute, activations, "--activations");
  return {p.compute_type(), p.activations_type()};
}

void ModelOptions::apply() const {
  if (threads > 0) set_thread_count(threads);
}

namespace {

// Without the newline that ends its last line.
std::string standard_input() {
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

// Refuses, as bad usage, a number that does not hold.
CLI::Validator number(const std::string& needs, bool (*holds)(float)) {
  return {[=](std::string& text) {
            const float x = std::strtof(text.c_str(), nullptr);
            return std::isfinite(x) && holds(x) ? "" : str(text, ", needs ", needs);
          },
          needs};
}

}  // namespace

void add_sampling_rule(CLI::App& command, SamplingRule& rule) {
  command.add_option("--temperature", rule.temperature, "0: the most likely token")
      ->check(number("0 or above", [](float x) { return x >= 0; }))
      ->capture_default_str();
  command.add_option("--top-k", rule.top_k, "0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--top-p", rule.top_p, "Nucleus")
      ->check(number("above 0 and at most 1", [](float x) { return x > 0 && x <= 1; }))
      ->capture_default_str();
}

void add_sampling(CLI::App& command, SamplingRule& rule, uint64_t& seed) {
  add_sampling_rule(command, rule);
  command.add_option("--seed", seed, "Of the draws")->capture_default_str();
}

void add_thinking(CLI::App& command, ThinkingControl& control) {
  CLI::Option* size = command.get_option("--size");
  CLI::Option* think =
      command
          .add_option("--think", control.think, "Size that thinks (eval: or all); needs --answer")
          ->excludes(size);
  CLI::Option* answer =
      command
          .add_option("--answer", control.answer, "Size that answers (eval: or all); needs --think")
          ->excludes(size)
          ->needs(think);
  think->needs(answer);
  command
      .add_option("--think-budget", control.budget,
                  "Tokens of thinking, which is then closed (default: no limit)")
      ->check(CLI::Range(0, 1 << 24));
}

void add_drafts(CLI::App& command, DraftControl& draft) {
  CLI::Option* size =
      command.add_option("--draft", draft.size,
                         "A smaller size that proposes tokens, which --size or --answer checks");
  command.add_option("--draft-tokens", draft.tokens, "How many it proposes at once, at most")
      ->needs(size)
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
}

std::vector<int32_t> prompt_tokens(const LoadedModel& model, const std::string& given, bool raw) {
  const std::string prompt = given == "-" ? standard_input() : given;
  if (raw) return model.tokenizer().encode(prompt, true);
  const ChatTemplate turns(model.tokenizer_files(), model.name() + " (--raw needs none)");
  const std::string text = turns.render({{.role = "user", .content = prompt}}, true);
  return model.tokenizer().encode(text, false);
}

}  // namespace nestling
