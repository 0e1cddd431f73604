#include "tools/layers_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/cost.h"
#include "runtime/model_card.h"

namespace nestling {

namespace {

using OrderedJson = nlohmann::ordered_json;

// Of NVIDIA-Nemotron-3-Nano-30B-A3B: 23 M, 6 *, 23 E.
constexpr const char* kPublishedPattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME";

struct Spread {
  double median = 0, least = 0, most = 0;
};

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {.median = values[values.size() / 2], .least = values.front(), .most = values.back()};
}

template <class Value>
Spread spread_of(const std::vector<TimedStep>& steps, Value value) {
  std::vector<double> values;
  for (const TimedStep& s : steps) values.push_back(value(s));
  return spread(values);
}

SpanCost part_of(const TimedStep& step, const std::string& name) {
  const auto at = step.parts.find(name);
  return at == step.parts.end() ? SpanCost{} : at->second;
}

bool inner(const std::string& name) {
  return name.find('/') != std::string::npos;
}

double rest_of(const TimedStep& step) {
  double rest = step.seconds;
  for (const auto& [name, cost] : step.parts)
    if (!inner(name)) rest -= cost.seconds;
  return rest;
}

// The layer type whose span this is, by its character in a pattern; 0: none.
char layer_of(const std::string& name) {
  if (name.starts_with("mamba ")) return 'M';
  if (name.starts_with("attention ")) return '*';
  if (name.starts_with("dense ")) return '-';
  if (name.starts_with("moe ") || name == "expert balance") return 'E';
  return 0;
}

bool through_all_parameters(const std::string& name) {
  return name == "optimizer" || name == "gradient norm" || name == "zero gradients";
}

ModelConfig published_depth(const ModelConfig& model) {
  ModelConfig deep = model;
  deep.pattern = kPublishedPattern;
  return deep;
}

double ratio_of_layers(const ModelConfig& model, char kind) {
  const std::string deep = kPublishedPattern;
  return static_cast<double>(std::count(deep.begin(), deep.end(), kind)) /
         static_cast<double>(std::count(model.pattern.begin(), model.pattern.end(), kind));
}

double projected_seconds(const ModelConfig& model, const TimedStep& step) {
  const double parameters = static_cast<double>(parameter_cost(published_depth(model)).total) /
                            static_cast<double>(parameter_cost(model).total);
  double seconds = rest_of(step);
  for (const auto& [name, cost] : step.parts) {
    if (name == "teacher") continue;  // what is in it is counted, and its rest
    const std::string leaf = name.substr(name.rfind('/') + 1);
    const char kind = layer_of(leaf);
    const double times = kind != 0                      ? ratio_of_layers(model, kind)
                         : through_all_parameters(leaf) ? parameters
                                                        : 1.0;
    seconds += times * cost.seconds;
  }
  double teacher = part_of(step, "teacher").seconds;
  for (const auto& [name, cost] : step.parts)
    if (inner(name)) teacher -= cost.seconds;
  return seconds + teacher;
}

double model_flops(const ModelConfig& model, const Widths& widths, bool teacher, double tokens,
                   int64_t seq_len) {
  const double trained = 3 * forward_flops(model, widths, seq_len);
  return tokens * (trained + (teacher ? forward_flops(model, full_widths(model), seq_len) : 0));
}

// The same widths in every layer of a kind, as a pattern of other length has them.
Widths widths_like(const ModelConfig& model, const Widths& widths, const ModelConfig& deep) {
  Widths out = full_widths(deep);
  out.hidden = widths.hidden;
  for (int64_t l = 0; l < deep.layers(); ++l)
    out.layers[static_cast<size_t>(l)] =
        widths.layers[model.pattern.find(deep.pattern[static_cast<size_t>(l)])];
  return out;
}

OrderedJson seconds_json(const Spread& s) {
  return {{"median", s.median}, {"least", s.least}, {"most", s.most}};
}

OrderedJson rates_json(double flops, double tokens, double seconds, const Ceilings& ceilings) {
  OrderedJson out = {{"tokens_per_second", tokens / seconds},
                     {"model_flops", flops},
                     {"model_flops_per_second", flops / seconds},
                     {"share_of_measured_ceiling", nullptr},
                     {"share_of_published_peak", nullptr}};
  if (ceilings.measured > 0) out["share_of_measured_ceiling"] = flops / seconds / ceilings.measured;
  if (ceilings.published > 0) out["share_of_published_peak"] = flops / seconds / ceilings.published;
  return out;
}

OrderedJson parts_json(const std::vector<TimedStep>& steps) {
  OrderedJson parts = OrderedJson::array();
  for (const auto& entry : steps.front().parts) {
    const std::string& name = entry.first;
    const SpanCost& first = entry.second;
    const Spread s =
        spread_of(steps, [&](const TimedStep& step) { return part_of(step, name).seconds; });
    parts.push_back({{"name", name},
                     {"seconds", seconds_json(s)},
                     {"calls", first.calls},
                     {"flops", first.work.flops},
                     {"bytes", first.work.bytes}});
  }
  parts.push_back({{"name", "rest"}, {"seconds", seconds_json(spread_of(steps, rest_of))}});
  return parts;
}

bool has_all_types(const ModelConfig& model) {
  return model.has(LayerKind::kMamba) && model.has(LayerKind::kAttention) &&
         model.has(LayerKind::kMoe);
}

OrderedJson projection_json(const ModelConfig& model, const LayersVariant& v, double tokens,
                            int64_t seq_len, const Ceilings& ceilings) {
  if (!has_all_types(model)) return nullptr;
  const ModelConfig deep = published_depth(model);
  const Spread s =
      spread_of(v.steps, [&](const TimedStep& step) { return projected_seconds(model, step); });
  const double flops =
      model_flops(deep, widths_like(model, v.widths, deep), v.teacher, tokens, seq_len);
  OrderedJson out = {{"pattern", kPublishedPattern},
                     {"params_total", parameter_cost(deep).total},
                     {"step_seconds", seconds_json(s)}};
  out.update(rates_json(flops, tokens, s.median, ceilings));
  return out;
}

// A step without what goes through all parameters.
double seconds_by_width(const TimedStep& step) {
  double seconds = step.seconds;
  for (const auto& [name, cost] : step.parts)
    if (!inner(name) && through_all_parameters(name)) seconds -= cost.seconds;
  return seconds;
}

// Of a slice: what it takes of the widest one's FLOPs and time.
void add_shares(const OrderedJson& all, OrderedJson& v) {
  if (!v["name"].get<std::string>().starts_with("slice/")) return;
  const OrderedJson* full = v["name"] == "slice/full" ? &v : nullptr;
  for (const OrderedJson& other : all)
    if (other["name"] == "slice/full") full = &other;
  if (full == nullptr) return;
  const auto share = [&](const char* of) {
    return v[of]["median"].get<double>() / (*full)[of]["median"].get<double>();
  };
  const double flops = v["counted_flops"].get<double>() / (*full)["counted_flops"].get<double>();
  v["flop_share"] = flops;
  v["time_share"] = share("step_seconds");
  v["time_over_flop_share"] = share("step_seconds") / flops;
  v["time_over_flop_share_by_width"] = share("seconds_by_width") / flops;
}

std::string line(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string shares_text(const OrderedJson& rates) {
  std::string text = line("%.1f TFLOP/s of model arithmetic",
                          rates["model_flops_per_second"].get<double>() / 1e12);
  if (!rates["share_of_measured_ceiling"].is_null())
    text += line(", %.1f%% of the measured product ceiling",
                 100 * rates["share_of_measured_ceiling"].get<double>());
  if (!rates["share_of_published_peak"].is_null())
    text += line(", %.1f%% of the published bf16 peak",
                 100 * rates["share_of_published_peak"].get<double>());
  return text;
}

std::string parts_text(const OrderedJson& v) {
  std::string text = line("  %-28s %10s %10s %10s %7s %6s %9s %9s\n", "part", "ms", "least", "most",
                          "share", "calls", "TFLOP/s", "GB/s");
  const double step = v["step_seconds"]["median"];
  for (const OrderedJson& p : v["parts"]) {
    const OrderedJson& s = p["seconds"];
    const double median = s["median"];
    text += line("  %-28s %10.3f %10.3f %10.3f %6.1f%%", p["name"].get<std::string>().c_str(),
                 1e3 * median, 1e3 * s["least"].get<double>(), 1e3 * s["most"].get<double>(),
                 100 * median / step);
    if (p.contains("calls") && median > 0)
      text +=
          line(" %6lld %9.2f %9.1f", static_cast<long long>(p["calls"].get<int64_t>()),
               p["flops"].get<double>() / median / 1e12, p["bytes"].get<double>() / median / 1e9);
    text += "\n";
  }
  return text;
}

}  // namespace

OrderedJson pools_json(const std::vector<MemoryPool>& pools) {
  OrderedJson out = OrderedJson::object();
  for (const MemoryPool& p : pools) out[pool_key(p)] = p.bytes;
  out["sum"] = total_bytes(pools);
  return out;
}

void add_variant(OrderedJson& all, const ModelConfig& model, int64_t tokens, int64_t seq_len,
                 const Ceilings& ceilings, const LayersVariant& v) {
  const auto count = static_cast<double>(tokens);
  const Spread s = spread_of(v.steps, [](const TimedStep& step) { return step.seconds; });
  const double flops = model_flops(model, v.widths, v.teacher, count, seq_len);
  std::vector<double> seconds;
  for (const TimedStep& step : v.steps) seconds.push_back(step.seconds);
  OrderedJson out = {{"name", v.name},
                     {"widths", widths_text(model, v.widths)},
                     {"params_total", parameter_cost(model, v.widths).total},
                     {"step_seconds", seconds_json(s)},
                     {"seconds_by_width", seconds_json(spread_of(v.steps, seconds_by_width))},
                     {"steps", seconds}};
  out.update(rates_json(flops, count, s.median, ceilings));
  out.update({{"counted_flops", v.steps.front().work.flops},
              {"counted_bytes", v.steps.front().work.bytes},
              {"loss", v.steps.back().loss},
              {"expert_imbalance",
               seconds_json(spread_of(v.steps, [](const TimedStep& t) { return t.imbalance; }))},
              {"memory", pools_json(v.pools)},
              {"parts", parts_json(v.steps)},
              {"projected", projection_json(model, v, count, seq_len, ceilings)}});
  add_shares(all, out);
  all.push_back(std::move(out));
}

std::string variant_text(const OrderedJson& v) {
  const OrderedJson& s = v["step_seconds"];
  std::string text = line("\n%s: %.3f ms a step (%.3f to %.3f), %.0f tokens/s\n",
                          v["name"].get<std::string>().c_str(), 1e3 * s["median"].get<double>(),
                          1e3 * s["least"].get<double>(), 1e3 * s["most"].get<double>(),
                          v["tokens_per_second"].get<double>());
  text += "  " + v["widths"].get<std::string>() + "\n  " + shares_text(v) + "\n";
  text += line("  operators count %.2f TFLOP, %.1f GB; load imbalance of experts %.2f; %.2f GiB\n",
               v["counted_flops"].get<double>() / 1e12, v["counted_bytes"].get<double>() / 1e9,
               v["expert_imbalance"]["median"].get<double>(),
               v["memory"]["sum"].get<double>() / (1 << 30));
  if (v.contains("flop_share"))
    text += line(
        "  of slice/full: FLOPs %.3f, time %.3f, time / FLOPs %.3f (%.3f without what goes through "
        "all parameters)\n",
        v["flop_share"].get<double>(), v["time_share"].get<double>(),
        v["time_over_flop_share"].get<double>(), v["time_over_flop_share_by_width"].get<double>());
  text += parts_text(v);
  const OrderedJson& p = v["projected"];
  if (p.is_null()) return text;
  const OrderedJson& t = p["step_seconds"];
  return text +
         line(
             "  projected to 52 layers, %.2f G parameters: %.1f ms (%.1f to %.1f), %.0f tokens/s; ",
             p["params_total"].get<double>() / 1e9, 1e3 * t["median"].get<double>(),
             1e3 * t["least"].get<double>(), 1e3 * t["most"].get<double>(),
             p["tokens_per_second"].get<double>()) +
         shares_text(p) + "\n";
}

}  // namespace nestling
