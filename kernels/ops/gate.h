// gate.h - which experts a token goes to, and with what weight; gradients to the logits.
//
// Shapes        logits, dlogits [T, E]   bias [E]   index [T, k] i32   weight, dweight [T, k]
// Dtypes        f32; index i32.
// Sigmoid       s = sigmoid(logits), c = s + bias; selection on c, group-limited: of `groups` equal
//               groups the `top_groups` with the largest sum of their two best c stay, the others
//               are excluded; weights are s of the selected (without bias), divided by their sum
//               (+1e-20) if `renormalize`, times `scale`. (DeepSeek-V3, arXiv 2412.19437, eq.
//               13-16; Nemotron 3.)
// Softmax       kSoftmaxTopK: softmax over all, then top-k (Qwen3-MoE); kTopKSoftmax: top-k of the
//               logits, softmax over the selected (Granite). No bias, no groups.
// Score         what is selected on: c for sigmoid gates, the logit for softmax gates (the order of
//               the probabilities, without their rounding).
// Ties          the lower expert index wins, and the lower group. index[t] is ordered by falling
//               selection score.
// NaN           a NaN score counts as the largest (as torch.topk has it), so that its weight is NaN and
//               the loss shows it; an expert of mask 0 is never selected even then.
// Width mask    `mask` [E]: selection by score + log m, so an expert of mask 0 is never
//               selected; weights by m * s before renormalising. A softmax is over m e^logit: an
//               expert of mask 0 is not there. A hard mask (m = 1 for the first E') gives bit for
//               bit what the gate over the logits of the first E' experts gives (groups = 1; a
//               prefix would deal groups anew). dmask accumulates through the weights.
// Gradient      index is taken as constant (as in every published implementation).
// Limits        k <= 32; on CUDA E <= 512; bias and groups only with kSigmoid; `renormalize` changes
//               nothing for kTopKSoftmax, whose weights sum to `scale` as they are.
// Errors        a token for which fewer than k experts can be selected (mask 0, excluded group,
//               score -infinity), or an index outside the experts, throws, naming the token; on CUDA when
//               the Context is synchronised.
// Determinism   same inputs, shapes and threads: same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

enum class GateKind : uint8_t { kSigmoid, kSoftmaxTopK, kTopKSoftmax };

struct GateRule {
  GateKind kind = GateKind::kSigmoid;
  int64_t groups = 1;
  int64_t top_groups = 1;
  bool renormalize = true;
  float scale = 1.0f;
};

inline constexpr int64_t kMaxTopK = 32;

struct GateForward {
  View index;           // [T, k] i32 overwritten
  View weight;          // [T, k]     overwritten
  ConstView logits;     // [T, E]
  ConstView bias = {};  // [E]
  ConstView mask = {};  // [E]
  GateRule rule;
};

struct GateBackward {
  View dlogits;       // [T, E] overwritten
  View dmask = {};    // [E]    accumulated; needs mask
  ConstView dweight;  // [T, k]
  ConstView index;    // [T, k] saved by forward
  ConstView logits;   // [T, E]
  ConstView mask = {};
  GateRule rule;
};

void gate_forward(Context& ctx, const GateForward& a);
void gate_backward(Context& ctx, const GateBackward& a);

namespace cpu {
void run(Context& ctx, const GateForward& a);
void run(Context& ctx, const GateBackward& a);
}  // namespace cpu

namespace cuda {
void run(Context& ctx, const GateForward& a);
void run(Context& ctx, const GateBackward& a);
}  // namespace cuda

}  // namespace nestling
