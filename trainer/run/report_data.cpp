#include "trainer/run/report_data.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "data/json.h"
#include "data/mapped_file.h"
#include "trainer/run/score_file.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The log writes what JSON has no number for as text.
double logged_number(JsonRef value) {
  if (value.is_number()) return value.number();
  const std::string& text = value.string();
  return text == "inf" ? kInfinity : text == "-inf" ? -kInfinity : kNaN;
}

void add_line(RunRecord& record, JsonRef line) {
  const int64_t step = line.at("step").integer(), tokens = line.at("tokens").integer();
  const double time = line.at("time").number();
  std::map<std::string, double> scalars;
  if (const JsonRef all = line.find("scalars"))
    all.for_each([&](const std::string& key, JsonRef v) { scalars[key] = logged_number(v); });
  const JsonRef event = line.find("event");
  const std::string text = event ? event.string() : "";
  if (record.first_time == 0) record.first_time = time;
  record.last_time = time;
  auto& steps = record.steps;
  auto& events = record.events;
  const int64_t last =
      std::max(steps.empty() ? 0 : steps.back().step, events.empty() ? 0 : events.back().step);
  if (step < last) {
    std::erase_if(steps, [&](const LoggedStep& s) { return s.step >= step; });
    std::erase_if(events, [&](const LoggedEvent& e) { return e.step >= step; });
  }
  if (event) {
    const bool known = std::any_of(events.begin(), events.end(), [&](const LoggedEvent& e) {
      return e.step == step && e.text == text;
    });
    if (!known) events.push_back({.step = step, .tokens = tokens, .time = time, .text = text});
  }
  if (scalars.empty()) return;
  if (!steps.empty() && steps.back().step == step) {
    scalars.merge(steps.back().scalars);
    steps.pop_back();
  }
  steps.push_back({.step = step, .tokens = tokens, .scalars = std::move(scalars)});
}

void read_log(const fs::path& file, RunRecord& record) {
  if (!fs::exists(file)) {
    record.missing.emplace_back("log.jsonl: curves of the training, and when it was");
    return;
  }
  std::ifstream in(file);
  NESTLING_CHECK(in.good(), "cannot read ", file.string());
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    try {
      const JsonDocument document = parse_json(line, file.string());
      add_line(record, document.root());
    } catch (const Error&) {
      record.cut_lines += 1;
    }
  }
}

void read_config(const fs::path& file, RunRecord& record) {
  if (!fs::exists(file)) {
    record.missing.emplace_back("config.yaml: phases of the curriculum, budgets, dead zone");
    return;
  }
  record.config_text = MappedFile(file).text();
  try {
    record.config = read_run_config(file, {});
  } catch (const Error& e) {
    record.missing.push_back(str("config.yaml is not read as that of an elastic run: ", e.what()));
  }
}

double number_or_nan(JsonRef object, const char* key) {
  const JsonRef value = object.find(key);
  return value ? value.number() : kNaN;
}

Quality quality_of(JsonRef q) {
  Quality quality{.perplexity = number_or_nan(q, "perplexity"),
                  .kl = number_or_nan(q, "kl_to_parent"),
                  .accuracy = number_or_nan(q, "accuracy"),
                  .low = kNaN,
                  .high = kNaN,
                  .tokens_per_second = number_or_nan(q, "tokens_per_second")};
  if (const JsonRef interval = q.find("ci95")) {
    quality.low = interval.at(size_t{0}).number();
    quality.high = interval.at(size_t{1}).number();
  }
  if (const JsonRef n = q.find("n")) quality.problems = n.integer();
  return quality;
}

QualitySummary read_summary(const fs::path& file) {
  const JsonDocument document = read_json(file);
  const JsonRef root = document.root();
  QualitySummary summary;
  if (const JsonRef parent = root.find("parent")) summary.parent = quality_of(parent);
  const JsonRef sizes = root.at("sizes");
  for (size_t i = 0; i < sizes.size(); ++i) {
    const JsonRef s = sizes.at(i);
    summary.sizes.push_back({.name = s.at("name").string(),
                             .params_total = s.at("params_total").integer(),
                             .params_active = s.at("params_active").integer(),
                             .after = quality_of(s),
                             .before = quality_of(s.at("before"))});
  }
  return summary;
}

}  // namespace

std::vector<std::string> RunRecord::size_names() const {
  std::vector<std::string> names;
  const auto add = [&](const std::string& n) {
    if (std::find(names.begin(), names.end(), n) == names.end()) names.push_back(n);
  };
  if (config)
    for (const SizeConfig& s : config->elastic.sizes) add(s.name);
  if (elastic)
    for (const Size& s : elastic->model.sizes) add(s.name);
  if (summary)
    for (const SizeQuality& s : summary->sizes) add(s.name);
  constexpr std::string_view kFront = "size/", kBack = "/kl";
  for (const LoggedStep& s : steps)
    for (const auto& [key, value] : s.scalars)
      if (key.starts_with(kFront) && key.ends_with(kBack) &&
          key.size() > kFront.size() + kBack.size())
        add(key.substr(kFront.size(), key.size() - kFront.size() - kBack.size()));
  return names;
}

std::optional<double> RunRecord::frozen_at() const {
  for (const LoggedEvent& e : events)
    if (e.text.starts_with("choices frozen")) return static_cast<double>(e.tokens);
  for (const LoggedStep& s : steps)
    if (const auto found = s.scalars.find("sliced");
        found != s.scalars.end() && found->second == 1.0)
      return static_cast<double>(s.tokens);
  return std::nullopt;
}

const char* RunRecord::before_training() const {
  return elastic && elastic->quantization ? "the sizes as they were quantized, not trained since"
                                          : "the sorted parent cut to the same widths, untrained";
}

RunRecord read_run_record(const fs::path& run_dir) {
  NESTLING_CHECK_INPUT(fs::is_directory(run_dir), run_dir.string(), ": is not a run folder");
  const auto holds = [&](const char* name) { return fs::exists(run_dir / name); };
  NESTLING_CHECK_INPUT(holds("config.yaml") || holds("log.jsonl") || holds("elastic.h5"),
                       run_dir.string(),
                       ": is not a run folder: no config.yaml, log.jsonl or elastic.h5 is in it");
  RunRecord record;
  const fs::path whole = fs::canonical(run_dir);
  record.name = whole.filename().string();
  read_config(whole / "config.yaml", record);
  if (record.config && !record.config->name.empty()) record.name = record.config->name;
  read_log(whole / "log.jsonl", record);
  if (fs::exists(whole / "elastic.h5"))
    record.elastic = read_elastic_header(whole / "elastic.h5");
  else
    record.missing.emplace_back("elastic.h5: widths and parameters of the sizes, provenance");
  if (fs::exists(whole / "scores.json")) {
    ScoreFile file = read_score_file(whole / "scores.json");
    record.scores = std::move(file.scores);
    record.score_origin = std::move(file.origin);
  } else {
    record.missing.emplace_back("scores.json: importance of what the parent is made of");
  }
  if (fs::exists(whole / "summary.json"))
    record.summary = read_summary(whole / "summary.json");
  else
    record.missing.emplace_back("summary.json: quality and speed of the sizes, not evaluated yet");
  return record;
}

}  // namespace nestling
