// sample.cu - the next token, one block a row of logits; nothing is sorted.
//
// Weights       e^((x - top) / temperature) in units of 2^-41, as integers: sums are exact, so they are the
//               same in any order, and a draw below the sum always meets an id. A weight below one unit is
//               never drawn.
// Order         the cuts of top-k and top-p, and the draw behind them, ask for one place in the order of
//               falling logits, ties by id: find() narrows it down by histograms, first over equal steps of
//               (top - x) / temperature, then over the bits of the logits in the step that holds it, until
//               one value is left.
// Draw          without cuts in the order of ids, by sums over ever shorter runs of them.
// Limits        V <= 2^18: the sums of thirds of a weight fit 32 bits.
#include <algorithm>
#include <vector>

#include "kernels/core/rng.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefix.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/ops/sample.h"

namespace nestling::cuda {

namespace {

using Mass = unsigned long long;

constexpr int64_t kMostIds = int64_t{1} << 18;
constexpr float kUnits = 0x1.0p41f;  // of weight 1
constexpr int kPartBits = 14;  // a weight in three parts, the highest of 13 bits and the carry
constexpr int kParts = 3;
constexpr int kBins = 1024;
constexpr float kBinsPerStep = 32.0f;  // bins in a factor of e; a weight of 1 unit is e^-28.4

// A row of logits seen from its top: what an id weighs, and where it stands.
struct Row {
  const float* x;
  int width;
  float top, temperature;

  __device__ float depth(int id) const { return (top - x[id]) / temperature; }
  __device__ Mass mass_of(float value) const {
    return static_cast<Mass>(expf((value - top) / temperature) * kUnits);
  }
  __device__ Mass mass(int id) const { return mass_of(x[id]); }
};

// Unsigned integers in the order of floats; both zeros are one.
__device__ unsigned key_of(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ float value_of(unsigned key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

template <int kThreads>
__device__ Mass block_max(Mass x) {
  __shared__ Mass parts[kThreads / kWarp];
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = max(x, __shfl_xor_sync(0xffffffffu, x, offset));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  Mass best = parts[0];
  for (int w = 1; w < kThreads / kWarp; ++w) best = max(best, parts[w]);
  return best;
}

// What a running sum is of.
enum class Measure : uint8_t { kCount, kMass };

struct Tally {
  Mass count, mass;
  __device__ Mass of(Measure m) const { return m == Measure::kCount ? count : mass; }
  __device__ Tally operator+(const Tally& b) const { return {count + b.count, mass + b.mass}; }
};

// Ids and their mass by bin, in shared memory.
struct Histogram {
  unsigned counts[kBins];
  unsigned parts[kParts][kBins];

  template <int kThreads>
  __device__ void clear() {
    for (int b = threadIdx.x; b < kBins; b += kThreads) {
      counts[b] = 0;
      for (auto& part : parts) part[b] = 0;
    }
  }
  __device__ void add(int bin, Mass mass) {
    constexpr unsigned kMask = (1u << kPartBits) - 1;
    atomicAdd(&counts[bin], 1u);
    atomicAdd(&parts[0][bin], static_cast<unsigned>(mass) & kMask);
    atomicAdd(&parts[1][bin], static_cast<unsigned>(mass >> kPartBits) & kMask);
    atomicAdd(&parts[2][bin], static_cast<unsigned>(mass >> (2 * kPartBits)));
  }
  __device__ Tally tally(int bin) const {
    Mass mass = 0;
    for (int p = kParts - 1; p >= 0; --p) mass = (mass << kPartBits) + parts[p][bin];
    return {counts[bin], mass};
  }
};

struct Choice {
  int bin;
  Tally before;  // of all bins before it, on top of what came before the histogram
};

// The first bin at whose end the measure is above `amount`; there is one. A thread has neighbouring bins.
template <int kThreads>
__device__ Choice choose(const Histogram& h, Tally before, Measure measure, Mass amount) {
  constexpr int kEach = kBins / kThreads;
  __shared__ Tally parts[kThreads / kWarp];
  __shared__ Choice chosen;
  const int first = static_cast<int>(threadIdx.x) * kEach;
  Tally own{0, 0};
  for (int i = 0; i < kEach; ++i) own = own + h.tally(first + i);
  const Tally upto{warp_running_sum(own.count), warp_running_sum(own.mass)};
  __syncthreads();  // the choice before has been read
  if (threadIdx.x % kWarp == kWarp - 1) parts[threadIdx.x / kWarp] = upto;
  __syncthreads();
  for (unsigned w = 0; w < threadIdx.x / kWarp; ++w) before = before + parts[w];
  const Tally end = before + upto;
  Tally at{end.count - own.count, end.mass - own.mass};
  if (at.of(measure) <= amount && end.of(measure) > amount) {
    int bin = first;
    for (; (at + h.tally(bin)).of(measure) <= amount; ++bin) at = at + h.tally(bin);
    chosen = {bin, at};
  }
  __syncthreads();
  return chosen;
}

// The first id at which the sum of value(id), in the order of ids, is above `amount`; there is one.
template <int kThreads, class Value>
__device__ int walk_ids(int width, Mass amount, const Value& value) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kWarps > 1);
  __shared__ Mass parts[kWarps];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  int begin = 0;
  int end = width;
  while (end - begin > kWarp) {
    const int run = (end - begin + kThreads - 1) / kThreads * kWarp;  // of a warp
    Mass sum = 0;
    const int stop = min(end, begin + (warp + 1) * run);
    for (int id = begin + warp * run + lane; id < stop; id += kWarp) sum += value(id);
    sum = warp_sum(sum);
    __syncthreads();  // the runs before have been read
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    int w = 0;
    for (; w < kWarps - 1 && parts[w] <= amount; ++w) amount -= parts[w];
    begin += w * run;
    end = min(end, begin + run);
  }
  const Mass own = begin + lane < end ? value(begin + lane) : 0;
  const unsigned above = __ballot_sync(0xffffffffu, warp_running_sum(own) > amount);
  return begin + __ffs(static_cast<int>(above)) - 1;
}

// A place in the order of falling logits, ties by id: the tie-th id of this logit.
struct Place {
  unsigned key;
  Mass tie;
  Mass through;  // mass up to it, and with it
};

template <int kThreads>
class Ranking {
 public:
  // `steps` and `bits` lie in shared memory.
  __device__ Ranking(const Row& row, Histogram& steps, Histogram& bits)
      : row_(row), steps_(steps), bits_(bits) {
    steps_.clear<kThreads>();
    __syncthreads();
    Tally own{0, 0};
    for (int id = threadIdx.x; id < row_.width; id += kThreads) {
      const Mass mass = row_.mass(id);
      if (mass == 0) continue;
      steps_.add(step_of(id), mass);
      own = {own.count + 1, own.mass + mass};
    }
    all_ = {block_sum<kThreads>(own.count), block_sum<kThreads>(own.mass)};
  }
  __device__ Tally all() const { return all_; }  // ids that weigh anything

  // The first place at which the measure is above `amount`; there is one.
  __device__ Place find(Measure measure, Mass amount) {
    const Choice step = choose<kThreads>(steps_, {0, 0}, measure, amount);
    Tally before = step.before;
    auto [low, high] = keys_in(step.bin);
    while (low < high) {
      const unsigned span = high - low;
      const int shift = max(0, 32 - __clz(static_cast<int>(span)) - 10);
      fill_bits(low, high, shift);
      const Choice chosen = choose<kThreads>(bits_, before, measure, amount);
      before = chosen.before;
      high -= static_cast<unsigned>(chosen.bin) << shift;
      const unsigned below = (1u << shift) - 1;
      low = high - low > below ? high - below : low;
    }
    const Mass each = row_.mass_of(value_of(high));
    const Mass tie =
        measure == Measure::kCount ? amount - before.count : (amount - before.mass) / each;
    return {high, tie, before.mass + (tie + 1) * each};
  }

 private:
  struct Keys {
    unsigned low, high;
  };
  __device__ int step_of(int id) const {
    return static_cast<int>(min(row_.depth(id) * kBinsPerStep, kBins - 1.0f));
  }
  // The lowest and the highest key among the ids of a step that weigh anything.
  __device__ Keys keys_in(int step) const {
    Mass high = 0;
    Mass low = 0;
    for (int id = threadIdx.x; id < row_.width; id += kThreads) {
      if (step_of(id) != step || row_.mass(id) == 0) continue;
      const unsigned key = key_of(row_.x[id]);
      high = max(high, Mass{key});
      low = max(low, Mass{~key});
    }
    high = block_max<kThreads>(high);
    low = block_max<kThreads>(low);
    return {~static_cast<unsigned>(low), static_cast<unsigned>(high)};
  }
  // By (high - key) >> shift; all keys in [low, high] belong to ids of the step.
  __device__ void fill_bits(unsigned low, unsigned high, int shift) {
    __syncthreads();  // the histogram before has been read
    bits_.clear<kThreads>();
    __syncthreads();
    for (int id = threadIdx.x; id < row_.width; id += kThreads) {
      const unsigned key = key_of(row_.x[id]);
      if (key < low || key > high) continue;
      const Mass mass = row_.mass(id);
      if (mass != 0) bits_.add(static_cast<int>((high - key) >> shift), mass);
    }
    __syncthreads();
  }

  Row row_;
  Histogram& steps_;
  Histogram& bits_;
  Tally all_;
};

struct Draw {
  int32_t* tokens;
  const float* logits;
  const double* shares;  // [B] uniform in [0, 1); null: the arg max
  FaultWord* fault;
  int64_t pitch;
  int width, top_k;  // top_k 0: all
  float temperature, top_p;
};

// The largest logit (NaN where any is) and its first id.
template <int kThreads>
__device__ Row find_top(const Draw& d, const float* x, int& first) {
  Mass best = 0;
  bool nan = false;
  for (int id = threadIdx.x; id < d.width; id += kThreads) {
    nan = nan || isnan(x[id]);
    best = max(best, Mass{key_of(x[id])} << 32 | ~static_cast<unsigned>(id));
  }
  nan = __syncthreads_or(nan ? 1 : 0) != 0;
  best = block_max<kThreads>(best);
  first = static_cast<int>(~static_cast<unsigned>(best));
  return {x, d.width, nan ? nanf("") : value_of(static_cast<unsigned>(best >> 32)), d.temperature};
}

// floor(share * total), and below total whatever the rounding.
__device__ Mass part_of(Mass total, double share) {
  return min(static_cast<Mass>(share * static_cast<double>(total)), total - 1);
}
// A sum is at least share * total (share > 0) where it is above this.
__device__ Mass just_below(Mass total, double share) {
  const double least = share * static_cast<double>(total);
  const auto whole = static_cast<Mass>(least);
  const bool exact = static_cast<double>(whole) == least;
  return min(exact && whole > 0 ? whole - 1 : whole, total - 1);
}

template <int kThreads>
__device__ int draw_from_best(const Draw& d, const Row& row, double share) {
  __shared__ Histogram steps;
  __shared__ Histogram bits;
  Ranking<kThreads> ranking(row, steps, bits);
  auto [count, mass] = ranking.all();
  const auto top_k = static_cast<Mass>(d.top_k);
  if (top_k > 0 && top_k < count) mass = ranking.find(Measure::kCount, top_k - 1).through;
  if (d.top_p < 1.0f)
    mass = ranking.find(Measure::kMass, just_below(mass, static_cast<double>(d.top_p))).through;
  const Place place = ranking.find(Measure::kMass, part_of(mass, share));
  return walk_ids<kThreads>(row.width, place.tie,
                            [&](int id) -> Mass { return key_of(row.x[id]) == place.key ? 1 : 0; });
}

template <int kThreads>
__device__ int draw_from_all(const Row& row, double share) {
  const auto mass = [&](int id) { return row.mass(id); };
  Mass own = 0;
  for (int id = threadIdx.x; id < row.width; id += kThreads) own += mass(id);
  const Mass total = block_sum<kThreads>(own);
  return walk_ids<kThreads>(row.width, part_of(total, share), mass);
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) sample_kernel(Draw d) {
  int id = 0;
  const Row row = find_top<kThreads>(d, d.logits + blockIdx.x * d.pitch, id);
  if (!isfinite(row.top)) {
    if (threadIdx.x == 0) report_fault(d.fault, FaultKind::kLogits, blockIdx.x);
    id = 0;
  } else if (d.shares != nullptr) {
    const bool cut = d.top_p < 1.0f || (d.top_k > 0 && d.top_k < d.width);
    const double share = d.shares[blockIdx.x];
    id = cut ? draw_from_best<kThreads>(d, row, share) : draw_from_all<kThreads>(row, share);
  }
  if (threadIdx.x == 0) d.tokens[blockIdx.x] = id;
}

}  // namespace

void run(Context& ctx, const Sample& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t width = a.logits.dim(1);
  const int64_t rows = a.logits.dim(0);
  if (rows == 0) return;
  NESTLING_CHECK(width <= kMostIds, "sample: ", width, " logits a row, the CUDA kernel takes ",
                 kMostIds);
  Draw d{.tokens = a.tokens.ptr<int32_t>(),
         .logits = a.logits.ptr<float>(),
         .shares = nullptr,
         .fault = ctx.cuda().fault,
         .pitch = a.logits.pitch(),
         .width = static_cast<int>(width),
         .top_k = static_cast<int>(std::min(a.rule.top_k, width)),
         .temperature = a.rule.temperature,
         .top_p = a.rule.top_p};
  if (a.rule.temperature > 0) {
    std::vector<double> shares;
    for (const uint64_t stream : a.streams) shares.push_back(uniform(a.seed, stream, a.position));
    d.shares = upload(ctx, shares);
  }
  const auto blocks = static_cast<unsigned>(rows);
  constexpr int64_t kNarrow = 2048;
  if (width <= kNarrow)
    launch(ctx, {blocks, 64}, sample_kernel<64>, d);
  else
    launch(ctx, {blocks, 1024}, sample_kernel<1024>, d);
}

}  // namespace nestling::cuda
