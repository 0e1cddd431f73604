// device_block.h - the `device` object of every benchmark's JSON: what the figures are of.
//
//   cpu    {"kind":"cpu","cpu_isa","threads"}
//   cuda   {"kind":"cuda","name","compute_capability","multiprocessors","memory_bytes","l2_bytes",
//           "highest_clock_mhz","highest_memory_clock_mhz","memory_bus_bits","driver_cuda","runtime_cuda",
//           "cublas"}: as the CUDA runtime has it; clocks and power limit as found are nvidia-smi's to tell.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "kernels/core/peaks.h"
#include "kernels/core/view.h"

namespace nestling::bench {

nlohmann::ordered_json device_block(Device device);
// {"f32_gflops","bf16_gflops",...}: measured; on CUDA also {"published":{...} or null}.
nlohmann::ordered_json peaks_block(Device device, const Peaks& peaks);

}  // namespace nestling::bench
