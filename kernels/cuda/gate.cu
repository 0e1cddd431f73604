// gate.cu - selection and weights; see gate.cuh. The k best are found in k rounds, each the warp's largest score,
// the lower index among equals; a lane's scores wait in registers as integers of the same order.
//
// Limits        E <= 512.
#include "kernels/cuda/gate.cuh"

namespace nestling::cuda {

namespace {

using namespace gate;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Forward {
  Gate g;
  const float* bias;  // null: none
  int32_t* index;
  float* weight;
  int64_t index_pitch, weight_pitch;
};

// What a lane keeps of its experts, from token to token.
template <int kLane>
struct LaneExperts {
  float bias[kLane];
  float log_mask[kLane];
  bool alive[kLane];
};

template <int kLane>
__device__ LaneExperts<kLane> lane_experts(const Forward& f) {
  LaneExperts<kLane> own;
#pragma unroll
  for (int j = 0; j < kLane; ++j) {
    const int e = j * kWarp + lane_id();
    const float m = e < f.g.experts ? mask_of(f.g, e) : 0.0f;
    own.bias[j] = f.bias != nullptr && e < f.g.experts ? f.bias[e] : 0.0f;
    own.log_mask[j] = m == 1.0f ? 0.0f : logf(m);
    own.alive[j] = m > 0.0f;
  }
  return own;
}

// What the lane's experts are selected on; -infinity: never. A NaN counts as the largest.
template <int kLane>
__device__ void score_experts(float (&score)[kLane], const Forward& f, const float* logits,
                              const LaneExperts<kLane>& own) {
#pragma unroll
  for (int j = 0; j < kLane; ++j) {
    const int e = j * kWarp + lane_id();
    float c = e < f.g.experts ? logits[e] : 0.0f;
    if (f.g.rule.kind == GateKind::kSigmoid) c = sigmoid(c) + own.bias[j];
    c += own.log_mask[j];
    if (isnan(c)) c = kInfinity;
    score[j] = own.alive[j] ? c : -kInfinity;
  }
}

// Floats of shared memory that exclude_groups takes for a warp.
__host__ __device__ int group_floats(const Gate& g) {
  return g.rule.groups > 1 ? g.experts + 2 * static_cast<int>(g.rule.groups) : 0;
}

// What a group is ranked by: the sum of its two best scores, then its best, then the lower group.
struct GroupScores {
  float* two;
  float* best;

  __device__ void fill(int group, const float* scores, int size) const {
    float first = -kInfinity;
    float second = -kInfinity;
    for (int e = group * size; e < (group + 1) * size; ++e) {
      if (scores[e] > first) {
        second = first;
        first = scores[e];
      } else if (scores[e] > second) {
        second = scores[e];
      }
    }
    two[group] = size == 1 ? first : first + second;
    best[group] = first;
  }
  __device__ bool better(int i, int j) const {
    return two[i] > two[j] || (two[i] == two[j] && best[i] > best[j]);
  }
  // How many groups are before this one.
  __device__ int rank(int group, int groups) const {
    int before = 0;
    for (int j = 0; j < groups; ++j)
      before += better(j, group) || (j < group && !better(group, j)) ? 1 : 0;
    return before;
  }
};

// Outside the best groups every score becomes -infinity. `scores` [group_floats] is the warp's.
template <int kLane>
__device__ void exclude_groups(float (&score)[kLane], const Gate& g, float* scores) {
  const int groups = static_cast<int>(g.rule.groups);
  const int size = g.experts / groups;
  const GroupScores of{scores + g.experts, scores + g.experts + groups};
#pragma unroll
  for (int j = 0; j < kLane; ++j) {
    const int e = j * kWarp + lane_id();
    if (e < g.experts) scores[e] = score[j];
  }
  __syncwarp();
  for (int i = lane_id(); i < groups; i += kWarp) of.fill(i, scores, size);
  __syncwarp();
  // From here on scores[i] says whether group i stays: there are no more groups than experts.
  for (int i = lane_id(); i < groups; i += kWarp)
    scores[i] = of.rank(i, groups) < g.rule.top_groups ? 1.0f : 0.0f;
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kLane; ++j) {
    const int e = j * kWarp + lane_id();
    if (e < g.experts && scores[e / size] == 0.0f) score[j] = -kInfinity;
  }
  __syncwarp();  // the next token may come
}

// Integers in the order of the scores, 0 and -0 being equal. 0: cannot be selected.
__device__ unsigned order_of(float score) {
  if (score == -kInfinity) return 0;
  const unsigned bits = __float_as_uint(score == 0.0f ? 0.0f : score);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The lane-th best expert, -1 where there are not so many or k is less.
template <int kLane>
__device__ int pick(const float (&score)[kLane], int k) {
  unsigned order[kLane];
#pragma unroll
  for (int j = 0; j < kLane; ++j) order[j] = order_of(score[j]);
  int picked = -1;
  for (int round = 0; round < k; ++round) {
    unsigned best = 0;
    unsigned at = 0;
#pragma unroll
    for (int j = 0; j < kLane; ++j)
      if (order[j] > best) {
        best = order[j];
        at = static_cast<unsigned>(j * kWarp + lane_id());
      }
    unsigned long long key = static_cast<unsigned long long>(best) << 32 | (0xffffffffu - at);
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      key = max(key, __shfl_xor_sync(0xffffffffu, key, offset));
    if (key >> 32 == 0) break;  // the whole warp
    const int expert = static_cast<int>(0xffffffffu - static_cast<unsigned>(key));
    if (lane_id() == round) picked = expert;
#pragma unroll
    for (int j = 0; j < kLane; ++j)
      if (j * kWarp + lane_id() == expert) order[j] = 0;
  }
  return picked;
}

// The weight of the lane's pick. Called by whole warps.
__device__ float routing_weight(const Gate& g, const float* logits, int picked) {
  const float mask = picked >= 0 ? mask_of(g, picked) : 0.0f;
  const float logit = picked >= 0 ? logits[picked] : 0.0f;
  if (g.rule.kind != GateKind::kSigmoid) {
    const Softmax softmax = softmax_of(g, logits, picked);
    return picked >= 0 ? mask * softmax.q(logit) * g.rule.scale : 0.0f;
  }
  const float weight = mask * sigmoid(logit);
  const float sum = warp_sum(weight) + kSumFloor;
  return weight * (g.rule.renormalize ? g.rule.scale / sum : g.rule.scale);
}

template <int kLane>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward f) {
  const Gate& g = f.g;
  float* shared = dynamic_shared<float>() + warp_id() * group_floats(g);
  const LaneExperts<kLane> own = lane_experts<kLane>(f);
  for (int64_t t = first_token(); t < g.tokens; t += token_step()) {
    const float* logits = g.logits + t * g.pitch;
    float score[kLane];
    score_experts(score, f, logits, own);
    if (g.rule.groups > 1) exclude_groups(score, g, shared);
    const int picked = pick(score, g.k);
    const float weight = routing_weight(g, logits, picked);
    if (lane_id() >= g.k) continue;
    if (picked < 0) report_fault(g.fault, FaultKind::kTooFewExperts, t);
    f.index[t * f.index_pitch + lane_id()] = max(picked, 0);
    f.weight[t * f.weight_pitch + lane_id()] = weight;
  }
}

}  // namespace

void run(Context& ctx, const GateForward& a) {
  const Forward f{.g = gate_of(ctx, a.logits, a.mask, a.weight.dim(1), a.rule),
                  .bias = optional_floats(a.bias),
                  .index = a.index.ptr<int32_t>(),
                  .weight = a.weight.ptr<float>(),
                  .index_pitch = a.index.pitch(),
                  .weight_pitch = a.weight.pitch()};
  const Grid grid{.blocks = blocks_for(f.g.tokens, kWarps, kMostBlocks),
                  .threads = kThreads,
                  .shared_bytes = kWarps * group_floats(f.g) * int64_t{sizeof(float)}};
  if (f.g.experts <= 4 * kWarp)
    launch(ctx, grid, forward_kernel<4>, f);
  else
    launch(ctx, grid, forward_kernel<kMostExperts / kWarp>, f);
}

}  // namespace nestling::cuda
