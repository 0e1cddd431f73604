// bench.h - one run of `bench ops`: measures calls of operators and keeps what it found.
//
// To add an operator: a file tools/bench/<op>.cpp with one function void bench_<op>(Bench&), and
// its line in kBenches (benches.h). Cases are the same on every device; their sizes are the scale's.
//
// Timing        CPU: the best of at least five (kernels/core/peaks.h). CUDA: the median of at least five by
//               events, the L2 cache overwritten before each (timing.h).
// Refusals      what an operator throws is a result too, with its reason. Nothing is measured in another type
//               in its place. Operands that do not fit the memory end the cases of their operator.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/peaks.h"
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"
#include "tools/bench/timing.h"

namespace nestling::bench {

// kCpu: caches and one processor. kCard: the layers of Nemotron 3 Nano at 8,192 tokens, and at 49,152 where
// length matters. kTiny: a few rows, to see that every case runs; no speed, so no floors.
enum class Scale : uint8_t { kCpu, kCard, kTiny };

// kProductOrMemory: whichever takes longer at its peak.
enum class BoundBy : uint8_t { kProduct, kMemory, kProductOrMemory };

// What a case computes in: activations and weights. On the CPU activations are f32.
struct Types {
  DType act = DType::kF32;
  DType weight = DType::kF32;
  std::string name() const;  // of the products: that of the weights
};

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
  std::string refused = {};  // why there are no figures
  double ms = 0;
  double gflops = 0;
  double gbytes_s = 0;
  bool memory_bound = false;
  double peak = 0;  // what share_of_peak is of: GFLOP/s, or GB/s where memory bounds
  double share_of_peak = 0;
  bool floor_met() const {
    return refused.empty() && share_of_peak >= of.floor && gflops >= of.floor_gflops;
  }
};

class Bench {
 public:
  // `longest`: seconds spent on repeats of one case. `done` is called with every result as soon as it is there.
  Bench(Context& ctx, Scale scale, const Peaks& peaks, double longest,
        std::function<void(const Result&)> done);

  // FLOPs and bytes are those that the operators called count. Returns the GFLOP/s, 0 if refused.
  // Shares of the CPU's product peak are of the better of two measurements right before and after the
  // case: on shared machines the clock is not the same a minute later.
  double measure(const Case& c, const std::function<void(Context&)>& call);
  void refuse(const Case& c, const std::string& reason);

  Device device() const { return ctx_.device(); }
  Scale scale() const { return scale_; }
  // The one of this scale.
  template <class T>
  T at(T cpu, T card, T tiny) const {
    return scale_ == Scale::kCpu ? cpu : scale_ == Scale::kCard ? card : tiny;
  }
  double floor(double cpu, double card) const { return at(cpu, card, 0.0); }
  // Everywhere f32; and bf16, on the CPU of the weights alone.
  std::vector<Types> types() const;
  std::vector<DType> activations() const;
  // Of products with one side of a few hundred: on a card, moving the other two is what takes longest.
  BoundBy narrow_product() const {
    return device() == Device::kCpu ? BoundBy::kProduct : BoundBy::kProductOrMemory;
  }
  // Divisors of a width: whole, and but on the CPU's scale half, as a prefix of the whole.
  std::vector<int64_t> parts() const;

  // Operands on the device: standard normal; zeros; what a host array holds.
  Tensor random(std::initializer_list<int64_t> shape, DType dtype = DType::kF32);
  Tensor zeros(std::initializer_list<int64_t> shape, DType dtype = DType::kF32) const;
  Tensor integers(std::initializer_list<int64_t> shape, const std::vector<int32_t>& values) const;
  // Uniform in [0, below).
  Tensor draws(std::initializer_list<int64_t> shape, int64_t below);

  const Peaks& peaks() const { return peaks_; }
  const std::vector<Result>& results() const { return results_; }

 private:
  double seconds(const std::function<void(Context&)>& call);
  double product_peak_beside(bool bf16) const;
  void keep(const Result& r);

  Context& ctx_;
  Scale scale_;
  Peaks peaks_;
  double longest_;
  std::function<void(const Result&)> done_;
  CacheFlush flush_;
  Rng rng_{42};
  std::vector<Result> results_;
};

// "8192x1344/2688": of a prefix also what it is a prefix of.
std::string part_of(int64_t whole, int64_t part);

}  // namespace nestling::bench
