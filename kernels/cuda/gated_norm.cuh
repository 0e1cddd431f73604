// gated_norm.cuh - what the gated norm's forward and backward share: a team (a warp, or a block where a
// group has more than 512 channels) takes one group of one token; a thread takes every so many-th run of 4
// channels, a quad, of the group's heads. For kernels/cuda/gated_norm*.cu alone.
//
// Sweeps        a thread holds 4 quads in registers: groups of up to 512 (warp) or 4096 (block) channels are
//               read once; larger ones are read again for the second half.
// Alignment     a quad is one access where every operand allows it; else element by element, in the same
//               order: the bits do not depend on it.
#pragma once
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda::gated_norm {

inline constexpr int kThreads = 256;
inline constexpr int kHeld = 4;  // quads of a head that a thread holds

// A [T, H, P] operand.
template <class X>
struct Rows {
  X* data;
  int64_t token, head;
  bool packed() const { return packable(data, token) && packable(data, head); }
};
template <class X>
Rows<X> rows_of(View v) {
  return {elements<X>(v), v.stride(0), v.stride(1)};
}
template <class X>
Rows<const X> rows_of(ConstView v) {
  return {elements<X>(v), v.stride(0), v.stride(1)};
}
struct Shape {
  int64_t tokens, groups;
  int channels;                // of a head
  int heads, head_quads;       // heads of a group, quads of a head
  int step_heads, step_quads;  // from a thread's quad to its next
  int sweeps;
  const float* active;  // null: all
};

inline Shape shape_of(ConstView y, ConstView rstd, ConstView active, int team) {
  const int64_t groups = rstd.dim(1);
  const int64_t heads = y.dim(1) / groups;
  const int64_t head_quads = (y.dim(2) + kQuad - 1) / kQuad;
  const int64_t sweep = int64_t{team} * kHeld;
  return {.tokens = y.dim(0),
          .groups = groups,
          .channels = static_cast<int>(y.dim(2)),
          .heads = static_cast<int>(heads),
          .head_quads = static_cast<int>(head_quads),
          .step_heads = static_cast<int>(team / head_quads),
          .step_quads = static_cast<int>(team % head_quads),
          .sweeps = static_cast<int>((heads * head_quads + sweep - 1) / sweep),
          .active = optional_floats(active)};
}

inline __device__ float active_of(const Shape& s) {
  return s.active != nullptr ? *s.active
                             : static_cast<float>(s.heads) * static_cast<float>(s.channels);
}

// A thread's quad: the how many-th head of the group, the how many-th quad of it.
struct Place {
  int head, quad;

  __device__ Place(const Shape& s, int lane)
      : head(lane / s.head_quads), quad(lane % s.head_quads) {}
  __device__ void advance(const Shape& s) {
    head += s.step_heads;
    quad += s.step_quads;
    if (quad < s.head_quads) return;
    quad -= s.head_quads;
    ++head;
  }
  // Channels there: 4, fewer at the end of a head, none behind the group.
  __device__ int64_t count(const Shape& s) const {
    return head < s.heads ? min(kQuad, s.channels - quad * kQuad) : 0;
  }
  __device__ int64_t offset(const Shape& s, int64_t group, int64_t head_pitch) const {
    return (head * s.groups + group) * head_pitch + quad * kQuad;
  }
};

// The thread's quads of one sweep; those behind the group are zeros.
template <bool kPacked, class X>
__device__ void load_sweep(Pack<kQuad> (&to)[kHeld], const Rows<const X>& from, const Shape& s,
                           int64_t t, int64_t group, Place place) {
  const X* row = from.data + t * from.token;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    to[j] = load_quad<kPacked>(row + place.offset(s, group, from.head), place.count(s));
    place.advance(s);
  }
}

template <int kTeam>
__device__ float team_sum(float x) {
  static_assert(kTeam == kWarp || kTeam == kThreads);
  if constexpr (kTeam == kWarp)
    return warp_sum(x);
  else
    return block_sum<kThreads>(x);
}

template <int kTeam>
__device__ int64_t team_index() {
  return (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kTeam;
}

inline __device__ void advance_sweep(Place& place, const Shape& s) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) place.advance(s);
}

// Calls body(integral_constant<int, team>, bool_constant<packed>).
template <class Body>
void with_team(int64_t group_quads, bool packed, Body&& body) {
  const auto with_packed = [&](auto team) {
    packed ? body(team, std::true_type()) : body(team, std::false_type());
  };
  if (group_quads <= kWarp * kHeld)
    with_packed(std::integral_constant<int, kWarp>());
  else
    with_packed(std::integral_constant<int, kThreads>());
}

inline int64_t group_quads(ConstView y, ConstView rstd) {
  return y.dim(1) / rstd.dim(1) * ((y.dim(2) + kQuad - 1) / kQuad);
}

inline Grid teams_grid(int64_t teams, int team, int64_t shared_bytes_per_team = 0) {
  const int64_t per_block = kThreads / team;
  return {.blocks = dim3(static_cast<unsigned>((teams + per_block - 1) / per_block)),
          .threads = kThreads,
          .shared_bytes = per_block * shared_bytes_per_team};
}

}  // namespace nestling::cuda::gated_norm
