// device_block.h - the `device` object of every benchmark's JSON: what the figures are of.
//
//   cpu    {"kind":"cpu","cpu_isa","threads"}
//   cuda   {"kind":"cuda","name","compute_capability","multiprocessors","memory_bytes","l2_bytes",
//           "highest_clock_mhz","highest_memory_clock_mhz","memory_bus_bits","driver_cuda","runtime_cuda",
//           "cublas","cuda_isa","found":{"sm_clock_mhz","memory_clock_mhz","power_limit_w","power_w","temperature_c",
//           "slowed_by"} or null}: as the CUDA runtime has it, and as card_state.h finds it at the call,
//           every figure of `found` being null where the card has none.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "kernels/core/peaks.h"
#include "kernels/core/view.h"
#include "kernels/cuda/memory.h"

namespace nestling::bench {

nlohmann::ordered_json device_block(Device device);
// {"f32_gflops","bf16_gflops",...}: measured; on CUDA also {"published":{...} or null}.
nlohmann::ordered_json peaks_block(Device device, const Peaks& peaks);
// {"launches","uploads","copies","waits"}: what the host asked of the device between the two; null on the CPU.
nlohmann::ordered_json asked_block(Device device, const cuda::Activity& from,
                                   const cuda::Activity& to);

}  // namespace nestling::bench
