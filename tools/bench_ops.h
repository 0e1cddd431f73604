// bench_ops.h - `nestling bench ops`: the speed of every operator, against this machine's own peaks.
//
// Output        a table on stdout; with json one line:
//               {"peaks":{...},"ops":[{"name","shape","dtype","ms","gflops","gbytes_s",
//               "share_of_peak","floor"[,"floor_gflops"]}]}. All figures are measured, in this run.
// Peaks         products: a loop of register FMAs (for bf16: of bf16 dot products where the CPU
//               has them and cpu_isa allows them, else the same f32 loop), on all threads.
//               Memory: a copy of four times the last-level cache. Best of five, like every time.
// Share         GFLOP/s over the product peak of the dtype, or GB/s over the copy, as the
//               operator is bound by.
// Floors        the share an operator must reach ("floor", null where none is asked); with
//               check_floors those missed are named on stderr.
#pragma once
#include <string>

namespace nestling {

struct BenchOpsOptions {
  bool json = false;
  bool check_floors = false;
  int threads = 0;      // 0: what OpenMP offers
  std::string cpu_isa;  // empty: what the machine has
  std::string only;     // operators whose name begins with this
};

// The exit code: 1 when a floor was asked for and missed.
int bench_ops(const BenchOpsOptions& options);

}  // namespace nestling
