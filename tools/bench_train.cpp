#include "tools/bench_train.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "data/json.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "model/cost.h"
#include "model/huggingface.h"
#include "tools/random_batch.h"
#include "trainer/train_step.h"

namespace nestling {

namespace {

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

}  // namespace

int bench_train(const BenchTrainOptions& o) {
  constexpr int64_t kWarmup = 2;
  if (o.threads > 0) set_thread_count(o.threads);
  const ModelConfig model = read_model_config(o.config);
  PretrainConfig config;
  config.precision.compute = o.compute;
  Context ctx(Device::kCpu);
  const auto comm = make_self_comm();
  TrainStep step(model, config, ctx, *comm);
  if (o.weights) {
    import_weights(o.config, model, step.weights());
  } else {
    step.weights().initialize(1);
  }
  std::vector<double> seconds;
  StepResult first, result;
  double first_seconds = 0;
  for (int64_t i = 0; i < o.steps + kWarmup; ++i) {
    const std::vector<Batch> batch = {random_batch(o.batch, o.seq_len, model.vocab, i)};
    ctx.reset_work();
    const auto start = std::chrono::steady_clock::now();
    result = step.run(batch, 1e-4, i + 1);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i == 0) {
      first = result;
      first_seconds = took.count();
    }
    if (i >= kWarmup) seconds.push_back(took.count());
  }
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  const double rate = static_cast<double>(o.batch * o.seq_len) / median;
  const Work work = ctx.total_work();
  const ParameterCost cost = parameter_cost(model);
  if (o.json) {
    const Json out = {{"mode", "pretrain"},
                      {"dtype", o.compute},
                      {"tokens_per_second", rate},
                      {"step_seconds", seconds},
                      {"gflops_per_step", work.flops / 1e9},
                      {"gflops_per_second", work.flops / 1e9 / median},
                      {"peak_rss_mib", peak_mib()},
                      {"parameters", cost.total},
                      {"parameters_active", cost.active},
                      {"first_loss", first.loss},
                      {"first_grad_norm", first.grad_norm},
                      {"first_step_seconds", first_seconds},
                      {"loss", result.loss},
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
