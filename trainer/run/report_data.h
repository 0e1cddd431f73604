// report_data.h - what a run folder holds, read once: the report draws it and computes nothing anew.
//
// Missing       a file that is not there yet is named in `missing`, with what the report lacks for it.
//               A folder without config.yaml, log.jsonl and elastic.h5 is none of a run: kInput.
// Damaged       scores.json, summary.json, elastic.h5: kInput naming the file. log.jsonl may hold cut
//               lines (a killed process leaves them); they are counted. A config.yaml that is none of an
//               elastic run is said in `missing`, in its reader's words.
// Records       of one step are one: training and validation write their own, the later of a value counts.
// Resumed       a log that goes back to an earlier step repeats what was lost: the later record counts.
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/elastic_file.h"
#include "trainer/run_config.h"

namespace nestling {

struct LoggedStep {
  int64_t step = 0, tokens = 0;
  std::map<std::string, double> scalars;  // NaN and infinities as they were
};

struct LoggedEvent {
  int64_t step = 0, tokens = 0;
  double time = 0;  // seconds since 1970
  std::string text;
};

// NaN: not measured.
struct Quality {
  double perplexity, kl, accuracy, low, high, tokens_per_second;
  int64_t problems = 0;  // behind the accuracy; 0: not said
};

struct SizeQuality {
  std::string name;
  int64_t params_total = 0, params_active = 0;
  Quality after, before;
};

struct QualitySummary {
  std::optional<Quality> parent;
  std::vector<SizeQuality> sizes;
};

struct RunRecord {
  std::string name;
  std::vector<LoggedStep> steps;
  std::vector<LoggedEvent> events;
  int64_t cut_lines = 0;
  double first_time = 0, last_time = 0;  // of the log; 0: it is empty
  std::optional<RunConfig> config;
  std::string config_text;
  std::optional<Scores> scores;
  std::string score_origin;
  std::optional<ElasticHeader> elastic;
  std::optional<QualitySummary> summary;
  std::vector<std::string> missing;

  // Of all that name any, in the order of config, elastic file, summary, log.
  std::vector<std::string> size_names() const;
  // Tokens at which the choices were frozen.
  std::optional<double> frozen_at() const;
  // What sizes were before this training.
  const char* before_training() const;
};

RunRecord read_run_record(const std::filesystem::path& run_dir);

}  // namespace nestling
