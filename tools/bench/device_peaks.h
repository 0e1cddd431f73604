// device_peaks.h - what a card can do at best, measured in this run; and what its maker says it can.
#pragma once
#include <string>

#include "kernels/core/context.h"
#include "kernels/core/peaks.h"

namespace nestling::bench {

// Products      the best rate of cuBLASLt's own proposals (kernels/cuda/product_ceiling.h) at 4096^3, 8192^3
//               and 16384 x 8192 x 8192, random operands; f32 never in TF32, whose rate stands apart.
// Copy          1 GiB from device memory to device memory by the driver, bytes read plus bytes written.
// Tiny          64^3 and 64 KiB, to see that it works.
// f32           its ceiling and that of TF32 too, which take seconds; else they are 0.
Peaks measure_device_peaks(Context& ctx, bool tiny, bool f32);

// Of dense products, GFLOP/s, from NVIDIA's data sheets; 0 for a card that is not in the table.
struct PublishedPeaks {
  double f32_gflops = 0, bf16_gflops = 0;
  double memory_gbytes_s = 0;
};
PublishedPeaks published_peaks(const std::string& card);

}  // namespace nestling::bench
