// bench.h - one run of `bench ops`: measures calls of operators and keeps what it found.
//
// To add an operator: a file tools/bench/<op>.cpp with one function void bench_<op>(Bench&), and
// its line in kBenches (benches.h).
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/peaks.h"
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"

namespace nestling::bench {

enum class BoundBy : uint8_t { kF32Product, kBf16Product, kMemory };

struct Case {
  std::string name;  // begins with the operator: "linear_forward"
  std::string shape;
  BoundBy bound;
  double floor = 0;         // least share of peak; 0: none
  double floor_gflops = 0;  // or least GFLOP/s; 0: none
  std::string dtype = "f32";
};

struct Result {
  Case of;
  double ms = 0;
  double gflops = 0;
  double gbytes_s = 0;
  double peak = 0;  // what share_of_peak is of: GFLOP/s, or GB/s where memory bounds
  double share_of_peak = 0;
  bool floor_met() const { return share_of_peak >= of.floor && gflops >= of.floor_gflops; }
};

class Bench {
 public:
  explicit Bench(const Peaks& peaks) : peaks_(peaks) {}

  // FLOPs and bytes are those that the operators called count. Returns the GFLOP/s.
  // Shares of a product peak are of the better of two measurements right before and after the case:
  // on shared machines the clock is not the same a minute later.
  double measure(const Case& c, const std::function<void(Context&)>& call);

  // Operands: f32 standard normal (or bf16 of the same).
  Tensor random(std::initializer_list<int64_t> shape, DType dtype = DType::kF32);

  const Peaks& peaks() const { return peaks_; }
  const std::vector<Result>& results() const { return results_; }

 private:
  double peak_beside(BoundBy bound) const;
  Peaks peaks_;
  Context ctx_{Device::kCpu};
  Rng rng_{42};
  std::vector<Result> results_;
};

}  // namespace nestling::bench
