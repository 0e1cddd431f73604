// latency_table.h - what `nestling profile` measured and fitted, as JSON; of it what a budget needs.
//
// File          {"format","kind":"measured","model","architecture":{...},"machine":{...},
//               "measured_on","context","batch","least_widths":{axis:width},
//               "rates_ns":{part:{rate:ns}},"parts":{part:{"layers","points":[{axis:width...,"ns",
//               "spread","fitted_ns","error"}],"mean_error","largest_error"}},"sizes":[{"name","hidden","layers","measured_ms","spread","fitted_ms","error"}]}.
//               Times of points are of one layer, of the rest those of a step; errors are fitted /
//               measured - 1.
// Architecture  the numbers that time depends on: a table of another one is refused by the first
//               that differs.
// Errors        kInput naming the file and the place.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "data/json.h"
#include "model/choices.h"
#include "runtime/latency_fit.h"

namespace nestling {

// A whole model, measured as it decodes; not fitted to.
struct LatencySize {
  std::string name;
  Widths widths;
  double ns = 0, spread = 0;
};

struct LatencyTable {
  std::string model;  // its name
  ModelConfig config;
  std::map<std::string, std::string> machine;  // and how it computed
  LatencyTerms terms;
  std::map<Axis, int64_t> least;
  std::map<LatencyPart, std::vector<LatencyPoint>> points;
  std::vector<LatencySize> sizes;
};

Json latency_json(const LatencyTable& table);
std::string latency_text(const LatencyTable& table);

// What a budget needs of the file.
struct LatencyProfile {
  std::filesystem::path file;
  std::string device;  // cpu or cuda
  LatencyTerms terms;
  std::map<std::string, std::string> architecture;
  std::map<Axis, int64_t> least;
};
LatencyProfile read_latency_profile(const std::filesystem::path& file);
// Throws where the table is of another architecture, or a width that may be chosen is narrower
// than what was measured.
void check_latency_profile(const LatencyProfile& profile, const ElasticSpace& space,
                           const std::string& where);

}  // namespace nestling
