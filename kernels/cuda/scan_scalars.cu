// scan_scalars.cu - the last step of the backward scan: d dt_raw, dA_log, dD and ddt_bias.
//
// A warp a chunk and head walks the tokens from the last: all sums from token i on contain log a_i, so
// its gradient is a suffix sum of d sum, taken in f64, where rows and columns of K cancel.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_decays.cuh"
#include "kernels/cuda/scan_gradients.h"

namespace nestling::cuda::scan {

namespace {

constexpr int kHeads = 4;  // of a block

struct ScalarPass {
  const float *rows, *cols, *diagonal, *dC_dots, *dB_dots;
  ChainParts chain;
  const float* dD_parts;
  float* parts;  // [2, chunks, H]: of dA_log and ddt_bias
  const float *dt_raw, *A_log, *dt_bias;
  float *ddt_raw, *dA_log, *dD, *ddt_bias;
  int64_t dt_t, ddt_t;
  const Chunk* chunks;
  Decays decays;
  Sizes s;
  int64_t chunk_count, tile_count;
};

// What one token's terms sum to.
struct TokenTerms {
  double ddt;    // d dt, decays held fixed
  double dsum;   // d sum_i
  double after;  // of dsum, what goes to the state after: the chunk's last sum has it too
};

__device__ TokenTerms token_terms(const ScalarPass& k, const Chunk& chunk, int64_t head,
                                  int64_t at) {
  const int place = static_cast<int>(at / kTile);
  const int64_t i = at % kTile;
  const int64_t t = chunk.begin + at;
  const auto of_pair = [&](const float* sums, int row, int col) {
    return static_cast<double>(sums[(pair_index(chunk, row, col) * k.s.heads + head) * kTile + i]);
  };
  double rows = 0.0;
  double cols = 0.0;
  for (int j = 0; j <= place; ++j) rows += of_pair(k.rows, place, j);
  for (int j = place; j < chunk.tiles; ++j) cols += of_pair(k.cols, j, place);
  double after = 0.0;
  for (int64_t n = 0; n < k.s.state_tiles; ++n) {
    const int64_t dot = (n * k.s.heads + head) * k.s.tokens + t;
    rows += static_cast<double>(k.dC_dots[dot]);
    after += static_cast<double>(k.dB_dots[dot]);
  }
  const int64_t scalar = head * k.s.tokens + t;
  const auto dt = static_cast<double>(k.decays.dt[scalar]);
  return {cols + after + static_cast<double>(k.diagonal[scalar]), rows - (cols + after) * dt,
          after * dt};
}

// What all sums of the chunk gain at its end: through the state after it.
__device__ double last_sum(const ScalarPass& k, const Chunk& chunk, int64_t head) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double sum = 0.0;
  for (int64_t i = lane; i < k.chain.count; i += kWarp)
    sum += static_cast<double>(k.chain.data[(i * k.chunk_count + blockIdx.x) * k.s.heads + head]);
  for (int64_t at = lane; at < chunk.length; at += kWarp)
    sum += token_terms(k, chunk, head, at).after;
  return warp_sum(sum);
}

__global__ void __launch_bounds__(kHeads* kWarp) scalars_kernel(ScalarPass k) {
  const Chunk chunk = k.chunks[blockIdx.x];
  const int64_t head = int64_t{blockIdx.y} * kHeads + threadIdx.x / kWarp;
  if (head >= k.s.heads) return;  // the whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto rate = static_cast<double>(expf(k.A_log[head]));
  double after = last_sum(k, chunk, head);  // the sum of d sum after the tokens at hand
  double dA_log = 0.0;
  double ddt_bias = 0.0;
  for (int64_t first = (chunk.length - 1) / kWarp * kWarp; first >= 0; first -= kWarp) {
    const int64_t at = first + lane;
    const bool inside = at < chunk.length;
    const TokenTerms terms = inside ? token_terms(k, chunk, head, at) : TokenTerms{};
    double dlog = terms.dsum;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const double right = __shfl_down_sync(0xffffffffu, dlog, step);
      if (lane + step < kWarp) dlog += right;
    }
    dlog += after;
    after = __shfl_sync(0xffffffffu, dlog, 0);
    if (!inside) continue;
    const int64_t t = chunk.begin + at;
    const auto dt = static_cast<double>(k.decays.dt[head * k.s.tokens + t]);
    const float raw = k.dt_raw[t * k.dt_t + head] + k.dt_bias[head];
    const double ddt = (terms.ddt - rate * dlog) * static_cast<double>(sigmoid(raw));
    dA_log -= rate * dt * dlog;
    ddt_bias += ddt;
    k.ddt_raw[t * k.ddt_t + head] = static_cast<float>(ddt);
  }
  dA_log = warp_sum(dA_log);
  ddt_bias = warp_sum(ddt_bias);
  if (lane != 0) return;
  k.parts[blockIdx.x * k.s.heads + head] = static_cast<float>(dA_log);
  k.parts[(k.chunk_count + blockIdx.x) * k.s.heads + head] = static_cast<float>(ddt_bias);
}

// Every lane gets the sum of parts [count, H] of a head.
__device__ float sum_parts(const float* parts, int64_t count, int64_t heads, int64_t head) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kWarp)
    sum += static_cast<double>(parts[i * heads + head]);
  return static_cast<float>(warp_sum(sum));
}

// Block a head, of one warp.
__global__ void __launch_bounds__(kWarp) parameters_kernel(ScalarPass k) {
  const int64_t head = blockIdx.x;
  const float dA_log = sum_parts(k.parts, k.chunk_count, k.s.heads, head);
  const float ddt_bias =
      sum_parts(k.parts + k.chunk_count * k.s.heads, k.chunk_count, k.s.heads, head);
  const float dD = sum_parts(k.dD_parts, k.s.channel_tiles * k.tile_count, k.s.heads, head);
  if (threadIdx.x != 0) return;
  k.dA_log[head] += dA_log;
  k.ddt_bias[head] += ddt_bias;
  k.dD[head] += dD;
}

}  // namespace

void scalar_gradients(Context& ctx, const Plan& p, const ScalarGradients& g) {
  const ScalarPass k{.rows = g.rows,
                     .cols = g.cols,
                     .diagonal = g.diagonal,
                     .dC_dots = g.dC_dots,
                     .dB_dots = g.dB_dots,
                     .chain = g.chain,
                     .dD_parts = g.dD_parts,
                     .parts = ctx.scratch().floats(2 * p.chunk_count * p.s.heads),
                     .dt_raw = g.dt_raw.ptr<float>(),
                     .A_log = g.A_log.ptr<float>(),
                     .dt_bias = g.dt_bias.ptr<float>(),
                     .ddt_raw = g.ddt_raw.ptr<float>(),
                     .dA_log = g.dA_log.ptr<float>(),
                     .dD = g.dD.ptr<float>(),
                     .ddt_bias = g.ddt_bias.ptr<float>(),
                     .dt_t = g.dt_raw.stride(0),
                     .ddt_t = g.ddt_raw.stride(0),
                     .chunks = p.chunks,
                     .decays = p.decays,
                     .s = p.s,
                     .chunk_count = p.chunk_count,
                     .tile_count = p.tile_count};
  const dim3 grid(static_cast<unsigned>(p.chunk_count),
                  static_cast<unsigned>((p.s.heads + kHeads - 1) / kHeads));
  launch(ctx, {grid, kHeads * kWarp}, scalars_kernel, k);
  launch(ctx, {dim3(static_cast<unsigned>(p.s.heads)), kWarp}, parameters_kernel, k);
}

}  // namespace nestling::cuda::scan
