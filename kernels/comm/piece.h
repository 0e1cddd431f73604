// piece.h - runs of bytes that travel: views without gaps as they are, others through the context's scratch.
#pragma once
#include <span>

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

// Pieces of several ranks, travelling a run of bytes at a time: the longest piece; bytes of a run, in whole elements,
// where `size` of them make a chunk; that of a piece at byte `at`, empty behind its end.
int64_t most_bytes(std::span<const Piece> pieces);
int64_t run_bytes(int64_t chunk, int64_t item, int size);
Piece run_of(const Piece& all, int64_t at, int64_t bytes);

}  // namespace nestling
