#include "trainer/run/evaluate_run.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/json.h"
#include "data/reasoning.h"
#include "data/token_documents.h"
#include "model/cost.h"
#include "model/elastic_file.h"
#include "runtime/evaluate.h"
#include "trainer/training_run.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

const std::vector<TextConfig>& texts_of(const RunConfig& c) {
  return c.evaluation.text.empty() ? c.data.validation : c.evaluation.text;
}
Precision precision_of(const RunConfig& c) {
  return {c.precision.compute_type(), c.precision.activations_type()};
}

// What a summary's numbers are of.
Json origin_of(const RunConfig& c, const fs::path& dir) {
  Json texts = Json::array();
  for (const TextConfig& text : texts_of(c)) {
    const std::string digest = digest_of_text(text.path);
    texts.push_back(digest.empty() ? text.path : str(text.path, " (", digest, ")"));
  }
  const auto provenance = read_elastic_header(dir / "elastic.h5").model.provenance;
  const auto digest = provenance.find(provenance::kParentDigest);
  return {{"elastic", elastic_digest(dir / "elastic.h5")},
          {"before", elastic_digest(dir / "before.h5")},
          {"parent", c.parent},
          {"parent_digest", digest == provenance.end() ? "" : digest->second},
          {"text", std::move(texts)},
          {"tokens", c.evaluation.tokens},
          {"seq_len", c.evaluation.seq_len},
          {"problems", c.evaluation.problems},
          {"batch", c.evaluation.batch},
          {"seed", c.seed},
          {"compute", dtype_name(c.precision.compute_type())},
          {"activations", dtype_name(c.precision.activations_type())},
          {"device", c.device}};
}

class Evaluation {
 public:
  Evaluation(const RunConfig& config, Comm& comm, const std::function<void()>& between)
      : config_(config), comm_(comm), between_(between), ctx_(parse_device(config.device)) {}

  // Loss, KL and accuracy of the parent, which comes first and does not stay.
  Json parent() {
    LoadedModel model(config_.parent, precision_of(config_), "", ctx_.device());
    parent_.emplace(model);
    return measure(model, &*parent_);
  }
  Json measure(const fs::path& file, const std::string& size) {
    between_();
    LoadedModel model(file, precision_of(config_), size, ctx_.device());
    return measure(model, nullptr);
  }

 private:
  Json measure(LoadedModel& model, ParentStates* keep) {
    const EvaluationConfig& e = config_.evaluation;
    double nll = 0, kl = 0, seconds = 0;
    int64_t tokens = 0;
    for (const TextConfig& text : texts_of(config_)) {
      const TextLoss loss = evaluate_text(ctx_, comm_, model, text.path,
                                          {.seq_len = e.seq_len,
                                           .max_tokens = e.tokens,
                                           .seed = config_.seed,
                                           .keep = keep,
                                           .parent = &*parent_,
                                           .between = between_});
      if (loss.read < e.tokens && keep != nullptr && comm_.rank() == 0)
        std::fprintf(stderr, "%s: has %lld of the %lld tokens of evaluation.tokens, all scored\n",
                     text.path.c_str(), static_cast<long long>(loss.read),
                     static_cast<long long>(e.tokens));
      const auto n = static_cast<double>(loss.tokens);
      nll += loss.nll * n;
      kl += loss.kl * n;
      tokens += loss.tokens;
      seconds += loss.seconds;
    }
    Json result = {{"tokens", tokens},        {"perplexity", nullptr},
                   {"kl_to_parent", nullptr}, {"accuracy", nullptr},
                   {"ci95", nullptr},         {"minus_parent", nullptr},
                   {"n", e.problems},         {"tokens_per_second", nullptr}};
    if (tokens > 0) {
      const auto n = static_cast<double>(tokens);
      result["perplexity"] = std::exp(nll / n);
      result["kl_to_parent"] = kl / n;
      result["tokens_per_second"] = n / seconds;
    }
    if (e.problems > 0) {
      const auto& asked = reasoning::tasks();
      const ReasoningOptions options{.tasks = {asked.begin(), asked.end()},
                                     .problems = e.problems,
                                     .batch = e.batch,
                                     .seed = config_.seed,
                                     .between = between_};
      const TaskAccuracy all = evaluate_reasoning(ctx_, comm_, model, options).back();
      result["accuracy"] = all.accuracy.estimate;
      result["ci95"] = {all.accuracy.low, all.accuracy.high};
      if (!parent_accuracy_) parent_accuracy_ = all;
      const Interval d = paired_difference(all, *parent_accuracy_);
      result["minus_parent"] = {{"estimate", d.estimate}, {"ci95", {d.low, d.high}}};
    }
    return result;
  }

  const RunConfig& config_;
  Comm& comm_;
  const std::function<void()>& between_;
  Context ctx_;
  std::optional<ParentStates> parent_;
  std::optional<TaskAccuracy> parent_accuracy_;
};

Json widths_json(const ModelConfig& config, const Widths& widths) {
  Json json = {{"hidden", widths.hidden}};
  int64_t kept = 0;
  for (int64_t l = 0; l < config.layers(); ++l) {
    kept += width_of(widths, l, Axis::kLayers);
    for (const Axis axis : axes_of(config, config.kind(l)))
      json[axis_name(axis)] = width_of(widths, l, axis);  // the same in every layer that has it
  }
  json["layers"] = kept;
  return json;
}

// Of a row of the summary; none where nothing was asked.
std::optional<MeasuredQuality> measured_quality(const Json& row, const std::string& compute) {
  MeasuredQuality m{.compute = compute};
  if (!row.at("kl_to_parent").is_null() && !row.at("perplexity").is_null()) {
    m.tokens = row.at("tokens").get<int64_t>();
    m.kl = row.at("kl_to_parent").get<double>();
    m.nll = std::log(row.at("perplexity").get<double>());
  }
  if (!row.at("accuracy").is_null()) {
    m.problems = row.at("n").get<int64_t>();
    m.accuracy = row.at("accuracy").get<double>();
  }
  if (m.tokens + m.problems == 0) return {};
  return m;
}

// So that the file by itself says what its sizes are worth.
void record_in_file(const Json& summary, const fs::path& dir) {
  std::map<std::string, MeasuredQuality> measured;
  const std::string compute = summary.at("of").at("compute").get<std::string>();
  for (const Json& row : summary.at("sizes"))
    if (const auto m = measured_quality(row, compute)) measured[row.at("name")] = *m;
  record_measured(dir / "elastic.h5", measured);
}

void print_table(const Json& summary) {
  std::printf("%-12s %12s %12s %19s %21s %17s %10s\n", "size", "params", "active",
              "perplexity (before)", "KL to parent (before)", "accuracy (before)", "tokens/s");
  for (const Json& size : summary.at("sizes")) {
    const auto number = [](const Json& value, double scale) {
      return value.is_null() ? std::nan("") : scale * value.get<double>();
    };
    const Json& before = size.at("before");
    std::printf("%-12s %12lld %12lld %9.3f (%7.2f) %11.5f (%7.4f) %8.1f%% (%4.1f%%) %10.0f\n",
                size.at("name").get<std::string>().c_str(),
                static_cast<long long>(size.at("params_total").get<int64_t>()),
                static_cast<long long>(size.at("params_active").get<int64_t>()),
                number(size.at("perplexity"), 1), number(before.at("perplexity"), 1),
                number(size.at("kl_to_parent"), 1), number(before.at("kl_to_parent"), 1),
                number(size.at("accuracy"), 100), number(before.at("accuracy"), 100),
                number(size.at("tokens_per_second"), 1));
  }
}

}  // namespace

void check_evaluation_texts(const RunConfig& config, const Tokenizer& tokenizer) {
  const DocumentOptions options{.tokenizer = tokenizer,
                                .vocabulary = tokenizer.vocab_size(),
                                .end_of_text = end_of_text(tokenizer, config.parent),
                                .seed = config.seed};
  for (const TextConfig& text : texts_of(config)) open_documents(text.path, options);
}

void drop_stale_summary(const RunConfig& config, const fs::path& dir) {
  const fs::path file = dir / "summary.json";
  if (!fs::exists(file)) return;
  const JsonDocument document = read_json(file);
  const Json& all = document.json();
  const Json before = all.is_object() ? all.value("of", Json::object()) : Json::object();
  const Json now = origin_of(config, dir);
  std::string differs;
  for (const auto& [key, value] : now.items())
    if (!before.is_object() || before.value(key, Json()) != value)
      differs += (differs.empty() ? "" : ", ") + key;
  if (differs.empty()) return;
  std::fprintf(stderr, "%s: is of something else (what differs: %s), removed\n", file.c_str(),
               differs.c_str());
  fs::remove(file);
}

void evaluate_run(const RunConfig& config, const fs::path& dir, Comm& comm,
                  const std::function<void()>& between) {
  const fs::path file = dir / "summary.json";
  const bool writes = comm.rank() == 0;
  if (writes) drop_stale_summary(config, dir);
  comm.barrier();
  const bool done = fs::exists(file);
  comm.barrier();  // before rank 0 may write it
  if (done) {
    if (!writes) return;
    const JsonDocument summary = read_json(file);
    record_in_file(summary.json(), dir);
    print_table(summary.json());
    return;
  }
  between();
  const ElasticHeader header = read_elastic_header(dir / "elastic.h5");
  const ElasticModel& model = header.model;
  Evaluation evaluation(config, comm, between);
  Json summary = {{"parent", evaluation.parent()}, {"sizes", Json::array()}};
  for (const Size& size : model.sizes) {
    const ParameterCost cost = parameter_cost(model.config, size.widths);
    Json row = {{"name", size.name},
                {"params_total", cost.total},
                {"params_active", cost.active},
                {"widths", widths_json(model.config, size.widths)}};
    row.update(evaluation.measure(dir / "elastic.h5", size.name));
    // The sorted parent at full width is the parent; its codes are not.
    const bool whole = !header.quantization && size.widths == full_widths(model.config);
    row["before"] = whole ? summary["parent"] : evaluation.measure(dir / "before.h5", size.name);
    summary["sizes"].push_back(std::move(row));
  }
  if (!writes) return;
  summary["of"] = origin_of(config, dir);
  write_json(file, summary);
  record_in_file(summary, dir);
  print_table(summary);
}

}  // namespace nestling
