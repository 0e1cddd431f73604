// piece.h - runs of bytes that travel: views without gaps as they are, others through the context's scratch.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

// A piece serves both directions; one that is sent is never written.
struct Piece {
  std::byte* data;
  int64_t bytes;
};

// x without gaps: x itself, or scratch of its shape (not filled).
View dense_like(Context& ctx, View x);

// What is sent: x itself or a packed copy.
Piece packed(Context& ctx, ConstView x);

// Where to write x: x itself or dense scratch, which unpack() brings home.
Piece landing(Context& ctx, View x, View& dense);
void unpack(View x, View dense);

// The run of whole elements of `item` bytes that is `rank`'s where `size` ranks share `all`; the last
// ones may get less.
Piece share_of(const Piece& all, int64_t item, int rank, int size);

}  // namespace nestling
