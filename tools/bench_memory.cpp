#include "tools/bench_memory.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <unistd.h>

#include "data/json.h"
#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "runtime/parent.h"
#include "tools/random_batch.h"
#include "trainer/distill_step.h"
#include "trainer/pin_machine.h"

namespace nestling {

namespace {

double mib(double bytes) {
  return bytes / (1 << 20);
}

double peak_resident() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

double resident() {
  std::ifstream file("/proc/self/statm");
  double all = 0, pages = 0;
  file >> all >> pages;
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::vector<double> only(const RunConfig& config, const std::string& size) {
  const auto& sizes = config.elastic.sizes;
  std::vector<double> sampling(sizes.size(), 0.0);
  const auto at = std::find_if(sizes.begin(), sizes.end(),
                               [&](const SizeConfig& s) { return size.empty() || s.name == size; });
  NESTLING_CHECK_INPUT(at != sizes.end(), "bench memory: the config has no size '", size, "'");
  sampling[static_cast<size_t>(at - sizes.begin())] = 1;
  return sampling;
}

struct Measured {
  double before = 0, peak = 0, seconds = 0, flops = 0;
  DistillResult result;
  std::vector<MemoryPool> pools;
};

Measured measure(const BenchMemoryOptions& o, const RunConfig& config) {
  Context ctx(Device::kCpu);
  const auto comm = make_self_comm();
  const Parent parent(config.parent, "parent");
  const ElasticSpace space = make_space(parent.config(), written_choices(config.elastic.choices),
                                        config.elastic.multiple_of, {});
  Weights teacher(space.config, Device::kCpu, {.compute = teacher_precision(config)});
  parent.import(space.config, teacher);
  RouterTraining router(space, config);
  if (o.mode == "slice") router.freeze_evenly();
  DistillStep step(space, config, teacher, router, ctx, *comm);
  const std::vector<double> sampling = only(config, o.size);
  const std::vector<Batch> batch = {random_batch(1, o.seq_len, space.config.vocab, 0)};
  ctx.reset_work();
  Measured m;
  m.before = resident();
  const auto start = std::chrono::steady_clock::now();
  m.result = step.run(batch, sampling, {.lr = 1e-4});
  m.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  m.peak = peak_resident();
  m.flops = ctx.total_work().flops;
  m.pools = step.memory();
  return m;
}

}  // namespace

int bench_memory(const BenchMemoryOptions& o) {
  const RunConfig config = read_run_config(o.config, o.set);
  pin_machine(config);
  const Measured m = measure(o, config);
  NESTLING_CHECK(!m.result.skipped, "bench memory: the step was not finite: loss ", m.result.loss,
                 ", gradient norm ", m.result.grad_norm);
  if (!o.json) {
    std::printf("%s, recompute %s, %lld tokens: %.1f s, %.1f GFLOP, loss %.6g\n", o.mode.c_str(),
                config.parallel.recompute.c_str(), static_cast<long long>(o.seq_len), m.seconds,
                m.flops / 1e9, m.result.loss);
    for (const MemoryPool& p : m.pools)
      std::printf("  %-20s %10.1f MiB\n", p.name.c_str(), mib(static_cast<double>(p.bytes)));
    std::printf("  %-20s %10.1f MiB\n", "sum of pools",
                mib(static_cast<double>(total_bytes(m.pools))));
    std::printf("  %-20s %10.1f MiB, %.1f before the step\n", "peak resident", mib(m.peak),
                mib(m.before));
    return 0;
  }
  Json pools = Json::object();
  for (const MemoryPool& p : m.pools) pools[pool_key(p)] = p.bytes;
  const Json out = {{"mode", o.mode},
                    {"size", o.size},
                    {"recompute", config.parallel.recompute},
                    {"seq_len", o.seq_len},
                    {"seconds", m.seconds},
                    {"gflops", m.flops / 1e9},
                    {"loss", m.result.loss},
                    {"grad_norm", m.result.grad_norm},
                    {"peak_resident_bytes", m.peak},
                    {"resident_before_bytes", m.before},
                    {"pools", pools},
                    {"threads", thread_count()},
                    {"cpu_isa", cpu_isa_name(cpu_isa())}};
  std::printf("%s\n", dump_json(out, -1).c_str());
  return 0;
}

}  // namespace nestling
