#include "kernels/ops/unit_sums.h"

#include "kernels/ops/state_score.h"
#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

void magnitudes(Bench& b, DType act) {
  const auto tokens = b.at<int64_t>(4096, 8192, 40), width = b.at<int64_t>(1024, 4096, 48);
  const Tensor x = b.random({tokens, width}, act);
  Tensor sums(b.device(), DType::kF64, {width});
  b.measure({.name = "add_magnitudes",
             .shape = str(tokens, "x", width),
             .bound = BoundBy::kMemory,
             .dtype = dtype_name(act)},
            [&](Context& ctx) { add_magnitudes(ctx, {.sums = sums, .x = x}); });
}

void state_scores(Bench& b, DType act) {
  const auto tokens = b.at<int64_t>(1024, 8192, 40), heads = b.at<int64_t>(16, 64, 4),
             channels = b.at<int64_t>(64, 64, 8), states = b.at<int64_t>(128, 128, 8),
             groups = b.at<int64_t>(4, 8, 2);
  const Tensor x = b.random({tokens, heads, channels}, act), dt_raw = b.random({tokens, heads}),
               B = b.random({tokens, states, groups}, act),
               C = b.random({tokens, states, groups}, act), A_log = b.random({heads}),
               dt_bias = b.random({heads});
  Tensor score(b.device(), DType::kF64, {states, groups});
  const int32_t offsets[] = {0, static_cast<int32_t>(tokens)};
  b.measure({.name = "add_state_score",
             .shape = str(tokens, "x", heads, "(", groups, ")x", channels, " state ", states),
             .bound = BoundBy::kProduct,
             .dtype = dtype_name(act)},
            [&](Context& ctx) {
              add_state_score(ctx, {.score = score,
                                    .x = x,
                                    .dt_raw = dt_raw,
                                    .B = B,
                                    .C = C,
                                    .A_log = A_log,
                                    .dt_bias = dt_bias,
                                    .segments = Segments(offsets)});
            });
}

}  // namespace

// What a calibration pass adds to its forward: no floors.
void bench_unit_sums(Bench& b) {
  for (const DType act : b.activations()) {
    magnitudes(b, act);
    state_scores(b, act);
  }
}

}  // namespace nestling::bench
