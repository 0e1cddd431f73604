// token_order.h - the tokens of a batch in the order of their ids, on the device: what lets equal ids be
// summed in token order, without atomics.
//
// Ownership     the arrays lie in the Context's scratch: take a Mark first.
// Ids           one outside [0, vocabulary) stands as `vocabulary`, behind all others.
// Work          two radix passes for vocabularies below 2^18, each O(T) bytes; nothing is O(vocabulary).
#pragma once
#include "kernels/core/context.h"

namespace nestling::cuda {

struct TokenOrder {
  const int32_t* ids;     // [T] ascending
  const int32_t* tokens;  // [T] positions; equal ids in token order
};

TokenOrder order_tokens(Context& ctx, ConstView ids, int64_t vocabulary);  // ids [T] i32

}  // namespace nestling::cuda
