// loss.h - the output projection fused with its loss, in chunks of tokens: the logits of a batch
// are never in memory at once.
//
//   logits = x W^T * logit_scale
//   cross-entropy: -log softmax(logits)[target]
//   distillation:  KL(p_teacher || p_student) = sum_v p_v (log p_v - log q_v), p and q the softmax
//                  at a temperature (Hinton et al. 2015; no T^2 factor)
//
// Shapes        x, dx [T, D]   w, dw [V, D]   targets [T] i32 (-1: ignored)   nll, kl [T]
//               kl_tokens [T] i32   teacher_x [T, Dt]   teacher_w [V, Dt], or their product
//               teacher_logits [T, V] f32 where several students share it
// Dtypes        as in linear.h (w bf16: bf16 products, f32 sums); softmax and sums in f32.
// Loss          loss = ce_weight * sum(nll) + kl_weight * sum(kl), over tokens that count: nll over
//               target >= 0, kl over all tokens unless `kl_tokens` says otherwise. The caller
//               divides by putting 1/count into the weights.
// Accuracy      a token's sums are f32 over 1024 logits on the CPU, on CUDA over a thread's V / 512, and f64 over
//               these. KL is summed as
//               sum p (d + e^-d - 1), d = log p - log q: no term is negative and nothing cancels,
//               so a small divergence keeps its digits and equal logits give exactly 0.
// Scratch       chunk x V f32 for the logits, twice with a teacher of its own, and what linear.h
//               takes; on the CPU three rows of V a thread.
// Errors        a target outside [-1, V) throws, naming its token; on CUDA
//               Context::synchronize throws.
// Gradient      computed in the same pass; parameter gradients accumulate. Leave dx and dw out to
//               evaluate only.
// Determinism   same inputs, shapes, chunk and threads: same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct HeadLoss {
  View nll = {};                  // [T] overwritten: 0 where ignored
  View kl = {};                   // [T] overwritten; needs the teacher
  View correct = {};              // [T] i32 overwritten: 1 where the arg max is the target
  View dx = {};                   // [T, D] overwritten: gradient of the weighted loss
  View dw = {};                   // [V, D] accumulated, unless told otherwise; needs dx
  ConstView x;                    // [T, D] output of the final norm
  ConstView w;                    // [V, D]
  ConstView targets = {};         // [T] i32
  ConstView kl_tokens = {};       // [T] i32: 0 leaves the token out of kl
  ConstView teacher_x = {};       // [T, Dt]
  ConstView teacher_w = {};       // [V, Dt]
  ConstView teacher_logits = {};  // [T, V] instead of teacher_x and teacher_w
  float ce_weight = 0.0f;
  float kl_weight = 0.0f;
  float temperature = 1.0f;
  float logit_scale = 1.0f;
  float teacher_logit_scale = 1.0f;
  int64_t chunk = 256;        // tokens whose logits exist at once
  bool accumulate_dw = true;  // false: overwritten, whatever it held
};

// The chunk that suits whose code runs (Context::code(); a dry run's is the CPU's). Every chunk reads and writes dw
// once: where products are fast, few and large ones, 2,048 tokens.
int64_t loss_chunk(Device code);

void head_loss(Context& ctx, const HeadLoss& a);

// The kernel behind it, a chunk of tokens whose products are done: losses from the logits, and the
// logits' gradient in their place, on CUDA as bf16 if `half`: [n, V] in the first half of each row's
// place, from where products with a bf16 w take it. head_loss checks the operands; a row is one token.
struct LossRows {
  View logits;             // [n, V] f32 products; overwritten by the loss's gradient if `gradient`
  ConstView teacher = {};  // [n, V] f32 products of the teacher; absent: no kl
  ConstView targets = {};  // [n] i32
  ConstView kl_tokens = {};  // [n] i32
  View nll = {};             // [n]
  View kl = {};              // [n]
  View correct = {};         // [n] i32
  float ce_weight, kl_weight, temperature, logit_scale, teacher_logit_scale;
  int64_t first_token = 0;  // of row 0: what an error names
  bool gradient;
  bool half = false;
};

namespace cpu {
void run(Context& ctx, const LossRows& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const LossRows& a);
}  // namespace cuda

}  // namespace nestling
