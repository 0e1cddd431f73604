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

std::optional<Scores> read_scores(const std::filesystem::path& file, const std::string& origin) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  const JsonDocument document = read_json(file);
  const Json& all = document.json();
  try {
    const auto found = all.at("origin").get<std::string>();
    NESTLING_CHECK_INPUT(found == origin, file.string(), ": holds scores of '", found,
                         "', this run needs those of '", origin,
                         "'; give the run another name, or remove the file");
    Scores scores{.hidden = all.at("hidden").get<std::vector<double>>(),
                  .layers = {},
                  .depth = all.at("depth").get<std::vector<double>>()};
    for (const Json& layer : all.at("layers")) {
      auto& axes = scores.layers.emplace_back();
      for (const auto& [name, values] : layer.items())
        axes[parse_axis(name)] = values.get<std::vector<double>>();
    }
    return scores;
  } catch (const nlohmann::json::exception& e) {
    throw Error(str(file.string(), ": no scores: ", e.what()), ErrorKind::kInput);
  }
}

}  // namespace nestling
