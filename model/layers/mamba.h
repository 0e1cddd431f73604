// mamba.h - the Mamba-2 mixer (Dao and Gu 2024).
//
//   z, x, B, C, dt = projections of norm(h);  x, B, C = silu(conv1d(.));  y = scan(x, dt, B, C)
//   h + out_proj(group_norm(y silu(z)))
//
// Head channels cut to a prefix leave weights in runs, which are gathered: its cost is in gather.h.
#pragma once
#include "model/layers/layer.h"

namespace nestling {

struct MambaActs {
  NormActs norm;
  View z;                    // [T, H, P]
  View x_raw, B_raw, C_raw;  // [T, H*P], [T, N*G], [T, N*G] before the convolution
  View x;                    // [T, H, P]  after it
  View B, C;                 // [T, N, G]
  View dt;                   // [T, H]     raw
  View chunk_states;         // [chunks, H, P, N]
  View y;                    // [T, H, P]
  View group_rstd;           // [T, G]
  View gated;                // [T, H, P]
  View mixed;                // [T, D] with masks only
};

// output [T, D] may not be input [T, D].
MambaActs mamba_forward(LayerRun& run, const MambaParams<Weight>& w, ConstView input, View output,
                        const MambaCache* cache);
void mamba_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                    const MambaActs& acts, View dh);
// Of a held forward the first counts[i] >= 1 tokens of segment i stand: its states advance by them, to what a forward
// of these alone had left. What acts hold of them is written again, with the same values.
void mamba_advance(LayerRun& run, const MambaParams<Weight>& w, const MambaActs& acts,
                   std::span<const int32_t> counts, const MambaCache& cache);
// h [B, D] in place.
void mamba_step(StepRun& run, const MambaParams<Weight>& w, const MambaCache& cache, View h);

}  // namespace nestling
