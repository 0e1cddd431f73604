// benches.h - the one list of operators that `bench ops` measures.
#pragma once
#include "tools/bench/bench.h"

namespace nestling::bench {

void bench_linear(Bench& b);
void bench_experts(Bench& b);
void bench_attention(Bench& b);
void bench_rms_norm(Bench& b);
void bench_mask(Bench& b);
void bench_adamw(Bench& b);
void bench_scan(Bench& b);
void bench_conv1d(Bench& b);
void bench_gated_norm(Bench& b);
void bench_unit_sums(Bench& b);

struct Entry {
  const char* name;
  void (*run)(Bench&);
};
inline constexpr Entry kBenches[] = {
    {"linear", bench_linear},
    {"experts", bench_experts},
    {"scan", bench_scan},
    {"attention", bench_attention},
    {"rms_norm", bench_rms_norm},
    {"conv1d", bench_conv1d},
    {"rms_norm_gated", bench_gated_norm},
    {"mask", bench_mask},
    {"adamw", bench_adamw},
    {"unit_sums", bench_unit_sums},
};

}  // namespace nestling::bench
