#include "trainer/run/score_file.h"

#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/widths.h"

namespace nestling {

void write_scores(const std::filesystem::path& file, const Scores& scores,
                  const std::string& origin) {
  Json layers = Json::array();
  for (const auto& layer : scores.layers) {
    Json axes = Json::object();
    for (const auto& [axis, values] : layer) axes[axis_name(axis)] = values;
    layers.push_back(std::move(axes));
  }
  const Json all = {{"origin", origin},
                    {"hidden", scores.hidden},
                    {"layers", std::move(layers)},
                    {"depth", scores.depth}};
  write_json(file, all, -1);
}

ScoreFile read_score_file(const std::filesystem::path& file) {
  const JsonDocument document = read_json(file);
  const Json& all = document.json();
  try {
    ScoreFile read{.scores = {.hidden = all.at("hidden").get<std::vector<double>>(),
                              .layers = {},
                              .depth = all.at("depth").get<std::vector<double>>()},
                   .origin = all.at("origin").get<std::string>()};
    for (const Json& layer : all.at("layers")) {
      auto& axes = read.scores.layers.emplace_back();
      for (const auto& [name, values] : layer.items())
        axes[parse_axis(name)] = values.get<std::vector<double>>();
    }
    return read;
  } catch (const nlohmann::json::exception& e) {
    throw Error(str(file.string(), ": no scores: ", e.what()), ErrorKind::kInput);
  }
}

std::optional<Scores> read_scores(const std::filesystem::path& file, const std::string& origin) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  ScoreFile read = read_score_file(file);
  NESTLING_CHECK_INPUT(read.origin == origin, file.string(), ": holds scores of '", read.origin,
                       "', this run needs those of '", origin,
                       "'; give the run another name, or remove the file");
  return std::move(read.scores);
}

}  // namespace nestling
