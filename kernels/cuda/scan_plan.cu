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
  std::vector<Saved> saved;
  std::vector<Run> runs;
};

void add_chunk(HostPlan& p, int64_t begin, int64_t length, bool first, bool last) {
  const Chunk c{.begin = begin,
                .length = length,
                .first_tile = static_cast<int64_t>(p.tiles.size()),
                .first_pair = static_cast<int64_t>(p.pairs.size()),
                .tiles = static_cast<int32_t>((length + kTile - 1) / kTile),
                .first = first,
                .last = last};
  p.chunks.push_back(c);
  for (int32_t i = 0; i < c.tiles; ++i) {
    const int64_t at = int64_t{i} * kTile;
    p.tiles.push_back({c.begin + at, static_cast<int32_t>(std::min(int64_t{kTile}, c.length - at)),
                       i, static_cast<int64_t>(p.chunks.size()) - 1});
    const auto first_tile = static_cast<int32_t>(c.first_tile);
    for (int32_t j = 0; j <= i; ++j) p.pairs.push_back({first_tile + i, first_tile + j});
  }
}

// A chunk as chunks of one tile each.
void add_tiles(HostPlan& p, int64_t chunk, int64_t begin, int64_t length, bool first, bool last) {
  for (int64_t at = 0; at < length; at += kTile) {
    const bool ends = at + kTile >= length;
    add_chunk(p, begin + at, std::min(int64_t{kTile}, length - at), first && at == 0, last && ends);
    p.saved.push_back({chunk, static_cast<int32_t>(at / kTile), ends});
  }
}

HostPlan cut_tokens(const Segments& segments, int64_t chunk, Cut cut) {
  HostPlan p;
  int64_t chunks = 0;
  for (int64_t s = 0; s < segments.count(); ++s) {
    const int64_t begin = segments.begin(s);
    const int64_t end = segments.end(s);
    for (int64_t at = begin; at < end; at += chunk, ++chunks) {
      const int64_t length = std::min(chunk, end - at);
      if (cut == Cut::kChunks)
        add_chunk(p, at, length, at == begin, at + length == end);
      else
        add_tiles(p, chunks, at, length, at == begin, at + length == end);
    }
    p.first_chunk.push_back(static_cast<int64_t>(p.chunks.size()));
  }
  return p;
}

// A block walks a run of one head: two for each of a large card's 132 multiprocessors, and runs of at
// least 8 tiles, so that the states between them are few beside the tokens.
int64_t tiles_of_a_run(int64_t tiles, int64_t heads) {
  constexpr int64_t kBlocks = 264, kLeast = 8;
  return std::max(kLeast, (tiles * heads + kBlocks - 1) / kBlocks);
}

void add_runs(HostPlan& p, int64_t most) {
  for (size_t s = 0; s + 1 < p.first_chunk.size(); ++s) {
    const int64_t tiles = p.first_chunk[s + 1] - p.first_chunk[s];
    const int64_t runs = (tiles + most - 1) / most;
    for (int64_t r = 0; r < runs; ++r)
      p.runs.push_back({.first = p.first_chunk[s] + r * most,
                        .count = std::min(most, tiles - r * most),
                        .segment = static_cast<int64_t>(s),
                        .before = r,
                        .after = runs - 1 - r});
  }
}

// Arrays that travel together: a copy to the device takes longer to begin than to end.
class Tables {
 public:
  template <class T>
  int64_t add(const std::vector<T>& values) {
    const auto at = static_cast<int64_t>(bytes_.size());
    const auto* begin = reinterpret_cast<const std::byte*>(values.data());
    bytes_.insert(bytes_.end(), begin, begin + values.size() * sizeof(T));
    bytes_.resize((bytes_.size() + 15) / 16 * 16);
    return at;
  }
  const std::byte* upload(Context& ctx) const { return upload_bytes(ctx, bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

void upload_tables(Context& ctx, const HostPlan& host, Plan& p) {
  Tables tables;
  const int64_t chunks = tables.add(host.chunks);
  const int64_t tiles = tables.add(host.tiles);
  const int64_t pairs = tables.add(host.pairs);
  const int64_t first_chunk = tables.add(host.first_chunk);
  const int64_t saved = tables.add(host.saved);
  const int64_t runs = tables.add(host.runs);
  const std::byte* device = tables.upload(ctx);
  p.chunks = reinterpret_cast<const Chunk*>(device + chunks);
  p.tiles = reinterpret_cast<const Tile*>(device + tiles);
  p.pairs = reinterpret_cast<const Pair*>(device + pairs);
  p.first_chunk = reinterpret_cast<const int64_t*>(device + first_chunk);
  p.saved = reinterpret_cast<const Saved*>(device + saved);
  p.runs = reinterpret_cast<const Run*>(device + runs);
}

}  // namespace

Plan make_plan(Context& ctx, const Segments& segments, int64_t chunk, Cut cut, ConstView x,
               ConstView B, const DecayOperands& d) {
  HostPlan host = cut_tokens(segments, chunk, cut);
  if (cut != Cut::kChunks)
    add_runs(host, cut == Cut::kRuns
                       ? tiles_of_a_run(static_cast<int64_t>(host.tiles.size()), x.dim(1))
                       : std::max<int64_t>(1, static_cast<int64_t>(host.tiles.size())));
  const auto tiles = [](int64_t n) { return (n + kTile - 1) / kTile; };
  Plan p{.s = {.tokens = x.dim(0),
               .heads = x.dim(1),
               .channels = x.dim(2),
               .states = B.dim(1),
               .groups = B.dim(2),
               .padded_states = tiles(B.dim(1)) * kTile,
               .state_tiles = tiles(B.dim(1)),
               .channel_tiles = tiles(x.dim(2))},
         .chunks = nullptr,
         .tiles = nullptr,
         .pairs = nullptr,
         .first_chunk = nullptr,
         .saved = nullptr,
         .runs = nullptr,
         .chunk_count = static_cast<int64_t>(host.chunks.size()),
         .tile_count = static_cast<int64_t>(host.tiles.size()),
         .pair_count = static_cast<int64_t>(host.pairs.size()),
         .segment_count = segments.count(),
         .run_count = static_cast<int64_t>(host.runs.size()),
         .decays = {}};
  upload_tables(ctx, host, p);
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
