// peaks.h - what this machine can do at best, on all threads.
#pragma once
#include <functional>

namespace nestling::bench {

struct Peaks {
  double f32_gflops = 0;     // register FMAs of the widest vectors cpu_isa() allows
  double bf16_gflops = 0;    // bf16 dot products, or f32_gflops where there are none
  bool bf16_native = false;  // which of the two
  double copy_gbytes_s = 0;  // bytes read plus bytes written, ordinary stores
  double read_gbytes_s = 0;
  double memory_mib = 0;  // size of the array copied: four times the last-level cache
};
Peaks measure_peaks();

// Seconds of one call: the best of 5 to 50 repeats within 0.3 s. Short calls are repeated until a
// measurement takes 2 ms.
double best_seconds(const std::function<void()>& call);

}  // namespace nestling::bench
