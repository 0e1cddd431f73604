// ggml_blocks.h - the quantized blocks that GGUF files of others hold, as the numbers they stand for.
//
// Q4_0, Q5_0, Q8_0    32 along a row: an f16 scale d and codes q; d (q - 8), d (q - 16), d q.
// Q4_1, Q5_1          32: scale d, least m; d q + m.
// Q2_K to Q6_K        256: an f16 scale of scales; 16 (Q2_K, Q3_K, Q6_K) or 32 of them share a scale s of
//                     4, 6 or 8 bits. Q3_K, Q6_K: d s q, both signed. Q2_K, Q4_K, Q5_K: d s q - e m with
//                     a scale e of leasts m.
// IQ4_NL, IQ4_XS      codes choose among 16 numbers v that are not evenly spaced; d v, 32; d s v, 256.
// Rounding      products are exact in f32 (at most 23 bits); where a least is added, the sum is rounded
//               once, to nearest even. So the numbers are those of every f32 implementation, bit for bit.
// Source        ggml: ggml-common.h (layouts).
#pragma once
#include "data/ggml_type.h"

namespace nestling {

struct GgmlBlocks {
  GgmlType type;
  GgmlBlock block;
  void (*decode)(const std::byte* block, float* out);  // no alignment asked for
};
// None: the type is not one of these.
const GgmlBlocks* ggml_blocks(GgmlType type);
std::span<const GgmlBlocks> all_ggml_blocks();

}  // namespace nestling
