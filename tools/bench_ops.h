// bench_ops.h - `nestling bench ops`: the speed of every operator, against this machine's own peaks.
//
// Output        a table on stdout, a line a case as soon as it is done; with json that on stderr, and at the end one line:
//               {"device":{...},"peaks":{...},"ops":[{"name","shape","dtype","ms","gflops","gbytes_s",
//               "peak","share_of_peak","bound","floor"[,"floor_gflops"],"refused"}]}. All figures are
//               measured, in this run; of what was refused only the reason. An operator whose cases cannot go on, as after
//               one that broke the device's context, is refused by its name, and all else is still said.
// CUDA          the shapes of Nemotron 3 Nano's layers, medians by events; peaks as in device_peaks.h.
// CPU           peaks of products: a loop of register FMAs (for bf16: of bf16 dot products where the CPU
//               has them and cpu_isa allows them, else the same f32 loop), on all threads.
//               Memory: a copy of four times the last-level cache. Best of five, like every time.
// Share         GFLOP/s over the product peak of the dtype, or GB/s over the copy, as the
//               operator is bound by; of one that both may bind, whichever is larger. Of FP8 products
//               the peak is that of bf16, which they may exceed twofold.
// Floors        the share an operator must reach ("floor", null where none is asked); with
//               check_floors those missed are named on stderr. What was refused has missed its floor.
// Tiny          a few rows of everything, to see that it runs: no floors.
#pragma once
#include <string>

namespace nestling {

struct BenchOpsOptions {
  bool json = false;
  bool check_floors = false;
  bool tiny = false;
  std::string device = "cpu";
  int threads = 0;      // 0: what OpenMP offers
  std::string cpu_isa;  // empty: what the machine has
  std::string only;     // operators whose name begins with this
};

// The exit code: 1 when a floor was asked for and missed, or an operator's cases could not go on.
int bench_ops(const BenchOpsOptions& options);

}  // namespace nestling
