// planted_fault race|heap|undefined - a fault of each kind, to show that the sanitizers of this build
// see it: what they find ends the program with their report and a code above 0.
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/parallel.h"
#include "kernels/core/tensor.h"

namespace nestling {
namespace {

constexpr int64_t kCount = 1000;

// The same sum twice: into a place of each range's own, then into one place without order.
double race() {
  set_thread_count(2);
  std::vector<double> parts(kCount);
  parallel_for(kCount, 10, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) parts[static_cast<size_t>(begin)] += 1;
  });
  double sum = 0;
  parallel_for(kCount, 10, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum += parts[static_cast<size_t>(i)];
  });
  return sum;
}

// One element behind a tensor.
double heap() {
  Tensor x(Device::kCpu, DType::kF32, {kCount});
  x.ptr<float>()[kCount] = 1;
  return x.ptr<float>()[0];
}

double undefined(int argc) {
  return std::numeric_limits<int>::max() - 1 + argc;
}

double fault(const std::string& kind, int argc) {
  if (kind == "race") return race();
  if (kind == "heap") return heap();
  return undefined(argc);
}

}  // namespace
}  // namespace nestling

int main(int argc, char** argv) {
  std::printf("%g\n", nestling::fault(argc > 1 ? argv[1] : "undefined", argc));
}
