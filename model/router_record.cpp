#include "model/router_record.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/json.h"

namespace nestling {

namespace {

std::string tensor_name(const AxisChoices& c, const char* part) {
  return str(axis_name(c.axis), c.layer >= 0 ? str(".", c.layer) : std::string(), ".", part);
}

std::vector<float> values_of(ConstView w) {
  return {w.ptr<float>(), w.ptr<float>() + w.size()};
}

std::vector<WrittenChoices> read_choices(JsonRef list) {
  std::vector<WrittenChoices> all;
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonRef entry = list.at(i), layer = entry.find("layer"), widths = entry.at("widths");
    const std::string& axis = entry.at("axis").string();
    WrittenChoices c{.axis = entry.placed([&] { return parse_axis(axis); }),
                     .layer = layer ? layer.integer() : -1,
                     .widths = {}};
    for (size_t k = 0; k < widths.size(); ++k)
      c.widths.push_back({.value = static_cast<double>(widths.at(k).integer())});
    if (c.widths.size() < 2) entry.fail("needs two widths or more");
    all.push_back(std::move(c));
  }
  return all;
}

// Every layer once.
std::vector<int64_t> read_layer_order(JsonRef list, const ModelConfig& config) {
  std::vector<int64_t> order;
  std::vector<bool> seen(static_cast<size_t>(config.layers()), false);
  for (size_t i = 0; i < list.size(); ++i) {
    const int64_t layer = list.at(i).integer();
    if (layer < 0 || layer >= config.layers() || seen[static_cast<size_t>(layer)])
      list.at(i).fail(str("layer ", layer, ", needs every layer of ", config.layers(), " once"));
    seen[static_cast<size_t>(layer)] = true;
    order.push_back(layer);
  }
  return order;
}

double positive(JsonRef value) {
  const double x = value.number();
  if (!std::isfinite(x) || x <= 0) value.fail(str(x, ", needs a positive number"));
  return x;
}

double share(JsonRef value) {
  const double x = value.number();
  if (!(x >= 0 && x <= 1)) value.fail(str(x, ", needs [0, 1]"));
  return x;
}

RouterOptions read_options(JsonRef root) {
  RouterOptions o{.hidden = root.at("hidden").integer()};
  if (o.hidden < 1) root.at("hidden").fail("needs 1 or more");
  o.tau_first = positive(root.at("tau").at(0));
  o.tau_last = positive(root.at("tau").at(1));
  o.scale_first = positive(root.at("logit_scale").at(0));
  o.scale_last = positive(root.at("logit_scale").at(1));
  o.hard_share = share(root.at("hard_share"));
  o.dead_zone = share(root.at("dead_zone"));
  return o;
}

const std::vector<float>& tensor(const RouterBlob& blob, const std::string& name, int64_t rows,
                                 int64_t cols, const std::string& where) {
  const auto at = blob.tensors.find(name);
  NESTLING_CHECK_INPUT(at != blob.tensors.end(), where, ": tensor ", name, " is missing");
  // Divided, not multiplied: what the text claims may be beyond any product.
  const int64_t count = std::ssize(at->second);
  NESTLING_CHECK_INPUT(count % cols == 0 && count / cols == rows, where, ": tensor ", name, " has ",
                       count, " values, needs ", rows, " x ", cols);
  NESTLING_CHECK_INPUT(
      std::all_of(at->second.begin(), at->second.end(), [](float x) { return std::isfinite(x); }),
      where, ": tensor ", name, " has a value that is not finite");
  return at->second;
}

ElasticSpace read_space(const ModelConfig& config, JsonRef root) {
  const JsonRef order = root.find("layer_order");
  const std::vector<WrittenChoices> choices = read_choices(root.at("choices"));
  const std::vector<int64_t> layers =
      order ? read_layer_order(order, config) : std::vector<int64_t>();
  return root.placed([&] { return make_space(config, choices, kBlock, layers); });
}

}  // namespace

RouterBlob record_router(const Router& router) {
  const RouterOptions& o = router.options();
  const ElasticSpace& space = router.space();
  Json json = {{"hidden", o.hidden},
               {"tau", {o.tau_first, o.tau_last}},
               {"logit_scale", {o.scale_first, o.scale_last}},
               {"hard_share", o.hard_share},
               {"dead_zone", o.dead_zone},
               {"choices", Json::array()},
               {"layer_order", nullptr}};
  if (!space.layer_order.empty()) json["layer_order"] = space.layer_order;
  RouterBlob blob;
  for (size_t a = 0; a < space.axes.size(); ++a) {
    const AxisChoices& c = space.axes[a];
    json["choices"].push_back({{"axis", axis_name(c.axis)},
                               {"layer", c.layer >= 0 ? Json(c.layer) : Json(nullptr)},
                               {"widths", c.widths}});
    blob.tensors[tensor_name(c, "first")] = values_of(router.first(a));
    blob.tensors[tensor_name(c, "second")] = values_of(router.second(a));
  }
  blob.json = dump_json(json);
  return blob;
}

RecordedRouter recorded_router(const ModelConfig& config, int64_t sizes, const RouterBlob& blob,
                               const std::string& where) {
  const JsonDocument document = parse_json(blob.json, where);
  const RouterOptions options = read_options(document.root());
  auto space = std::make_unique<ElasticSpace>(read_space(config, document.root()));
  for (const AxisChoices& c : space->axes) {
    tensor(blob, tensor_name(c, "first"), options.hidden, sizes, where);
    tensor(blob, tensor_name(c, "second"), std::ssize(c.widths), options.hidden, where);
  }
  NESTLING_CHECK_INPUT(blob.tensors.size() == 2 * space->axes.size(), where, ": ",
                       blob.tensors.size(), " tensors, needs two for each of ", space->axes.size(),
                       " axes");
  Router router(*space, sizes, options, 0);
  std::vector<Router::Parameter> parameters = router.parameters();
  for (size_t a = 0; a < space->axes.size(); ++a) {
    const auto put = [&](const char* part, View w) {
      const auto& from = tensor(blob, tensor_name(space->axes[a], part), w.dim(0), w.dim(1), where);
      std::copy(from.begin(), from.end(), w.ptr<float>());
    };
    put("first", parameters[2 * a].weight);
    put("second", parameters[2 * a + 1].weight);
  }
  return {.space = std::move(space), .router = std::move(router)};
}

std::vector<Widths> choice_edges(const ModelConfig& config, int64_t sizes, const RouterBlob& blob,
                                 const std::string& where) {
  std::vector<Widths> edges;
  if (blob.json.empty()) return edges;
  const RecordedRouter recorded = recorded_router(config, sizes, blob, where);
  const ElasticSpace& space = *recorded.space;
  for (size_t a = 0; a < space.axes.size(); ++a)
    for (int64_t i = 0; i < std::ssize(space.axes[a].widths); ++i) {
      Selection one(space.axes.size(), 0);
      one[a] = i;
      edges.push_back(widths_of(space, one));
    }
  return edges;
}

}  // namespace nestling
