// plan_text.cpp - a plan as text and as JSON (plan.h).
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/json.h"
#include "trainer/run/plan.h"

namespace nestling {

namespace {

constexpr double kGiB = 1 << 30, kHour = 3600, kDay = 86400;

std::string line(const char* format, auto... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

double gib(int64_t bytes) {
  return static_cast<double>(bytes) / kGiB;
}

double pool_gib(const PlanSetting& s, Pool pool) {
  int64_t bytes = 0;
  for (const MemoryPool& p : s.pools)
    if (p.pool == pool) bytes += p.bytes;
  return gib(bytes);
}

std::string number(double value) {
  return line(value < 100 ? "%.3g" : "%.0f", value);
}

// "3.1" or "3.1 to 3.4".
std::string range(double least, double most) {
  const std::string low = number(least), high = number(most);
  return low == high ? low : low + " to " + high;
}

// Days, hours or seconds.
std::string duration(double least, double most) {
  if (least >= 2 * kDay) return range(least / kDay, most / kDay) + " days";
  if (least >= kHour) return range(least / kHour, most / kHour) + " hours";
  return range(least, most) + " seconds";
}

double device_hours(const Plan& plan, double seconds) {
  return seconds / kHour * static_cast<double>(plan.cluster.ranks());
}

double peak_tflops(const Plan& plan) {
  return plan.products == DType::kBF16 ? plan.cluster.device.bf16_tflops
                                       : plan.cluster.device.fp32_tflops;
}

std::string share_text(const char* name, const AchievedShare& s, const std::string& of) {
  return str(line("  %-9s %3.0f%% of ", name, 100 * s.share), of, ", ", s.basis, ":\n            ",
             s.source, "\n");
}

std::string head_text(const Plan& plan) {
  const ClusterConfig& c = plan.cluster;
  std::string text =
      str("plan: everything below is projected; no run of this program on a GPU exists to hold it "
          "against\n",
          c.name, ": ", c.nodes, c.nodes == 1 ? " node" : " nodes", " of ", c.devices_per_node, " ",
          c.device.name, ", a rank each\nlayers ", plan.model.pattern, ", ",
          line("%.2f", static_cast<double>(plan.sizes.front().parameters) / 1e9),
          " G parameters\nrates\n");
  text += share_text(
      "products", c.achieved.products,
      str(peak_tflops(plan), " TFLOP/s in ", plan.products == DType::kBF16 ? "bf16" : "fp32"));
  text += share_text("memory", c.achieved.memory, str(c.device.memory_gb_s, " GB/s"));
  std::string links = str(c.links.within_gb_s, " GB/s within a node");
  if (c.nodes > 1) links += str(", ", c.links.between_gb_s, " between nodes");
  return text + share_text("links", c.achieved.links, links);
}

std::string setting_text(const Plan& plan, const PlanSetting& s) {
  const double over = gib(s.bytes()) - plan.cluster.usable_bytes() / kGiB;
  return line("%c %-9s %-9s %8.1f %9.1f %11.1f %8.1f %8.1f %10s  %-14s %s\n", s.own ? '*' : ' ',
              s.recompute.c_str(), s.shard.c_str(), pool_gib(s, Pool::kWeights),
              pool_gib(s, Pool::kOptimizer), pool_gib(s, Pool::kActivations),
              pool_gib(s, Pool::kScratch) + pool_gib(s, Pool::kOther), gib(total_bytes(s.pools)),
              s.importance > 0 ? line("%.1f", gib(s.importance)).c_str() : "-",
              s.fits ? "fits" : (number(over) + " too much").c_str(),
              duration(s.least_seconds, s.most_seconds).c_str());
}

// What to try where no setting fits.
std::string advice(const Plan& plan) {
  const bool trains = std::ranges::any_of(plan.settings, [&](const PlanSetting& s) {
    return static_cast<double>(total_bytes(s.pools)) <= plan.cluster.usable_bytes();
  });
  return trains ? "no setting of these two: importance is in the way; a smaller "
                  "data.calibration.seq_len or micro_batch"
                : "no setting of these two; more ranks, or a smaller micro_batch, seq_len or model";
}

std::string memory_text(const Plan& plan) {
  const ClusterDevice& d = plan.cluster.device;
  std::string text = line(
      "\nmemory of a rank, GiB, at the most; a device has %.1f for it (%.1f, of which %.1f are "
      "reserved)\n  %-9s %-9s %8s %9s %11s %8s %8s %10s  %-14s %s\n",
      plan.cluster.usable_bytes() / kGiB, d.memory_gib, d.reserved_gib, "recompute", "shard",
      "weights", "optimizer", "activations", "other", "sum", "importance", "", "whole run");
  std::string fitting;
  for (const PlanSetting& s : plan.settings) {
    text += setting_text(plan, s);
    if (s.fits)
      fitting +=
          str(fitting.empty() ? "" : "; ", "recompute ", s.recompute, " with shard ", s.shard);
  }
  text += "  *: as the config says\n";
  if (plan.own().fits) return text + "this config fits\n";
  return text +
         "this config does not fit. What fits: " + (fitting.empty() ? advice(plan) : fitting) +
         "\n";
}

std::string stage_text(const Plan& plan, const PlanStage& s) {
  const double seconds = s.step.seconds();
  return line("%-12s %-10s %9lld %10lld %10.3f %5.0f%% %5.0f%% %5.0f%% %8.0f%% %11.0f %11.0f\n",
              s.name.c_str(), s.mode.c_str(), static_cast<long long>(s.steps),
              static_cast<long long>(s.tokens), seconds, 100 * s.step.products / seconds,
              100 * s.step.memory / seconds, 100 * s.step.links / seconds,
              100 * s.flops / seconds / peak_tflops(plan) / 1e12, s.tokens_per_second(),
              s.tokens_per_second() / static_cast<double>(plan.cluster.ranks()));
}

std::string cost_text(const Plan& plan, const PlanSetting& s) {
  const ClusterPrice& price = plan.cluster.price;
  if (price.per_device_hour == 0) return "cost: the cluster file has no price";
  const double least = device_hours(plan, s.least_seconds) * price.per_device_hour;
  const double most = device_hours(plan, s.most_seconds) * price.per_device_hour;
  return str("cost: ", range(least, most), " ", price.currency, " at ", price.per_device_hour,
             " a device and hour (", price.source, ")");
}

std::string times_text(const Plan& plan) {
  const PlanSetting& s = plan.own();
  std::string text =
      line("\n%-12s %-10s %9s %10s %10s %6s %6s %6s %9s %11s %11s\n", "stage", "mode", "steps",
           "tokens", "s a step", "prod", "memory", "links", "of peak", "tokens/s", "a device");
  int64_t tokens = 0;
  for (const PlanStage& stage : s.stages) {
    text += stage_text(plan, stage);
    if (stage.mode != "mask" && stage.mode != "importance") tokens += stage.steps * stage.tokens;
  }
  const double count = static_cast<double>(tokens);
  text += str("whole run: ", duration(s.least_seconds, s.most_seconds), ", ",
              range(count / s.most_seconds * kDay / 1e9, count / s.least_seconds * kDay / 1e9),
              " G tokens a day, ",
              range(device_hours(plan, s.least_seconds), device_hours(plan, s.most_seconds)),
              " device-hours; ", cost_text(plan, s), "\n");
  return text;
}

// Where operators are so short that what is left out is as long.
std::string short_calls_text(const Plan& plan) {
  constexpr double kShort = 20e-6;  // of a few kernels, some microseconds each until they run
  double least = kShort;
  for (const PlanStage& s : plan.own().stages)
    least = std::min(least, (s.step.products + s.step.memory) / s.calls);
  if (least == kShort) return "";
  return str("too short to trust: a call of an operator takes ", number(1e6 * least),
             " us on average, no longer than it takes to start, which is not in it\n");
}

constexpr const char* kAssumed =
    "model: an operator takes the longer of its FLOPs and its bytes at the rates above, "
    "collectives "
    "the bytes a rank sends:\nreductions to each other rank, the rest in a ring; nothing overlaps. "
    "Steps under masks: the most that router.freeze\nallows. Slices: the mean of the sizes as "
    "drawn, "
    "at the widths nearest to their budgets. A sequence is one document;\nactivations as on device "
    "cuda; scratch as the CPU takes it. Not in it: text, validation, checkpoints, evaluation, "
    "waits,\nstarts of kernels and collectives\n";

Json stage_json(const PlanStage& s) {
  return {{"name", s.name},
          {"mode", s.mode},
          {"steps", s.steps},
          {"tokens", s.tokens},
          {"flops", s.flops},
          {"bytes", s.bytes},
          {"bytes_sent", s.sent},
          {"step_seconds", s.step.seconds()},
          {"products_seconds", s.step.products},
          {"memory_seconds", s.step.memory},
          {"links_seconds", s.step.links},
          {"tokens_per_second", s.tokens_per_second()}};
}

Json setting_json(const Plan& plan, const PlanSetting& s) {
  Json pools = Json::object(), stages = Json::array();
  for (const MemoryPool& p : s.pools) pools[pool_key(p)] = p.bytes;
  for (const PlanStage& stage : s.stages) stages.push_back(stage_json(stage));
  const auto both = [](double least, double most) {
    return Json{{"least", least}, {"most", most}};
  };
  const double price = plan.cluster.price.per_device_hour;
  const double least = device_hours(plan, s.least_seconds),
               most = device_hours(plan, s.most_seconds);
  return {{"recompute", s.recompute},
          {"shard", s.shard},
          {"config", s.own},
          {"fits", s.fits},
          {"bytes", s.bytes()},
          {"importance_bytes", s.importance},
          {"memory", pools},
          {"seconds", both(s.least_seconds, s.most_seconds)},
          {"device_hours", both(least, most)},
          {"cost", price > 0 ? both(least * price, most * price) : Json(nullptr)},
          {"stages", stages}};
}

Json share_json(const AchievedShare& s) {
  return {{"share", s.share}, {"basis", s.basis}, {"source", s.source}};
}

}  // namespace

std::string plan_text(const Plan& plan) {
  return head_text(plan) + memory_text(plan) + times_text(plan) + short_calls_text(plan) + kAssumed;
}

std::string plan_json(const Plan& plan) {
  Json settings = Json::array();
  for (const PlanSetting& s : plan.settings) settings.push_back(setting_json(plan, s));
  const ClusterConfig& c = plan.cluster;
  const Json all = {{"kind", "projected"},
                    {"cluster", c.name},
                    {"device", c.device.name},
                    {"ranks", c.ranks()},
                    {"nodes", c.nodes},
                    {"usable_bytes", c.usable_bytes()},
                    {"achieved",
                     {{"products", share_json(c.achieved.products)},
                      {"memory", share_json(c.achieved.memory)},
                      {"links", share_json(c.achieved.links)}}},
                    {"currency", c.price.per_device_hour > 0 ? Json(c.price.currency) : Json()},
                    {"settings", settings}};
  return dump_json(all, -1);
}

}  // namespace nestling
