#include "tools/bench_layers.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/core/parallel.h"
#include "kernels/cuda/device_info.h"
#include "model/cost.h"
#include "model/huggingface.h"
#include "model/order.h"
#include "runtime/model_card.h"
#include "tools/bench/device_block.h"
#include "tools/bench/device_peaks.h"
#include "tools/bench/step_setting.h"
#include "tools/layers_report.h"
#include "tools/random_batch.h"
#include "trainer/distill_step.h"
#include "trainer/train_step.h"

namespace nestling {

namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kWarmup = 2;
constexpr double kRate = 1e-4;
constexpr const char* kSizes[] = {"full", "75%", "50%"};

struct Setting {
  BenchLayersOptions o;
  ModelConfig model;
  PretrainConfig pretrain;
  RunConfig elastic;
  ElasticSpace space;

  int64_t sequences() const { return o.tokens / o.seq_len; }
};

// These shares of the parent's width, as near as its rules allow; tensor cores want multiples of 64.
Texts widths_near(const ModelConfig& model, Axis axis, std::initializer_list<double> shares) {
  constexpr int64_t kTile = 64;
  const WidthRule rule = width_rule(model, axis);
  Texts widths;
  for (const double share : shares) {
    const double wanted = share * static_cast<double>(rule.extent);
    const bool tiles = share < 1 && rule.step == kBlock && rule.extent >= 8 * kTile;
    const int64_t width = tiles ? std::lround(wanted / kTile) * kTile
                                : rule.nearest(share < 1 ? wanted : rule.extent);
    const std::string text = std::to_string(width);
    if (widths.empty() || widths.back() != text) widths.push_back(text);
  }
  return widths.size() > 1 ? widths : Texts();
}

RunConfig elastic_config(const BenchLayersOptions& o, const PrecisionConfig& precision,
                         const ModelConfig& model) {
  RunConfig c;
  const auto quarters = {1.0, 0.75, 0.5};
  ChoicesConfig& choices = c.elastic.choices;
  choices.hidden = widths_near(model, Axis::kHidden, {1.0, 0.86, 0.71, 0.57});
  choices.mamba_heads = widths_near(model, Axis::kMambaHeads, quarters);
  choices.query_heads = widths_near(model, Axis::kQueryHeads, quarters);
  choices.experts = widths_near(model, Axis::kExperts, quarters);
  choices.expert_ffn = widths_near(model, Axis::kExpertFfn, quarters);
  choices.shared_ffn = widths_near(model, Axis::kSharedFfn, quarters);
  c.elastic.sizes = {{.name = kSizes[0], .target = {{"full", ""}}},
                     {.name = kSizes[1], .target = {{"active_params", kSizes[1]}}},
                     {.name = kSizes[2], .target = {{"active_params", kSizes[2]}}}};
  c.router.dead_zone = 0.1;
  c.router.schedule_tokens = int64_t{1} << 50;  // masks as soft as where a run begins
  c.distill.sizes_per_micro_batch = std::ssize(c.elastic.sizes);  // what runs is what has a weight
  c.parallel.recompute = o.recompute;
  c.precision = precision;
  return c;
}

Setting setting_of(const BenchLayersOptions& asked) {
  BenchLayersOptions o = asked;
  NESTLING_CHECK_INPUT(o.tiny == o.config.empty(),
                       "bench layers: needs --config DIR, or --tiny without it");
  if (o.seq_len == 0) o.seq_len = o.tiny ? 32 : 8192;
  if (o.tokens == 0) o.tokens = o.seq_len;
  NESTLING_CHECK_INPUT(o.tokens % o.seq_len == 0, "bench layers: --tokens ", o.tokens,
                       " is not a multiple of --seq-len ", o.seq_len);
  if (o.micro_batch == 0) o.micro_batch = o.tokens / o.seq_len;
  NESTLING_CHECK_INPUT(o.tokens / o.seq_len % o.micro_batch == 0,
                       "bench layers: ", o.tokens / o.seq_len,
                       " sequences are not a multiple of --micro-batch ", o.micro_batch);
  const ModelConfig model = o.tiny ? bench::tiny_model() : read_model_config(o.config);
  PretrainConfig pretrain;
  pretrain.recompute = o.recompute;
  pretrain.precision = bench::precision_on(o.device, o.compute, o.activations, "bench layers");
  o.activations = pretrain.precision.activations;
  const RunConfig elastic = elastic_config(o, pretrain.precision, model);
  return {.o = o,
          .model = model,
          .pretrain = pretrain,
          .elastic = elastic,
          .space = make_space(model, written_choices(elastic.elastic.choices), kBlock, {})};
}

struct Outcome {
  double loss, imbalance;
  bool skipped;
};

// One kind of training on one device: what a step of a variant does there.
class Trainer {
 public:
  virtual ~Trainer() = default;
  virtual Outcome step(const std::vector<Batch>& batches, int64_t i) = 0;
  // Steps on the null device, after which memory() is what a device is asked for.
  virtual void largest_steps(const std::vector<Batch>&) {}
  virtual std::vector<MemoryPool> memory() const = 0;
};

std::unique_ptr<Comm> comm_on(const Context& ctx) {
  return ctx.device() == Device::kNull ? make_null_comm(0, 1) : make_self_comm();
}

class Pretraining final : public Trainer {
 public:
  Pretraining(const Setting& s, Context& ctx)
      : comm_(comm_on(ctx)), step_(s.model, s.pretrain, ctx, *comm_) {
    if (ctx.device() != Device::kNull) step_.weights().initialize(1, bench::kDistinctWeights);
  }
  Outcome step(const std::vector<Batch>& batches, int64_t i) override {
    const StepResult r = step_.run(batches, kRate, i + 1);
    return {.loss = r.loss, .imbalance = r.expert_imbalance, .skipped = r.skipped};
  }
  std::vector<MemoryPool> memory() const override { return step_.memory(); }

 private:
  std::unique_ptr<Comm> comm_;
  TrainStep step_;
};

class Distillation final : public Trainer {
 public:
  Distillation(const Setting& s, Context& ctx)
      : teacher_(s.model, ctx.device(), {.compute = teacher_precision(s.elastic)}),
        router_(s.space, s.elastic),
        comm_(comm_on(ctx)),
        step_(s.space, s.elastic, initialized(teacher_), router_, ctx, *comm_,
              teacher_masters(s.elastic)) {}

  void choose(size_t size) { size_ = size; }
  void freeze() { router_.freeze_evenly(); }
  // A step in slices has the memory of every size taken before it begins, whichever it trains.
  void largest_steps(const std::vector<Batch>& batches) override {
    if (!router_.frozen()) return;
    const size_t chosen = size_;
    for (size_ = 0; size_ < std::size(kSizes); ++size_) step(batches, 0);
    size_ = chosen;
  }
  Widths widths(int64_t size) const { return router_.widths(size); }

  Outcome step(const std::vector<Batch>& batches, int64_t i) override {
    std::vector<double> sampling(std::size(kSizes), 0.0);
    sampling[size_] = 1.0;
    const DistillResult r = step_.run(batches, sampling, {.step = i, .update = i + 1, .lr = kRate});
    return {.loss = r.loss, .imbalance = r.sizes[size_].imbalance, .skipped = r.skipped};
  }
  std::vector<MemoryPool> memory() const override { return step_.memory(); }

 private:
  static Weights& initialized(Weights& w) {
    if (w.device() != Device::kNull) w.initialize(1, bench::kDistinctWeights);
    return w;
  }
  Weights teacher_;
  RouterTraining router_;
  std::unique_ptr<Comm> comm_;
  DistillStep step_;
  size_t size_ = 0;
};

std::vector<Batch> batches_of(const Setting& s, int64_t step) {
  const int64_t count = s.sequences() / s.o.micro_batch;
  std::vector<Batch> batches;
  for (int64_t i = 0; i < count; ++i)
    batches.push_back(random_batch(s.o.micro_batch, s.o.seq_len, s.model.vocab, step * count + i));
  return batches;
}

TimedStep timed(Trainer& trainer, Context& ctx, SpanTimer& timer, const std::vector<Batch>& batches,
                int64_t i, const std::string& name) {
  using Clock = std::chrono::steady_clock;
  ctx.synchronize();
  ctx.reset_work();
  const auto start = Clock::now();
  const Outcome outcome = trainer.step(batches, i);
  ctx.synchronize();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  NESTLING_CHECK(!outcome.skipped, "bench layers: ", name, ": a step that is not finite");
  return {.seconds = seconds,
          .parts = timer.take(),
          .work = ctx.total_work(),
          .loss = outcome.loss,
          .imbalance = outcome.imbalance};
}

void measure(const Setting& s, Trainer& trainer, Context& ctx, LayersVariant& v) {
  SpanTimer timer(ctx);
  for (int64_t i = 0; i < s.o.steps + kWarmup; ++i) {
    TimedStep step = timed(trainer, ctx, timer, batches_of(s, i), i, v.name);
    if (i >= kWarmup) v.steps.push_back(std::move(step));
  }
  v.pools = trainer.memory();
}

bool wanted(const Setting& s, const std::string& name) {
  return s.o.only.empty() || std::find(s.o.only.begin(), s.o.only.end(), name) != s.o.only.end();
}

// Every variant asked for, in the order they run: fn(variant, its trainer, its context). Each has its own, so that
// none holds what another needed.
template <class Fn>
void for_each_variant(const Setting& s, Device device, Fn fn) {
  if (wanted(s, "pretrain")) {
    Context ctx(device);
    Pretraining pretraining(s, ctx);
    fn(LayersVariant{.name = "pretrain", .widths = full_widths(s.model)}, pretraining, ctx);
  }
  for (const bool sliced : {false, true})
    for (size_t size = 0; size < std::size(kSizes); ++size) {
      const std::string name = std::string(sliced ? "slice/" : "mask/") + kSizes[size];
      if (!wanted(s, name)) continue;
      Context ctx(device);
      Distillation distillation(s, ctx);
      if (sliced) distillation.freeze();
      distillation.choose(size);
      fn(LayersVariant{.name = name,
                       .widths = sliced ? distillation.widths(static_cast<int64_t>(size))
                                        : full_widths(s.model),
                       .teacher = true},
         distillation, ctx);
    }
}

// On the null device: what every variant will hold and do. Refuses what the device cannot hold.
OrderedJson estimate(const Setting& s, int64_t free_bytes) {
  OrderedJson all = OrderedJson::object();
  const std::vector<Batch> batches = batches_of(s, 0);
  for_each_variant(s, Device::kNull, [&](const LayersVariant& v, Trainer& trainer, Context& ctx) {
    trainer.largest_steps(batches);
    ctx.reset_work();
    trainer.step(batches, 0);
    const std::vector<MemoryPool> pools = trainer.memory();
    all[v.name] = {{"memory", pools_json(pools)},
                   {"counted_flops", ctx.total_work().flops},
                   {"counted_bytes", ctx.total_work().bytes}};
    NESTLING_CHECK_INPUT(free_bytes == 0 || total_bytes(pools) <= free_bytes,
                         "bench layers: ", v.name, " needs ", total_bytes(pools) >> 20,
                         " MiB, the device has ", free_bytes >> 20,
                         " MiB free; --recompute layer, --micro-batch or fewer --tokens take less");
  });
  return all;
}

// Each is printed when it is done: what comes after may run out of time or memory.
OrderedJson measure_all(const Setting& s, Device device, const Ceilings& ceilings, std::FILE* to) {
  OrderedJson done = OrderedJson::array();
  for_each_variant(s, device, [&](LayersVariant v, Trainer& trainer, Context& ctx) {
    measure(s, trainer, ctx, v);
    add_variant(done, s.model, s.o.tokens, s.o.seq_len, ceilings, v);
    std::fprintf(to, "%s", variant_text(done.back()).c_str());
    std::fflush(to);
  });
  return done;
}

// Its memory is given back before variants begin.
Ceilings measured_ceilings(const Setting& s, Device device, OrderedJson& out) {
  Context ctx(device);
  const bool low = s.o.compute == "bf16";
  const Peaks peaks = ctx.device() == Device::kCuda
                          ? bench::measure_device_peaks(ctx, s.o.tiny, !low)
                          : measure_peaks();
  out["peaks"] = bench::peaks_block(ctx.device(), peaks);
  Ceilings c{.measured = 1e9 * (low ? peaks.bf16_gflops : peaks.f32_gflops)};
  if (low && ctx.device() == Device::kCuda)
    c.published = 1e9 * bench::published_peaks(cuda::device_info().name).bf16_gflops;
  return c;
}

OrderedJson heading(const Setting& s) {
  const ParameterCost cost = parameter_cost(s.model);
  return {{"mode", "layers"},
          {"config", s.o.tiny ? "tiny" : s.o.config},
          {"pattern", s.model.pattern},
          {"params_total", cost.total},
          {"params_active", cost.active},
          {"tokens", s.o.tokens},
          {"seq_len", s.o.seq_len},
          {"micro_batch", s.o.micro_batch},
          {"compute", s.o.compute},
          {"activations", s.o.activations},
          {"recompute", s.o.recompute},
          {"weights", "random"},
          {"gate", "the model's own; loads of experts are not forced to be equal"}};
}

void print_heading(const OrderedJson& out, std::FILE* to) {
  std::fprintf(to, "%s: %s, %.4g parameters (%.4g active), random weights; %lld tokens a step\n",
               out["config"].get<std::string>().c_str(), out["pattern"].get<std::string>().c_str(),
               out["params_total"].get<double>(), out["params_active"].get<double>(),
               static_cast<long long>(out["tokens"].get<int64_t>()));
  std::fprintf(to, "%-12s %10s %10s %10s  counted on the null device\n", "estimate", "GiB", "TFLOP",
               "GB");
  for (const auto& [name, e] : out["estimate"].items())
    std::fprintf(to, "%-12s %10.2f %10.2f %10.1f\n", name.c_str(),
                 e["memory"]["sum"].get<double>() / (1 << 30),
                 e["counted_flops"].get<double>() / 1e12, e["counted_bytes"].get<double>() / 1e9);
}

}  // namespace

int bench_layers(const BenchLayersOptions& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const Setting s = setting_of(options);
  std::FILE* to = s.o.json ? stderr : stdout;
  OrderedJson out = heading(s);
  if (s.o.dry_run) {
    out["estimate"] = estimate(s, 0);
    print_heading(out, to);
  } else {
    const Device device =
        Context(parse_device(s.o.device)).device();  // refused before it is counted for
    out["estimate"] = estimate(s, device == Device::kCuda ? cuda::device_memory().free_bytes : 0);
    print_heading(out, to);
    const Ceilings ceilings = measured_ceilings(s, device, out);
    std::fprintf(to, "ceilings %s\n", out["peaks"].dump().c_str());
    out["variants"] = measure_all(s, device, ceilings, to);
    out["device"] = bench::device_block(device);  // now, while it is warm
    std::fprintf(to, "\ndevice %s\n", out["device"].dump().c_str());
  }
  if (s.o.json) std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace nestling
