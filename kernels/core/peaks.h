// peaks.h - what this machine can do at best, on all threads. (Of a card: tools/bench/device_peaks.h.)
#pragma once
#include <functional>

namespace nestling {

struct Peaks {
  double f32_gflops = 0;     // register FMAs of the widest vectors cpu_isa() allows
  double bf16_gflops = 0;    // bf16 dot products, or f32_gflops where there are none
  bool bf16_native = false;  // which of the two
  double tf32_gflops = 0;    // CUDA alone; no operator rounds to TF32
  double copy_gbytes_s = 0;  // bytes read plus bytes written, ordinary stores
  double read_gbytes_s = 0;
  double memory_mib = 0;  // size of the array copied: four times the last-level cache
};
Peaks measure_peaks();

// GFLOP/s of registers alone: bf16 dot products where there are any, else f32 FMAs.
double product_peak(bool bf16, double longest);

// Seconds of one call: the best of five repeats, or of up to 50 within `longest` seconds, so that a core
// that is lent elsewhere for a moment does not decide. Short calls are repeated until a repeat takes
// 2 ms.
inline constexpr double kLongestMeasurement = 0.3;
double best_seconds(const std::function<void()>& call, double longest = kLongestMeasurement);

}  // namespace nestling
