// gate_backward.cu - gradients of the weights to logits and mask; see gate.cuh. A warp's sums of dmask lie in
// shared memory, those of a block's warps are added in order: one part a block.
//
// Limits        E <= 512.
#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/parts.h"

namespace nestling::cuda {

namespace {

using namespace gate;  // NOLINT(google-build-using-namespace): this operator's own helpers

struct Backward {
  Gate g;
  float* dlogits;
  const float* dweight;
  const int32_t* index;
  int64_t dlogits_pitch, dweight_pitch, index_pitch;
  float* dmask;  // [blocks, E]; null: not wanted
};

// The lane's selected expert; with -1 the rest is zero.
struct Picked {
  int expert;
  float mask, logit, dweight;
};

__device__ Picked load_picked(const Backward& b, int64_t t) {
  if (lane_id() >= b.g.k) return {-1, 0.0f, 0.0f, 0.0f};
  const int e = b.index[t * b.index_pitch + lane_id()];
  if (e < 0 || e >= b.g.experts) {
    report_fault(b.g.fault, FaultKind::kExpertIndex, t);
    return {-1, 0.0f, 0.0f, 0.0f};
  }
  return {e, mask_of(b.g, e), b.g.logits[t * b.g.pitch + e],
          b.dweight[t * b.dweight_pitch + lane_id()]};
}

// Of a selected expert.
struct Slopes {
  float logit, mask;
};

__device__ Slopes sigmoid_slopes(const GateRule& rule, const Picked& p) {
  const float s = sigmoid(p.logit);
  const float sum = warp_sum(p.mask * s) + kSumFloor;
  const float dot = warp_sum(p.dweight * p.mask * s);
  const float factor = rule.renormalize ? rule.scale / sum : rule.scale;
  const float du = (p.dweight - (rule.renormalize ? dot / sum : 0.0f)) * factor;  // of mask * s
  return {du * p.mask * s * (1.0f - s), du * s};
}

// One token. dmask [E] are the warp's sums, null: not wanted. Called by whole warps.
__device__ void token_backward(const Backward& b, int64_t t, float* dmask) {
  const Gate& g = b.g;
  const Picked p = load_picked(b, t);
  const float* logits = g.logits + t * g.pitch;
  float* dlogits = b.dlogits + t * b.dlogits_pitch;
  const bool all = g.rule.kind != GateKind::kSigmoid && !over_selected(g.rule);
  Slopes slopes;
  Softmax softmax{};
  float dot = 0.0f;  // of a softmax: sum of dweight * weight / scale
  if (g.rule.kind == GateKind::kSigmoid) {
    slopes = sigmoid_slopes(g.rule, p);
  } else {
    softmax = softmax_of(g, logits, p.expert);
    const float q = p.expert >= 0 ? softmax.q(p.logit) : 0.0f;
    dot = warp_sum(p.dweight * p.mask * q);
    slopes.mask = q * (p.dweight - (all ? 0.0f : dot)) * g.rule.scale;
    slopes.logit = slopes.mask * p.mask;
  }
  // Experts that were not selected take part through the sum over all alone.
  for (int e = lane_id(); e < g.experts; e += kWarp) {
    const float slope = all ? -softmax.q(logits[e]) * dot * g.rule.scale : 0.0f;
    const float m = mask_of(g, e);
    dlogits[e] = m > 0.0f ? slope * m : 0.0f;
    if (all && dmask != nullptr) dmask[e] += slope;
  }
  __syncwarp();
  if (p.expert >= 0) {
    dlogits[p.expert] += slopes.logit;
    if (dmask != nullptr) dmask[p.expert] += slopes.mask;
  }
  __syncwarp();
}

__global__ void __launch_bounds__(kThreads) backward_kernel(Backward b) {
  const int experts = b.g.experts;
  float* sums = dynamic_shared<float>();  // [kWarps, E]
  float* own = b.dmask != nullptr ? sums + warp_id() * experts : nullptr;
  if (own != nullptr)
    for (int e = lane_id(); e < experts; e += kWarp) own[e] = 0.0f;
  __syncwarp();
  for (int64_t t = first_token(); t < b.g.tokens; t += token_step()) token_backward(b, t, own);
  if (own == nullptr) return;  // the whole block
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += sums[w * experts + e];
    b.dmask[int64_t{blockIdx.x} * experts + e] = sum;
  }
}

}  // namespace

void run(Context& ctx, const GateBackward& a) {
  const Arena::Mark mark(ctx.scratch());
  const int64_t experts = a.logits.dim(1);
  const dim3 blocks = blocks_for(a.logits.dim(0), kWarps, kMostBlocks);
  const Backward b{.g = gate_of(ctx, a.logits, a.mask, a.dweight.dim(1), a.rule),
                   .dlogits = a.dlogits.ptr<float>(),
                   .dweight = a.dweight.ptr<float>(),
                   .index = a.index.ptr<int32_t>(),
                   .dlogits_pitch = a.dlogits.pitch(),
                   .dweight_pitch = a.dweight.pitch(),
                   .index_pitch = a.index.pitch(),
                   .dmask = a.dmask ? ctx.scratch().floats(blocks.x * experts) : nullptr};
  const int64_t shared = a.dmask ? kWarps * experts * int64_t{sizeof(float)} : 0;
  launch(ctx, {.blocks = blocks, .threads = kThreads, .shared_bytes = shared}, backward_kernel, b);
  if (a.dmask) add_parts(ctx, a.dmask, b.dmask, blocks.x, experts);
}

}  // namespace nestling::cuda
