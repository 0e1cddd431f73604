// masks.h - the widths of a model as masks: the probability that every unit is alive.
//
// Mask mode     the parent's weights run at full width, and each width is multiplied in once, at its
//               producer: hidden channels at the embedding's output and at every mixer's output
//               before it is added to the residual stream, Mamba heads and channels at the scan's
//               output, the state at B after its convolution, query heads at the attention's output,
//               feed-forward channels after the activation, experts in the gate. Norms divide by the
//               sum of their mask.
// Absent        a field left out is the parent's width: nothing is multiplied, as without masks.
//               A mask and the sum its norm divides by come together: hidden with active, heads with
//               group_active.
// Fields        ConstView: masks. View: their gradients, accumulated; an absent one is not wanted.
// Dtypes        f32. Ownership: none, as of every view.
#pragma once
#include <vector>

#include "kernels/core/view.h"

namespace nestling {

template <class T>
struct LayerMaskFields {
  T out;           // [D] hidden mask times the probability that the layer is kept
  T heads;         // [H, P] head mask times channel mask
  T group_active;  // [1] sum of `heads` over one B/C group, the same for each
  T state;         // [N, G]
  T query_heads;   // [Q]
  T ffn;           // [F]
  T experts;       // [E]
  T expert_ffn;    // [Fe] of every expert
  T shared_ffn;    // [Fs]
};

template <class T>
struct ModelMaskFields {
  T hidden;  // [D]
  T active;  // [1] sum of `hidden`
  std::vector<LayerMaskFields<T>> layers;
};

using LayerMasks = LayerMaskFields<ConstView>;
using LayerMaskGrads = LayerMaskFields<View>;
using ModelMasks = ModelMaskFields<ConstView>;
using ModelMaskGrads = ModelMaskFields<View>;

}  // namespace nestling
