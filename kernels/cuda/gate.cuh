// gate.cuh - what the gate's forward and backward share: a warp takes a token; lane l looks after experts l,
// l + 32, ... and after the l-th of the k selected. For kernels/cuda/gate*.cu alone.
//
// Determinism   a lane's experts and the order of sums do not depend on E: a hard mask gives the bits of the
//               prefix.
#pragma once
#include <limits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/gate.h"

namespace nestling::cuda::gate {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / kWarp;
inline constexpr int64_t kMostBlocks = 528;  // 4 a multiprocessor of an H100
inline constexpr int kMostExperts = 512;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kSumFloor = 1e-20f;  // beside the sum of the selected, as published

struct Gate {
  const float* logits;
  int64_t pitch;
  const float* mask;  // null: ones
  int64_t tokens;
  int experts, k;
  GateRule rule;
  FaultWord* fault;
};

inline Gate gate_of(Context& ctx, ConstView logits, ConstView mask, int64_t k,
                    const GateRule& rule) {
  NESTLING_CHECK(logits.dim(1) <= kMostExperts, "gate: ", logits.dim(1),
                 " experts, the CUDA kernels hold ", kMostExperts);
  return {.logits = logits.ptr<float>(),
          .pitch = logits.pitch(),
          .mask = optional_floats(mask),
          .tokens = logits.dim(0),
          .experts = static_cast<int>(logits.dim(1)),
          .k = static_cast<int>(k),
          .rule = rule,
          .fault = ctx.cuda().fault};
}

inline __device__ int lane_id() {
  return static_cast<int>(threadIdx.x) % kWarp;
}
inline __device__ int warp_id() {
  return static_cast<int>(threadIdx.x) / kWarp;
}
// The warp's tokens are this one and every warp_step()-th after it.
inline __device__ int64_t first_token() {
  return int64_t{blockIdx.x} * kWarps + warp_id();
}
inline __device__ int64_t token_step() {
  return int64_t{gridDim.x} * kWarps;
}

inline __device__ float mask_of(const Gate& g, int expert) {
  return g.mask != nullptr ? g.mask[expert] : 1.0f;
}

// Every lane gets the largest; NaN does not count.
inline __device__ float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

inline __device__ bool over_selected(const GateRule& rule) {
  return rule.kind == GateKind::kTopKSoftmax || rule.renormalize;
}

// q_e = e^(logit_e - shift) / sum over all living experts, or over the selected; weights are m_e q_e.
struct Softmax {
  float shift;
  float sum;
  __device__ float q(float logit) const { return expf(logit - shift) / sum; }
};

// `picked` is the lane's selected expert, -1 where it has none. Called by whole warps.
inline __device__ Softmax softmax_of(const Gate& g, const float* logits, int picked) {
  const bool selected = over_selected(g.rule);
  const int begin = selected ? picked : lane_id();
  const int end = selected ? picked + 1 : g.experts;
  float shift = -kInfinity;
  for (int e = max(begin, 0); e < end; e += kWarp)
    if (mask_of(g, e) > 0.0f) shift = fmaxf(shift, logits[e]);
  shift = warp_max(shift);
  float sum = 0.0f;
  for (int e = max(begin, 0); e < end; e += kWarp)
    if (mask_of(g, e) > 0.0f) sum += mask_of(g, e) * expf(logits[e] - shift);
  return {shift, warp_sum(sum)};
}

}  // namespace nestling::cuda::gate
