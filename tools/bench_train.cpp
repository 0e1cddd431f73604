#include "tools/bench_train.h"

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "data/json.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "model/cost.h"
#include "model/huggingface.h"
#include "tools/bench/device_block.h"
#include "tools/bench/step_setting.h"
#include "tools/bench/timing.h"
#include "tools/layers_report.h"
#include "tools/random_batch.h"
#include "trainer/train_step.h"

namespace nestling {

namespace {

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

BenchTrainOptions settled(const BenchTrainOptions& asked) {
  BenchTrainOptions o = asked;
  NESTLING_CHECK_INPUT(o.tiny == o.config.empty(),
                       "bench train: needs a directory with config.json, or --tiny without it");
  NESTLING_CHECK_INPUT(!o.tiny || !o.weights, "bench train: --tiny has no weights to load");
  if (o.seq_len == 0) o.seq_len = o.tiny ? 16 : 512;
  if (o.batch == 0) o.batch = o.tiny ? 2 : 8;
  return o;
}

struct Timed {
  std::vector<double> seconds;
  StepResult first, last;
  double first_seconds = 0;
  cuda::Activity before, after;  // the last step
};

Timed timed_steps(const BenchTrainOptions& o, TrainStep& step, int64_t vocab, Context& ctx) {
  constexpr int64_t kWarmup = 2;
  Timed t;
  for (int64_t i = 0; i < o.steps + kWarmup; ++i) {
    const std::vector<Batch> batch = {random_batch(o.batch, o.seq_len, vocab, i)};
    ctx.synchronize();
    ctx.reset_work();
    const auto start = std::chrono::steady_clock::now();
    t.before = cuda::activity();
    t.last = step.run(batch, 1e-4, i + 1);
    t.after = cuda::activity();
    ctx.synchronize();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i == 0) {
      t.first = t.last;
      t.first_seconds = took.count();
    }
    if (i >= kWarmup) t.seconds.push_back(took.count());
  }
  return t;
}

}  // namespace

int bench_train(const BenchTrainOptions& options) {
  const BenchTrainOptions o = settled(options);
  if (o.threads > 0) set_thread_count(o.threads);
  const ModelConfig model = o.tiny      ? bench::tiny_model()
                            : o.weights ? read_parent_config(o.config)
                                        : read_model_config(o.config);
  PretrainConfig config;
  config.precision = bench::precision_on(o.device, o.compute, o.activations, "bench train");
  Context ctx(parse_device(o.device));
  const auto comm = make_self_comm();
  TrainStep step(model, config, ctx, *comm);
  if (o.weights) {
    import_weights(o.config, model, step.weights());
  } else {
    step.weights().initialize(1, bench::kDistinctWeights);
  }
  const Timed t = timed_steps(o, step, model.vocab, ctx);
  const double median = bench::median(t.seconds);
  const double rate = static_cast<double>(o.batch * o.seq_len) / median;
  const Work work = ctx.total_work();
  const ParameterCost cost = parameter_cost(model);
  if (o.json) {
    const Json out = {{"mode", "pretrain"},
                      {"dtype", o.compute},
                      {"activations", config.precision.activations},
                      {"device", bench::device_block(ctx.device())},
                      {"memory", pools_json(step.memory())},
                      {"tokens_per_second", rate},
                      {"step_seconds", t.seconds},
                      {"asked_per_step", bench::asked_block(ctx.device(), t.before, t.after)},
                      {"gflops_per_step", work.flops / 1e9},
                      {"gflops_per_second", work.flops / 1e9 / median},
                      {"peak_rss_mib", peak_mib()},
                      {"params_total", cost.total},
                      {"params_active", cost.active},
                      {"first_loss", t.first.loss},
                      {"first_grad_norm", t.first.grad_norm},
                      {"first_step_seconds", t.first_seconds},
                      {"loss", t.last.loss},
                      {"threads", thread_count()},
                      {"cpu_isa", cpu_isa_name(cpu_isa())},
                      {"weights", o.weights ? "loaded" : "random"}};
    std::printf("%s\n", dump_json(out, -1).c_str());
  } else {
    std::printf(
        "%.0f tokens/s, %.3f s a step (median of %lld), %.1f GFLOP/s, peak %.0f MiB; "
        "%s weights\n",
        rate, median, static_cast<long long>(o.steps), work.flops / 1e9 / median, peak_mib(),
        o.weights ? "loaded" : "random");
  }
  return 0;
}

}  // namespace nestling
