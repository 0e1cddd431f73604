#include "tools/bench/device_block.h"

#include <nlohmann/json.hpp>

#include "kernels/core/isa.h"
#include "kernels/core/parallel.h"
#include "kernels/cuda/device_info.h"
#include "tools/bench/card_state.h"
#include "tools/bench/device_peaks.h"

namespace nestling::bench {

using OrderedJson = nlohmann::ordered_json;

namespace {

template <class T>
OrderedJson or_null(const std::optional<T>& figure) {
  return figure ? OrderedJson(*figure) : OrderedJson();
}

OrderedJson found_block(const std::string& pci_address) {
  const std::optional<CardState> s = card_state(pci_address);
  if (!s) return nullptr;
  return {{"sm_clock_mhz", or_null(s->sm_clock_mhz)},
          {"memory_clock_mhz", or_null(s->memory_clock_mhz)},
          {"power_limit_w", or_null(s->power_limit_w)},
          {"power_w", or_null(s->power_w)},
          {"temperature_c", or_null(s->temperature_c)},
          {"slowed_by", or_null(s->slowed_by)}};
}

}  // namespace

OrderedJson device_block(Device device) {
  if (device != Device::kCuda)
    return {{"kind", "cpu"}, {"cpu_isa", cpu_isa_name(cpu_isa())}, {"threads", thread_count()}};
  const cuda::DeviceInfo d = cuda::device_info();
  return {{"kind", "cuda"},
          {"name", d.name},
          {"compute_capability", str(d.capability_major, ".", d.capability_minor)},
          {"multiprocessors", d.multiprocessors},
          {"memory_bytes", d.memory_bytes},
          {"l2_bytes", d.l2_bytes},
          {"highest_clock_mhz", d.clock_mhz},
          {"highest_memory_clock_mhz", d.memory_clock_mhz},
          {"memory_bus_bits", d.memory_bus_bits},
          {"driver_cuda", d.driver},
          {"runtime_cuda", d.runtime},
          {"cublas", d.cublas},
          {"cuda_isa", cuda_isa_name(cuda::device_isa())},
          {"found", found_block(d.pci_address)}};
}

OrderedJson peaks_block(Device device, const Peaks& p) {
  if (device != Device::kCuda)
    return {{"threads", thread_count()},
            {"cpu_isa", cpu_isa_name(cpu_isa())},
            {"f32_gflops", p.f32_gflops},
            {"bf16_gflops", p.bf16_gflops},
            {"bf16_is", p.bf16_native ? "bf16 dot products" : "f32 FMAs"},
            {"copy_gbytes_s", p.copy_gbytes_s},
            {"read_gbytes_s", p.read_gbytes_s},
            {"copy_mib", p.memory_mib}};
  OrderedJson out = {{"f32_gflops", p.f32_gflops},   {"bf16_gflops", p.bf16_gflops},
                     {"tf32_gflops", p.tf32_gflops}, {"copy_gbytes_s", p.copy_gbytes_s},
                     {"copy_mib", p.memory_mib},     {"published", nullptr}};
  for (const char* name : {"f32_gflops", "tf32_gflops"})
    if (out[name] == 0.0) out[name] = nullptr;  // not measured
  const PublishedPeaks published = published_peaks(cuda::device_info().name);
  if (published.bf16_gflops > 0)
    out["published"] = {{"f32_gflops", published.f32_gflops},
                        {"bf16_gflops", published.bf16_gflops},
                        {"memory_gbytes_s", published.memory_gbytes_s}};
  return out;
}

OrderedJson asked_block(Device device, const cuda::Activity& from, const cuda::Activity& to) {
  if (device != Device::kCuda) return nullptr;
  return {{"launches", to.launches - from.launches},
          {"uploads", to.uploads - from.uploads},
          {"copies", to.copies - from.copies},
          {"waits", to.waits - from.waits}};
}

}  // namespace nestling::bench
