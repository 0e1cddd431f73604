#include "tools/bench_ops.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "tools/bench/benches.h"
#include "tools/bench/device_block.h"
#include "tools/bench/device_peaks.h"

namespace nestling {

namespace {

using bench::Bench;
using bench::Result;

nlohmann::ordered_json to_json(const Bench& b) {
  nlohmann::ordered_json out;
  out["device"] = bench::device_block(b.device());
  out["peaks"] = bench::peaks_block(b.device(), b.peaks());
  out["ops"] = nlohmann::ordered_json::array();
  for (const Result& r : b.results()) {
    nlohmann::ordered_json op = {{"name", r.of.name}, {"shape", r.of.shape}, {"dtype", r.of.dtype}};
    if (r.refused.empty()) {
      op.update({{"ms", r.ms},
                 {"gflops", r.gflops},
                 {"gbytes_s", r.gbytes_s},
                 {"peak", r.peak},
                 {"share_of_peak", r.share_of_peak},
                 {"bound", r.memory_bound ? "memory" : "product"}});
    }
    op["floor"] = nullptr;
    if (r.of.floor > 0) op["floor"] = r.of.floor;
    if (r.of.floor_gflops > 0) op["floor_gflops"] = r.of.floor_gflops;
    op["refused"] = nullptr;
    if (!r.refused.empty()) op["refused"] = r.refused;
    out["ops"].push_back(op);
  }
  return out;
}

void print_cpu_peaks(const Peaks& p) {
  std::printf(
      "measured, %d threads, %s: f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s (%s), copy %.1f GB/s,"
      " read %.1f GB/s (%.0f MiB)\n",
      thread_count(), cpu_isa_name(cpu_isa()), p.f32_gflops, p.bf16_gflops,
      p.bf16_native ? "bf16 dot products" : "f32 FMAs", p.copy_gbytes_s, p.read_gbytes_s,
      p.memory_mib);
}

void print_head(const Bench& b) {
  if (b.device() == Device::kCpu)
    print_cpu_peaks(b.peaks());
  else
    std::printf("device %s\nmeasured %s\n", bench::device_block(b.device()).dump().c_str(),
                bench::peaks_block(b.device(), b.peaks()).dump().c_str());
  std::printf("%-28s %-24s %-5s %10s %9s %9s %6s  %s\n", "op", "shape", "dtype", "ms", "GFLOP/s",
              "GB/s", "share", "floor");
}

std::string describe_floor(const Result& r) {
  if (r.of.floor > 0) return str(100 * r.of.floor, "%");
  if (r.of.floor_gflops > 0) return str(r.of.floor_gflops, " GFLOP/s");
  return "";
}

void print_result(const Result& r) {
  if (!r.refused.empty()) {
    std::printf("%-28s %-24s %-5s REFUSED: %s\n", r.of.name.c_str(), r.of.shape.c_str(),
                r.of.dtype.c_str(), r.refused.c_str());
    return;
  }
  std::printf("%-28s %-24s %-5s %10.4f %9.2f %9.2f %5.1f%%  %s%s\n", r.of.name.c_str(),
              r.of.shape.c_str(), r.of.dtype.c_str(), r.ms, r.gflops, r.gbytes_s,
              100 * r.share_of_peak, describe_floor(r).c_str(), r.floor_met() ? "" : "  MISSED");
  std::fflush(stdout);
}

bench::Scale scale_of(const BenchOpsOptions& options, Device device) {
  if (options.tiny) return bench::Scale::kTiny;
  return device == Device::kCuda ? bench::Scale::kCard : bench::Scale::kCpu;
}

Bench bench_of(const BenchOpsOptions& options, Context& ctx) {
  constexpr double kLongestOnCard = 0.3;
  const bool card = ctx.device() == Device::kCuda;
  const Peaks peaks = card ? bench::measure_device_peaks(ctx, options.tiny, true) : measure_peaks();
  const double longest = options.tiny ? 0.0 : card ? kLongestOnCard : kLongestMeasurement;
  return {ctx, scale_of(options, ctx.device()), peaks, longest};
}

// Names what missed its floor; the exit code.
int check_floors(const Bench& b) {
  int code = 0;
  for (const Result& r : b.results()) {
    if (r.floor_met()) continue;
    std::fprintf(stderr, "floor missed: %s %s %s: %.1f%% of peak, %.1f GFLOP/s; %s%s\n",
                 r.of.name.c_str(), r.of.shape.c_str(), r.of.dtype.c_str(), 100 * r.share_of_peak,
                 r.gflops, r.refused.empty() ? "needs " : "refused: ",
                 r.refused.empty() ? describe_floor(r).c_str() : r.refused.c_str());
    code = 1;
  }
  return code;
}

}  // namespace

int bench_ops(const BenchOpsOptions& options) {
  const auto chosen = [&](const bench::Entry& entry) {
    return std::string(entry.name).starts_with(options.only);
  };
  NESTLING_CHECK_INPUT(std::any_of(std::begin(bench::kBenches), std::end(bench::kBenches), chosen),
                       "bench ops: no operator begins with '", options.only, "'");
  if (!options.cpu_isa.empty()) set_cpu_isa(parse_cpu_isa(options.cpu_isa));
  if (options.threads > 0) set_thread_count(options.threads);
  Context ctx(parse_device(options.device));
  Bench b = bench_of(options, ctx);
  if (!options.json) print_head(b);
  size_t printed = 0;
  for (const auto& entry : bench::kBenches) {
    if (!chosen(entry)) continue;
    entry.run(b);
    if (options.json) continue;
    for (; printed < b.results().size(); ++printed) print_result(b.results()[printed]);
  }
  if (options.json) std::printf("%s\n", to_json(b).dump().c_str());
  return options.check_floors ? check_floors(b) : 0;
}

}  // namespace nestling
