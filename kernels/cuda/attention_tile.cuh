// attention_tile.cuh - what the attention kernels share: the cut of a block's work into tiles, and how
// rows come into shared memory and leave it.
//
// Block         four warps (two for heads of f32 wider than 128), as row_warps x column_warps: a warp
//               has 16 rows, and its part of the columns of scores and of outputs.
// Widths        a head of h <= kDim channels is padded with zeros in shared memory.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp_tile.cuh"
#include "kernels/ops/attention.h"

namespace nestling::cuda {

// kOther: rows of the operand that is walked, the columns of the scores.
template <class T_, int kDim_, int kRowWarps_, int kColumnWarps_, int kOther_>
struct TileShape {
  using T = T_;
  using Tiles = WarpTiles<T>;
  static constexpr int kDim = kDim_;
  static constexpr int kRowWarps = kRowWarps_;
  static constexpr int kColumnWarps = kColumnWarps_;
  static constexpr int kOther = kOther_;
  static constexpr int kRows = kRowWarps * kTileRows;
  static constexpr int kThreads = kRowWarps * kColumnWarps * kWarp;
  static constexpr int kLd = kDim + Tiles::kPadding;          // of operands
  static constexpr int kWeightLd = kOther + Tiles::kPadding;  // of weights as operands
  static constexpr int kScoreLd = kOther + 4;                 // of scores, f32
  static constexpr int kStageLd = kDim + 4;                   // of outputs, f32
  static constexpr int kWarpScores = kOther / kColumnWarps;
  static constexpr int kWarpDim = kDim / kColumnWarps;
  using Scores = typename Tiles::template Scores<kWarpScores>;
  using Outputs = typename Tiles::template Outputs<kWarpDim>;

  static __device__ int row_warp() { return threadIdx.x / kWarp / kColumnWarps; }
  static __device__ int column_warp() { return threadIdx.x / kWarp % kColumnWarps; }
  static __device__ int first_row() { return row_warp() * kTileRows; }
  // This thread among those of its 16 rows.
  static constexpr int kRowThreads = kColumnWarps * kWarp;
  static __device__ int row_thread() { return threadIdx.x % kRowThreads; }
  // What the warps of the same rows wrote is seen by them.
  static __device__ void sync_rows() {
    if constexpr (kColumnWarps == 1)
      __syncwarp();
    else
      __syncthreads();
  }
};

// Heads of rows in memory: element c of head i of row t is data[t * row + i * head + c].
template <class T>
struct HeadRows {
  T* data;
  int64_t row, head;
};

// [kRows, kDim] into shared memory, zero behind `rows` and `width`. `vector`: 16 bytes at a time.
template <class Shape, int kRows, class T>
__device__ void load_rows(T* to, const T* from, int64_t stride, int rows, int width, bool vector) {
  if (vector) {
    constexpr int kRun = 16 / sizeof(T);
    constexpr int kRuns = Shape::kDim / kRun;
#pragma unroll 4
    for (int i = threadIdx.x; i < kRows * kRuns; i += Shape::kThreads) {
      const int r = i / kRuns;
      const int c = i % kRuns * kRun;
      uint4 run = make_uint4(0, 0, 0, 0);
      if (r < rows && c < width) run = *reinterpret_cast<const uint4*>(from + r * stride + c);
      *reinterpret_cast<uint4*>(to + r * Shape::kLd + c) = run;
    }
  } else {
    for (int i = threadIdx.x; i < kRows * Shape::kDim; i += Shape::kThreads) {
      const int r = i / Shape::kDim;
      const int c = i % Shape::kDim;
      store(to + r * Shape::kLd + c, r < rows && c < width ? load(from + r * stride + c) : 0.0f);
    }
  }
}

// The outputs of all warps, through `stage` [kRows, kStageLd], to the rows that there are. All of the
// block's threads call it; what the stage held before is not needed any more.
template <class Shape, class T>
__device__ void store_outputs(const typename Shape::Outputs& outputs, float* stage, T* to,
                              int64_t stride, int rows, int width) {
  __syncthreads();
  outputs.store(
      stage + Shape::first_row() * Shape::kStageLd + Shape::column_warp() * Shape::kWarpDim,
      Shape::kStageLd);
  __syncthreads();
  for (int i = threadIdx.x; i < Shape::kRows * Shape::kDim; i += Shape::kThreads) {
    const int r = i / Shape::kDim;
    const int c = i % Shape::kDim;
    if (r < rows && c < width) store(to + r * stride + c, stage[r * Shape::kStageLd + c]);
  }
}

// Rows [first, first + count) of the segment [begin, end), as rows of keys; of queries they are `shift` less.
struct RowTile {
  int32_t first, count, begin, end, shift;
};
// What segments go on behind: tokens in the caches of their sequences, `capacity` rows each.
struct Before {
  std::span<const int32_t> starts = {};  // empty: nothing, and keys are the segments' own rows
  int64_t capacity = 0;
};
// All tiles, the longest walk first, so that the blocks that are scheduled last are short. A query tile
// walks back to the segment's begin, a key tile (`keys`) on to its end.
inline std::vector<RowTile> row_tiles(const Segments& segments, int64_t rows, int64_t window,
                                      bool keys, const Before& before = {}) {
  std::vector<RowTile> tiles;
  for (int64_t s = 0; s < segments.count(); ++s) {
    const bool own = before.starts.empty();
    const int64_t begin = own ? segments.begin(s) : s * before.capacity;
    const int64_t first = own ? begin : begin + before.starts[static_cast<size_t>(s)];
    for (int64_t at = 0; at < segments.length(s); at += rows)
      tiles.push_back({.first = static_cast<int32_t>(first + at),
                       .count = static_cast<int32_t>(std::min(rows, segments.length(s) - at)),
                       .begin = static_cast<int32_t>(begin),
                       .end = static_cast<int32_t>(first + segments.length(s)),
                       .shift = static_cast<int32_t>(first - segments.begin(s))});
  }
  const auto walk = [&](const RowTile& t) {
    const int64_t all = keys ? t.end - t.first : t.first + t.count - t.begin;
    return window > 0 ? std::min<int64_t>(all, window + t.count) : all;
  };
  std::stable_sort(tiles.begin(), tiles.end(),
                   [&](const RowTile& a, const RowTile& b) { return walk(a) > walk(b); });
  return tiles;
}
// Of queries, for forward.
inline std::vector<RowTile> query_tiles(const AttentionForward& a, int64_t rows) {
  NESTLING_CHECK(a.k.dim(0) <= std::numeric_limits<int32_t>::max(),
                 "attention_forward: ", a.k.dim(0),
                 " rows of keys, the CUDA kernels count to 2^31");
  const Before before{.starts = a.starts, .capacity = a.k.dim(0) / a.segments.count()};
  return row_tiles(a.segments, rows, a.window, false, before);
}

template <class T>
HeadRows<T> head_rows(View v) {
  return {elements<T>(v), v.stride(0), v.stride(1)};
}
template <class T>
HeadRows<const T> head_rows(ConstView v) {
  return {elements<T>(v), v.stride(0), v.stride(1)};
}

template <int kValue_>
struct Constant {
  static constexpr int kValue = kValue_;
};
// body(Constant<kDim>) for the least kDim that holds heads of this width.
template <class Body>
void with_padded_width(const char* op, int64_t width, Body&& body) {
  NESTLING_CHECK(width <= 256, op, ": heads of ", width, " channels, the CUDA kernels hold 256");
  if (width <= 32) return body(Constant<32>{});
  if (width <= 64) return body(Constant<64>{});
  if (width <= 128) return body(Constant<128>{});
  body(Constant<256>{});
}

}  // namespace nestling::cuda
