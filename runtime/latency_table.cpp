#include "runtime/latency_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace nestling {

namespace {

constexpr int64_t kFormat = 1;
constexpr double kMicro = 1e-3, kMilli = 1e-6;  // of a nanosecond

std::map<std::string, std::string> architecture_of(const ModelConfig& c) {
  return {{"pattern", c.pattern},
          {"vocab", str(c.vocab)},
          {"hidden", str(c.hidden)},
          {"tied", c.tied ? "true" : "false"},
          {"query_heads", str(c.query_heads)},
          {"kv_heads", str(c.kv_heads)},
          {"head_dim", str(c.head_dim)},
          {"mamba_heads", str(c.mamba_heads)},
          {"mamba_head_dim", str(c.mamba_head_dim)},
          {"state", str(c.state)},
          {"groups", str(c.groups)},
          {"conv_kernel", str(c.conv_kernel)},
          {"activation", c.activation == Activation::kGatedSilu ? "gated_silu" : "squared_relu"},
          {"ffn", str(c.ffn)},
          {"experts", str(c.experts)},
          {"top_k", str(c.top_k)},
          {"expert_ffn", str(c.expert_ffn)},
          {"shared_ffn", str(c.shared_ffn)}};
}

std::string name_of(LatencyPart part) {
  return kLatencyParts[static_cast<size_t>(part)];
}

// Layers of the part that these widths keep; the rest of a step is there once.
int64_t layers_of(const ModelConfig& config, LatencyPart part, const Widths& widths) {
  if (part == LatencyPart::kRest) return 1;
  int64_t count = 0;
  for (int64_t l = 0; l < config.layers(); ++l)
    count += latency_part(config.kind(l)) == part && widths.layers[static_cast<size_t>(l)].kept;
  return count;
}

// The widths that a part's time depends on, of its first layer.
std::map<std::string, int64_t> widths_of_part(const ModelConfig& config, LatencyPart part,
                                              const Widths& widths) {
  std::map<std::string, int64_t> named = {{axis_name(Axis::kHidden), widths.hidden}};
  for (int64_t l = 0; l < config.layers() && part != LatencyPart::kRest; ++l) {
    if (latency_part(config.kind(l)) != part) continue;
    for (const Axis axis : axes_of(config, config.kind(l)))
      named[axis_name(axis)] = width_of(widths, l, axis);
    break;
  }
  return named;
}

struct FittedPoint {
  std::map<std::string, int64_t> widths;
  double ns, spread, fitted;  // of one layer
  double error() const { return fitted / ns - 1; }
};

std::vector<FittedPoint> fitted_points(const LatencyTable& t, LatencyPart part) {
  std::vector<FittedPoint> all;
  for (const LatencyPoint& p : t.points.at(part)) {
    const auto layers = static_cast<double>(layers_of(t.config, part, p.widths));
    all.push_back({.widths = widths_of_part(t.config, part, p.widths),
                   .ns = p.ns / layers,
                   .spread = p.spread,
                   .fitted = fitted_ns(t.config, part, t.terms, p.widths) / layers});
  }
  return all;
}

struct ErrorsOfPart {
  double mean = 0, largest = 0;  // of |error|
};
ErrorsOfPart errors_of(const std::vector<FittedPoint>& points) {
  ErrorsOfPart e;
  for (const FittedPoint& p : points) {
    e.mean += std::abs(p.error()) / static_cast<double>(points.size());
    e.largest = std::max(e.largest, std::abs(p.error()));
  }
  return e;
}

double fitted_ms(const LatencyTable& t, const Widths& widths) {
  return CostFunction(t.config, {.kind = CostKind::kLatency, .latency = t.terms})(expected(widths));
}

int64_t layers_kept(const Widths& widths) {
  return std::count_if(widths.layers.begin(), widths.layers.end(),
                       [](const LayerWidths& l) { return l.kept != 0; });
}

Json part_json(const LatencyTable& t, LatencyPart part) {
  const std::vector<FittedPoint> fitted = fitted_points(t, part);
  Json points = Json::array();
  for (const FittedPoint& p : fitted) {
    Json point(p.widths);
    point["ns"] = p.ns;
    point["spread"] = p.spread;
    point["fitted_ns"] = p.fitted;
    point["error"] = p.error();
    points.push_back(std::move(point));
  }
  const ErrorsOfPart errors = errors_of(fitted);
  return {{"layers", layers_of(t.config, part, full_widths(t.config))},
          {"points", points},
          {"mean_error", errors.mean},
          {"largest_error", errors.largest}};
}

std::string line(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string part_text(const LatencyTable& t, LatencyPart part) {
  const std::vector<FittedPoint> fitted = fitted_points(t, part);
  const auto rate = [&](LatencyRate of) { return t.terms.rate(part, of); };
  const bool rest = part == LatencyPart::kRest;
  std::string text = str("\n", name_of(part));
  const int64_t layers = layers_of(t.config, part, full_widths(t.config));
  if (!rest) text += str(", ", layers, layers == 1 ? " layer" : " layers");
  text += line(": %.2f us %s", kMicro * rate(LatencyRate::kLayer), rest ? "a step" : "a layer");
  text += line(" + %.4f ns %s", rate(LatencyRate::kWeight),
               rest ? "an element of the head" : "a weight that a token touches");
  if (part == LatencyPart::kMoe)
    text += line(" + %.4f ns a weight of all experts", rate(LatencyRate::kExpert));
  if (part == LatencyPart::kMamba || part == LatencyPart::kAttention)
    text += line(" + %.4f ns an element of state", rate(LatencyRate::kState));
  text += "\n ";
  for (const auto& [axis, width] : fitted.front().widths) text += line(" %12s", axis.c_str());
  text += line(" %12s %8s %12s %8s\n", rest ? "us a step" : "us a layer", "spread", "fitted us",
               "error");
  for (const FittedPoint& p : fitted) {
    text += " ";
    for (const auto& [axis, width] : p.widths)
      text += line(" %12lld", static_cast<long long>(width));
    text += line(" %12.2f %7.1f%% %12.2f %+7.1f%%\n", kMicro * p.ns, 100 * p.spread,
                 kMicro * p.fitted, 100 * p.error());
  }
  const ErrorsOfPart errors = errors_of(fitted);
  return text +
         line("  error: mean %.1f%%, largest %.1f%%\n", 100 * errors.mean, 100 * errors.largest);
}

std::string sizes_text(const LatencyTable& t) {
  std::string text = line("\n%-24s %7s %7s %12s %8s %12s %8s\n", "whole models, not fitted",
                          "hidden", "layers", "ms a step", "spread", "fitted ms", "error");
  double largest = 0;
  for (const LatencySize& s : t.sizes) {
    const double measured = kMilli * s.ns, fitted = fitted_ms(t, s.widths);
    largest = std::max(largest, std::abs(fitted / measured - 1));
    text +=
        line("%-24s %7lld %7lld %12.4f %7.1f%% %12.4f %+7.1f%%\n", s.name.c_str(),
             static_cast<long long>(s.widths.hidden), static_cast<long long>(layers_kept(s.widths)),
             measured, 100 * s.spread, fitted, 100 * (fitted / measured - 1));
  }
  return text + line("error: largest %.1f%%\n", 100 * largest);
}

std::vector<double> numbers_of(JsonRef of, std::span<const char* const> names) {
  std::vector<double> all;
  for (const char* name : names) all.push_back(of.at(name).number());
  return all;
}

LatencyTerms read_terms(JsonRef root) {
  LatencyTerms t{.measured_on = root.at("measured_on").string(),
                 .context = root.at("context").integer(),
                 .batch = root.at("batch").integer()};
  for (const auto& [key, value] : {std::pair("context", t.context), std::pair("batch", t.batch)})
    if (value < 1) root.at(key).fail(str(value, ", needs 1 or more"));
  const JsonRef rates = root.at("rates_ns");
  for (size_t p = 0; p < kLatencyParts.size(); ++p) {
    const JsonRef part = rates.at(kLatencyParts[p]);
    const std::vector<double> ns = numbers_of(part, kLatencyRates);
    for (size_t r = 0; r < ns.size(); ++r) {
      if (!(ns[r] >= 0)) part.at(kLatencyRates[r]).fail(str(ns[r], ", needs 0 or more"));
      t.ns[p][r] = ns[r];
    }
  }
  return t;
}

}  // namespace

Json latency_json(const LatencyTable& t) {
  Json rates, parts, sizes = Json::array(), least;
  for (size_t p = 0; p < kLatencyParts.size(); ++p)
    for (size_t r = 0; r < kLatencyRates.size(); ++r)
      rates[kLatencyParts[p]][kLatencyRates[r]] = t.terms.ns[p][r];
  for (const auto& [part, points] : t.points) parts[name_of(part)] = part_json(t, part);
  for (const auto& [axis, width] : t.least) least[axis_name(axis)] = width;
  for (const LatencySize& s : t.sizes) {
    const double fitted = fitted_ms(t, s.widths);
    sizes.push_back({{"name", s.name},
                     {"hidden", s.widths.hidden},
                     {"layers", layers_kept(s.widths)},
                     {"measured_ms", kMilli * s.ns},
                     {"spread", s.spread},
                     {"fitted_ms", fitted},
                     {"error", fitted / (kMilli * s.ns) - 1}});
  }
  return {{"format", kFormat},
          {"kind", "measured"},
          {"model", t.model},
          {"architecture", architecture_of(t.config)},
          {"machine", t.machine},
          {"measured_on", t.terms.measured_on},
          {"context", t.terms.context},
          {"batch", t.terms.batch},
          {"least_widths", least},
          {"rates_ns", rates},
          {"parts", parts},
          {"sizes", sizes}};
}

std::string latency_text(const LatencyTable& t) {
  std::string text =
      str("measured: ", t.model, " on ", t.terms.measured_on, "; steps that decode one token of ",
          t.terms.batch, " sequence", t.terms.batch == 1 ? "" : "s", " with ", t.terms.context,
          " tokens in the caches\n");
  if (t.machine.contains("rounds"))
    text += str(t.machine.at("rounds"), " rounds, their pace put at its median; its spread ",
                t.machine.at("spread_of_rounds"), "; load of the machine before ",
                t.machine.at("load_before"), "\n");
  for (const auto& [part, points] : t.points) text += part_text(t, part);
  return text + sizes_text(t);
}

LatencyProfile read_latency_profile(const std::filesystem::path& file) {
  const JsonDocument document = read_json(file);
  const JsonRef root = document.root();
  if (root.at("format").integer() != kFormat)
    root.at("format").fail(
        str(root.at("format").integer(), ", this program reads ", kFormat, " (nestling profile)"));
  LatencyProfile profile{.file = file,
                         .device = root.at("machine").at("device").string(),
                         .terms = read_terms(root),
                         .architecture = {},
                         .least = {}};
  root.at("architecture").for_each([&](const std::string& key, JsonRef value) {
    profile.architecture[key] = value.string();
  });
  root.at("least_widths").for_each([&](const std::string& key, JsonRef value) {
    profile.least[value.placed([&] { return parse_axis(key); })] = value.integer();
  });
  return profile;
}

void check_latency_profile(const LatencyProfile& profile, const ElasticSpace& space,
                           const std::string& where) {
  const std::string name = profile.file.string();
  for (const auto& [key, wanted] : architecture_of(space.config)) {
    const auto at = profile.architecture.find(key);
    NESTLING_CHECK_INPUT(at != profile.architecture.end() && at->second == wanted, where,
                         ": profile ", name, " is of another architecture: ", key, " ",
                         at == profile.architecture.end() ? "is not there" : at->second,
                         ", the parent has ", wanted);
  }
  for (const AxisChoices& choices : space.axes) {
    const auto at = profile.least.find(choices.axis);
    const int64_t narrowest = choices.widths.back();
    NESTLING_CHECK_INPUT(
        at != profile.least.end() && narrowest >= at->second, where, ": elastic.choices.",
        axis_name(choices.axis), " goes down to ", narrowest, ", profile ", name, " to ",
        at == profile.least.end() ? std::string("none") : str(at->second),
        choices.axis == Axis::kMambaChannels
            ? ": a step gathers the weights of heads whose channels are cut, which no table has"
            : ": nestling profile --widths measures others");
  }
}

}  // namespace nestling
