#include "kernels/comm/piece.h"

#include <algorithm>

#include "kernels/core/tensor.h"

namespace nestling {

namespace {

View scratch_like(Context& ctx, ConstView x) {
  Extents shape{};
  for (int d = 0; d < x.rank(); ++d) shape[static_cast<size_t>(d)] = x.dim(d);
  std::byte* memory = ctx.scratch().alloc(x.dtype(), {x.size()}).data();
  return View(memory, x.dtype(), x.device(), shape, x.rank());
}

}  // namespace

View dense_like(Context& ctx, View x) {
  return x.dense() ? x : scratch_like(ctx, x);
}

Piece packed(Context& ctx, ConstView x) {
  if (x.dense()) return {const_cast<std::byte*>(x.data()), x.bytes()};
  const View dense = scratch_like(ctx, x);
  copy(dense, x);
  return {dense.data(), x.bytes()};
}

Piece landing(Context& ctx, View x, View& dense) {
  dense = dense_like(ctx, x);
  return {dense.data(), x.bytes()};
}

void unpack(View x, View dense) {
  if (dense.data() != x.data()) copy(x, dense);
}

Piece share_of(const Piece& all, int64_t item, int rank, int size) {
  const int64_t elements = all.bytes / item;
  const int64_t per = (elements + size - 1) / size;
  const int64_t begin = std::min(elements, rank * per);
  return {all.data + begin * item, (std::min(elements, begin + per) - begin) * item};
}

int64_t most_bytes(std::span<const Piece> pieces) {
  int64_t most = 0;
  for (const Piece& piece : pieces) most = std::max(most, piece.bytes);
  return most;
}

int64_t run_bytes(int64_t chunk, int64_t item, int size) {
  return std::max<int64_t>(1, chunk / item / size) * item;
}

Piece run_of(const Piece& all, int64_t at, int64_t bytes) {
  const int64_t begin = std::min(all.bytes, at);
  return {all.data + begin, std::min(all.bytes - begin, bytes)};
}

}  // namespace nestling
