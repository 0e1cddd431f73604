// verify.h - is this model what it says it is?
//
// Of an elastic file:
//   checksums   every dataset and attribute is read and agrees with its checksum
//   nested      every size, opened alone, is bit for bit a prefix of the whole file's weights: of quantized ones
//               codes, scales of blocks, and scales
//   slice       logits of a short sequence: every size as a view of the whole file against the size cut
//               out and opened alone
//   mask        the same against the whole model under the size's masks
//   budgets     every size costs its budget within 2%, or the dead zone of the file's router where that is
//               wider: the share that training may miss it by
// Of a directory, and of a GGUF file: tensors (every one is there, of its shape, and finite).
// Bound         slice, mask: both sides are the same sums of f32 products, of at most K terms each and perhaps
//               in another order; a sum is then off by at most eps sqrt(K) times its norm (rounding
//               errors independent), once for each of the two products of a layer and once for the
//               head, on both sides: relative L2 <= 2 (2 layers + 1) eps sqrt(K), K the widest inner
//               dimension. Of quantized weights an activation that differs by rounding may fall to the next code: with
//               d the bound above, sqrt(2 layers d / 8) in FP8 and sqrt(2 layers 7 d / 6) in NVFP4 are added
//               (logits_bound in verify.cpp).
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/core/context.h"

namespace nestling {

struct Check {
  std::string name;
  bool ok = false;
  std::string detail;
};

// One entry a check; what cannot be checked because an earlier check failed is left out.
std::vector<Check> verify_model(Context& ctx, const std::filesystem::path& path);

}  // namespace nestling
