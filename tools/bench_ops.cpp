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

using OrderedJson = nlohmann::ordered_json;

OrderedJson to_json(const std::vector<Result>& results) {
  OrderedJson ops = OrderedJson::array();
  for (const Result& r : results) {
    OrderedJson op = {{"name", r.of.name}, {"shape", r.of.shape}, {"dtype", r.of.dtype}};
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
    ops.push_back(op);
  }
  return ops;
}

void print_cpu_peaks(const Peaks& p, std::FILE* to) {
  std::fprintf(to,
               "measured, %d threads, %s: f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s (%s), copy %.1f GB/s,"
               " read %.1f GB/s (%.0f MiB)\n",
               thread_count(), cpu_isa_name(cpu_isa()), p.f32_gflops, p.bf16_gflops,
               p.bf16_native ? "bf16 dot products" : "f32 FMAs", p.copy_gbytes_s, p.read_gbytes_s,
               p.memory_mib);
}

void print_head(const Bench& b, const OrderedJson& head, std::FILE* to) {
  if (b.device() == Device::kCpu)
    print_cpu_peaks(b.peaks(), to);
  else
    std::fprintf(to, "device %s\nmeasured %s\n", head["device"].dump().c_str(),
                 head["peaks"].dump().c_str());
  std::fprintf(to, "%-28s %-24s %-5s %10s %9s %9s %6s  %s\n", "op", "shape", "dtype", "ms",
               "GFLOP/s", "GB/s", "share", "floor");
}

std::string describe_floor(const Result& r) {
  if (r.of.floor > 0) return str(100 * r.of.floor, "%");
  if (r.of.floor_gflops > 0) return str(r.of.floor_gflops, " GFLOP/s");
  return "";
}

void print_result(const Result& r, std::FILE* to) {
  if (!r.refused.empty())
    std::fprintf(to, "%-28s %-24s %-5s REFUSED: %s\n", r.of.name.c_str(), r.of.shape.c_str(),
                 r.of.dtype.c_str(), r.refused.c_str());
  else
    std::fprintf(to, "%-28s %-24s %-5s %10.4f %9.2f %9.2f %5.1f%%  %s%s\n", r.of.name.c_str(),
                 r.of.shape.c_str(), r.of.dtype.c_str(), r.ms, r.gflops, r.gbytes_s,
                 100 * r.share_of_peak, describe_floor(r).c_str(), r.floor_met() ? "" : "  MISSED");
  std::fflush(to);
}

bench::Scale scale_of(const BenchOpsOptions& options, Device device) {
  if (options.tiny) return bench::Scale::kTiny;
  return device == Device::kCuda ? bench::Scale::kCard : bench::Scale::kCpu;
}

Bench bench_of(const BenchOpsOptions& options, Context& ctx, std::FILE* to) {
  constexpr double kLongestOnCard = 0.3;
  const bool card = ctx.device() == Device::kCuda;
  const Peaks peaks = card ? bench::measure_device_peaks(ctx, options.tiny, true) : measure_peaks();
  const double longest = options.tiny ? 0.0 : card ? kLongestOnCard : kLongestMeasurement;
  return {ctx, scale_of(options, ctx.device()), peaks, longest,
          [to](const Result& r) { print_result(r, to); }};
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

// False: an operator's cases could not go on, as when its operands do not fit, or nothing does after a case that broke
// the context. What was measured stays.
bool run(const bench::Entry& entry, Bench& b) {
  try {
    entry.run(b);
  } catch (const Error& e) {
    b.refuse({.name = entry.name, .shape = "and all that follow", .bound = bench::BoundBy::kMemory},
             e.what());
    return false;
  }
  return true;
}

// As it is now, warm; as it was at the start where it answers no more.
OrderedJson device_after(Device device, const OrderedJson& before) {
  try {
    return bench::device_block(device);
  } catch (const Error&) {
    return before;
  }
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
  std::FILE* to = options.json ? stderr : stdout;
  Bench b = bench_of(options, ctx, to);
  OrderedJson out = {{"device", bench::device_block(ctx.device())},
                     {"peaks", bench::peaks_block(ctx.device(), b.peaks())}};
  print_head(b, out, to);
  bool whole = true;
  for (const auto& entry : bench::kBenches)
    if (chosen(entry)) whole = run(entry, b) && whole;
  out["device"] = device_after(ctx.device(), out["device"]);
  out["ops"] = to_json(b.results());
  if (options.json) std::printf("%s\n", out.dump().c_str());
  const int code = options.check_floors ? check_floors(b) : 0;
  return whole ? code : 1;
}

}  // namespace nestling
