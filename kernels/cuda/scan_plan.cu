// scan_plan.cu - the cut into chunks, tiles and pairs, and the decays: a warp a chunk and head.
#include <algorithm>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan_plan.h"
#include "kernels/cuda/scan_tiles.cuh"
#include "kernels/cuda/upload.h"

namespace nestling::cuda::scan {

namespace {

constexpr int kHeads = 8;  // of a block: adjacent, so that their dt_raw share a sector

struct DecayPass {
  Decays out;
  const float *dt_raw, *A_log, *dt_bias;
  int64_t dt_t, heads, tokens;
  const Chunk* chunks;
};

__global__ void __launch_bounds__(kHeads* kWarp) decay_kernel(DecayPass d) {
  const Chunk chunk = d.chunks[blockIdx.x];
  const int64_t head = int64_t{blockIdx.y} * kHeads + threadIdx.x / kWarp;
  if (head >= d.heads) return;  // the whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const double rate = static_cast<double>(expf(d.A_log[head]));
  double before = 0.0;
  for (int64_t at = 0; at < chunk.length; at += kWarp) {
    const int64_t t = chunk.begin + at + lane;
    const bool inside = at + lane < chunk.length;
    const float dt = inside ? softplus(d.dt_raw[t * d.dt_t + head] + d.dt_bias[head]) : 0.0f;
    double sum = -rate * static_cast<double>(dt);
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const double left = __shfl_up_sync(0xffffffffu, sum, step);
      if (lane >= step) sum += left;
    }
    sum += before;
    before = __shfl_sync(0xffffffffu, sum, kWarp - 1);
    if (!inside) continue;
    const auto high = static_cast<float>(sum);
    d.out.dt[head * d.tokens + t] = dt;
    d.out.sum[head * d.tokens + t] = make_float2(high, static_cast<float>(sum - high));
  }
}

struct HostPlan {
  std::vector<Chunk> chunks;
  std::vector<Tile> tiles;
  std::vector<Pair> pairs;
  std::vector<int64_t> first_chunk{0};
};

void add_chunk(HostPlan& p, const Chunk& c) {
  p.chunks.push_back(c);
  for (int32_t i = 0; i < c.tiles; ++i) {
    const int64_t at = int64_t{i} * kTile;
    p.tiles.push_back({c.begin + at, static_cast<int32_t>(std::min(int64_t{kTile}, c.length - at)),
                       i, static_cast<int64_t>(p.chunks.size()) - 1});
    const auto first = static_cast<int32_t>(c.first_tile);
    for (int32_t j = 0; j <= i; ++j) p.pairs.push_back({first + i, first + j});
  }
}

HostPlan cut(const Segments& segments, int64_t chunk) {
  HostPlan p;
  for (int64_t s = 0; s < segments.count(); ++s) {
    const int64_t begin = segments.begin(s);
    const int64_t end = segments.end(s);
    for (int64_t at = begin; at < end; at += chunk) {
      const int64_t length = std::min(chunk, end - at);
      add_chunk(p, {.begin = at,
                    .length = length,
                    .first_tile = static_cast<int64_t>(p.tiles.size()),
                    .first_pair = static_cast<int64_t>(p.pairs.size()),
                    .tiles = static_cast<int32_t>((length + kTile - 1) / kTile),
                    .first = at == begin,
                    .last = at + length == end});
    }
    p.first_chunk.push_back(static_cast<int64_t>(p.chunks.size()));
  }
  return p;
}

}  // namespace

Plan make_plan(Context& ctx, const Segments& segments, int64_t chunk, ConstView x, ConstView B,
               const DecayOperands& d) {
  const HostPlan host = cut(segments, chunk);
  const auto tiles = [](int64_t n) { return (n + kTile - 1) / kTile; };
  Plan p{.s = {.tokens = x.dim(0),
               .heads = x.dim(1),
               .channels = x.dim(2),
               .states = B.dim(1),
               .groups = B.dim(2),
               .padded_states = tiles(B.dim(1)) * kTile,
               .state_tiles = tiles(B.dim(1)),
               .channel_tiles = tiles(x.dim(2))},
         .chunks = upload(ctx, host.chunks),
         .tiles = upload(ctx, host.tiles),
         .pairs = upload(ctx, host.pairs),
         .first_chunk = upload(ctx, host.first_chunk),
         .chunk_count = static_cast<int64_t>(host.chunks.size()),
         .tile_count = static_cast<int64_t>(host.tiles.size()),
         .pair_count = static_cast<int64_t>(host.pairs.size()),
         .segment_count = segments.count(),
         .decays = {}};
  const int64_t scalars = p.s.heads * p.s.tokens;
  p.decays = {ctx.scratch().floats(scalars),
              reinterpret_cast<float2*>(ctx.scratch().floats(2 * scalars))};
  const DecayPass pass{.out = p.decays,
                       .dt_raw = d.dt_raw.ptr<float>(),
                       .A_log = d.A_log.ptr<float>(),
                       .dt_bias = d.dt_bias.ptr<float>(),
                       .dt_t = d.dt_raw.stride(0),
                       .heads = p.s.heads,
                       .tokens = p.s.tokens,
                       .chunks = p.chunks};
  const dim3 grid(static_cast<unsigned>(p.chunk_count),
                  static_cast<unsigned>((p.s.heads + kHeads - 1) / kHeads));
  launch(ctx, {grid, kHeads * kWarp}, decay_kernel, pass);
  return p;
}

}  // namespace nestling::cuda::scan
