#include "tools/profile.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>

#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "kernels/core/versions.h"
#include "kernels/cuda/device_info.h"
#include "runtime/decoder.h"
#include "tools/random_batch.h"
#include "tools/span_timer.h"

namespace nestling {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 3;  // at least
constexpr int64_t kWarmSteps = 2, kTimedSteps = 8;
constexpr double kNanoseconds = 1e9;  // of a second
static_assert(kLeastContext > kWarmSteps + kTimedSteps);

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Medians of the rounds so far, nanoseconds.
using Rounds = std::vector<double>;

double spread_of(Rounds rounds) {
  std::sort(rounds.begin(), rounds.end());
  const size_t quarter = rounds.size() / 4;
  return (rounds[rounds.size() - 1 - quarter] - rounds[quarter]) / 2 / bench::median(rounds);
}

// Sequences that decode at one size, after their prompts.
class Decoding {
 public:
  Decoding(Context& ctx, LoadedModel& model, const ProfileOptions& o)
      : decoder_(ctx, model, o.batch, o.context) {
    const int64_t prompt = o.context - kWarmSteps - kTimedSteps;
    const Batch random = random_batch(o.batch, prompt, model.config().vocab, 0);
    decoder_.clear();
    for (int64_t b = 0; b < o.batch; ++b) {  // one by one: activations of one prompt at a time
      const auto first = random.tokens.begin() + b * prompt;
      decoder_.join({std::vector<int32_t>(first, first + prompt)});
      streams_.push_back(static_cast<uint64_t>(b));
    }
    draw();
  }
  void step() { decoder_.step(next_); }
  void draw() {
    const std::span<const int32_t> drawn =
        decoder_.sample({.temperature = 1.0f}, 1, streams_, position_++);
    next_.assign(drawn.begin(), drawn.end());
  }

 private:
  Decoder decoder_;
  std::vector<uint64_t> streams_;
  std::vector<int32_t> next_;
  uint64_t position_ = 0;
};

std::string span_of(LatencyPart part) {
  return str("step/", kLatencyParts[static_cast<size_t>(part)], " step");
}

class Profiler {
 public:
  Profiler(Context& ctx, LoadedModel& model, const ProfileOptions& o)
      : ctx_(ctx), model_(model), o_(o), size_(model.selected()) {
    table_.model = model.name();
    table_.config = model.config();
    table_.terms = {.context = o.context, .batch = o.batch};
    grid_ = latency_grid(table_.config, o.shares);
    table_.least = least_widths(table_.config, grid_);
    parts_.resize(grid_.size());
    if (model.sizes().size() > 1)
      for (const std::string& name : model.sizes()) add_whole(name, model.find(name).widths);
    else
      for (const auto& [name, widths] : held_out_widths(table_.config, o.shares))
        add_whole(name, widths);
    whole_.resize(table_.sizes.size());
  }

  LatencyTable run() {
    const auto start = Clock::now();
    for (int round = 0; round < kRounds || seconds_since(start) < o_.seconds; ++round) {
      visit_all(round % 2 == 1);
      if (o_.say)
        o_.say(str("round ", round + 1, ": ", static_cast<int64_t>(seconds_since(start)), " of ",
                   o_.seconds, " seconds"));
    }
    share_the_pace();
    for (size_t i = 0; i < whole_.size(); ++i) {
      table_.sizes[i].ns = bench::median(whole_[i]);
      table_.sizes[i].spread = spread_of(whole_[i]);
    }
    take_points();
    for (const auto& [part, points] : table_.points)
      fit_latency(table_.config, part, points, table_.terms);
    model_.select(size_);
    return table_;
  }

 private:
  using Parts = std::map<LatencyPart, Rounds>;

  void add_whole(const std::string& name, const Widths& widths) {
    table_.sizes.push_back({.name = name, .widths = widths});
  }

  void select(const Widths& widths) {
    check_widths(table_.config, widths, "profile");
    Size size = size_;
    size.widths = widths;
    model_.select(std::move(size));
  }

  void visit_all(bool from_the_end) {
    const size_t count = grid_.size() + whole_.size();
    for (size_t i = 0; i < count; ++i) {
      const size_t at = from_the_end ? count - 1 - i : i;
      if (at < grid_.size())
        visit_parts(grid_[at], parts_[at]);
      else
        visit_whole(table_.sizes[at - grid_.size()].widths, whole_[at - grid_.size()]);
    }
  }

  // Every round's times as at the median pace of all; a round's is the geometric mean of its visits.
  void share_the_pace() {
    const size_t rounds = parts_.front().at(LatencyPart::kRest).size();
    Rounds pace(rounds);
    const auto visits = static_cast<double>(parts_.size() + whole_.size());
    for (size_t r = 0; r < rounds; ++r) {
      double logs = 0;
      for (const Parts& parts : parts_) {
        double step = 0;
        for (const auto& [part, ns] : parts) step += ns[r];
        logs += std::log(step);
      }
      for (const Rounds& whole : whole_) logs += std::log(whole[r]);
      pace[r] = std::exp(logs / visits);
    }
    const double usual = bench::median(pace);
    for (size_t r = 0; r < rounds; ++r) {
      for (Parts& parts : parts_)
        for (auto& [part, ns] : parts) ns[r] *= usual / pace[r];
      for (Rounds& whole : whole_) whole[r] *= usual / pace[r];
    }
    char text[16];
    std::snprintf(text, sizeof text, "%.1f%%", 100 * spread_of(pace));
    table_.machine["rounds"] = str(rounds);
    table_.machine["spread_of_rounds"] = text;
  }

  void visit_parts(const Widths& widths, Parts& parts) {
    select(widths);
    Decoding decoding(ctx_, model_, o_);
    SpanTimer timer(ctx_);  // it knows its spans from the steps that warm up
    std::map<LatencyPart, std::vector<double>> steps;
    for (int64_t i = 0; i < kWarmSteps + kTimedSteps; ++i) {
      const std::map<LatencyPart, double> seconds = timed_parts(decoding, timer);
      if (i < kWarmSteps) continue;
      for (const auto& [part, s] : seconds) steps[part].push_back(kNanoseconds * s);
    }
    for (const auto& [part, ns] : steps) parts[part].push_back(bench::median(ns));
  }

  std::map<LatencyPart, double> timed_parts(Decoding& decoding, SpanTimer& timer) {
    {
      const Span span(ctx_, "step");
      decoding.step();
    }
    {
      const Span span(ctx_, "draw");
      decoding.draw();
    }
    const SpanCosts costs = timer.take();
    std::map<LatencyPart, double> seconds;
    double rest = costs.at("step").seconds + costs.at("draw").seconds;
    for (const char kind : table_.config.pattern) {
      const LatencyPart part = latency_part(static_cast<LayerKind>(kind));
      if (seconds.contains(part)) continue;
      seconds[part] = costs.at(span_of(part)).seconds;
      rest -= seconds[part];
    }
    seconds[LatencyPart::kRest] = rest;
    return seconds;
  }

  void visit_whole(const Widths& widths, Rounds& rounds) {
    select(widths);
    Decoding decoding(ctx_, model_, o_);
    std::vector<double> steps;
    for (int64_t i = 0; i < kWarmSteps + kTimedSteps; ++i) {
      const auto start = Clock::now();
      decoding.step();
      decoding.draw();  // waits for the token
      if (i >= kWarmSteps) steps.push_back(kNanoseconds * seconds_since(start));
    }
    rounds.push_back(bench::median(steps));
  }

  // Whole models in which a part has the same widths measured that part alike.
  void take_points() {
    std::map<LatencyPart, std::map<std::vector<int64_t>, std::pair<Widths, Rounds>>> same;
    for (size_t i = 0; i < grid_.size(); ++i)
      for (const auto& [part, rounds] : parts_[i]) {
        auto& [widths, all] = same[part][key_of(part, grid_[i])];
        if (all.empty()) widths = grid_[i];
        all.insert(all.end(), rounds.begin(), rounds.end());
      }
    for (const auto& [part, points] : same)
      for (auto point = points.rbegin(); point != points.rend(); ++point)  // the widest first
        table_.points[part].push_back({.widths = point->second.first,
                                       .ns = bench::median(point->second.second),
                                       .spread = spread_of(point->second.second)});
  }

  std::vector<int64_t> key_of(LatencyPart part, const Widths& widths) const {
    std::vector<int64_t> key = {widths.hidden};
    for (int64_t l = 0; l < table_.config.layers() && part != LatencyPart::kRest; ++l) {
      if (latency_part(table_.config.kind(l)) != part) continue;
      for (const Axis axis : axes_of(table_.config, table_.config.kind(l)))
        key.push_back(width_of(widths, l, axis));
    }
    return key;
  }

  Context& ctx_;
  LoadedModel& model_;
  const ProfileOptions& o_;
  Size size_;  // selected before
  LatencyTable table_;
  std::vector<Widths> grid_;
  std::vector<Parts> parts_;   // of the grid
  std::vector<Rounds> whole_;  // of the whole models
};

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "a CPU without a name";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

// Of the last minute, of all cores: what else runs shows in every time.
std::string load_now() {
  double load = 0;
  NESTLING_CHECK(getloadavg(&load, 1) == 1, "the system does not say its load");
  char text[16];
  std::snprintf(text, sizeof text, "%.2f", load);
  return text;
}

void describe_machine(Context& ctx, LoadedModel& model, LatencyTable& table) {
  const bool cuda = ctx.device() == Device::kCuda;
  const ParameterSpec* product = nullptr;
  for (const ParameterSpec& spec : model.weights().specs())
    if (spec.product) product = &spec;
  const int64_t at = product - model.weights().specs().data();
  const bool bf16 = static_cast<bool>(model.weights().low(at));
  const auto& codes = model.weights().quantization();
  auto& m = table.machine;
  m["device"] = device_name(ctx.device());
  m["name"] = cuda ? cuda::device_info().name : cpu_name();
  m["isa"] = cuda ? cuda_isa_name(cuda::device_isa()) : cpu_isa_name(cpu_isa());
  m["threads"] = str(thread_count());
  const char* waits = std::getenv("OMP_WAIT_POLICY");  // threads that sleep wake up late
  m["wait_policy"] = waits != nullptr ? waits : "the default";
  m["compute"] = bf16 ? "bf16" : "fp32";
  m["activations"] = model.activations() == DType::kBF16 ? "bf16" : "fp32";
  m["weights"] = codes ? weight_format_label(codes->format) : m["compute"];
  m["program"] = program_version();
  m["date"] = today();
  table.terms.measured_on = str(m["name"], ", ", m["isa"]);
  if (!cuda)
    table.terms.measured_on +=
        str(", ", m["threads"], thread_count() == 1 ? " thread" : " threads");
  table.terms.measured_on += str(", ", m["compute"], " products");
  if (codes) table.terms.measured_on += str(", ", m["weights"], " weights");
}

}  // namespace

LatencyTable profile_model(Context& ctx, LoadedModel& model, const ProfileOptions& options) {
  NESTLING_CHECK_INPUT(options.context >= kLeastContext, "profile: context ", options.context,
                       ", needs ", kLeastContext, " or more");
  const std::string load = load_now();
  LatencyTable table = Profiler(ctx, model, options).run();
  table.machine["load_before"] = load;
  describe_machine(ctx, model, table);
  return table;
}

}  // namespace nestling
