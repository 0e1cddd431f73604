#include "trainer/run/score_file.h"

#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/widths.h"

namespace nestling {

namespace {

std::vector<double> numbers(JsonRef list) {
  std::vector<double> values;
  for (size_t i = 0; i < list.size(); ++i) values.push_back(list.at(i).number());
  return values;
}

}  // namespace

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
  const JsonRef all = document.root(), layers = all.at("layers");
  ScoreFile read{.scores = {.hidden = numbers(all.at("hidden")),
                            .layers = {},
                            .depth = numbers(all.at("depth"))},
                 .origin = all.at("origin").string()};
  for (size_t l = 0; l < layers.size(); ++l) {
    auto& axes = read.scores.layers.emplace_back();
    layers.at(l).for_each([&](const std::string& name, JsonRef values) {
      axes[values.placed([&] { return parse_axis(name); })] = numbers(values);
    });
  }
  return read;
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
