// gated_norm.cuh - what the gated norm's forward and backward share: a team (a warp, or a block where a
// group has more than 512 channels) takes one group of one token; a thread takes every so many-th run of 4
// channels, a quad, of the group's heads. For kernels/cuda/gated_norm*.cu alone.
//
// Sweeps        a thread holds 4 quads in registers: groups of up to 512 (warp) or 4096 (block) channels are
//               read once; larger ones are read again for the second half.
// Alignment     a quad is one access where every operand allows it and heads are whole quads; else element by
//               element, in the same order: the bits do not depend on it.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"

namespace nestling::cuda::gated_norm {

inline constexpr int kThreads = 256;
inline constexpr int kHeld = 4;  // quads of a head that a thread holds

// A [T, H, P] operand. A token's elements are counted in 32 bits: addresses are most of what is computed.
template <class X>
struct Rows {
  X* data;
  int64_t token;
  int head;
  bool packed() const { return packable(data, token) && packable(data, head); }
};
inline int head_pitch(ConstView v, int axis) {
  const int64_t pitch = v.stride(axis);
  NESTLING_CHECK(v.dim(axis) * pitch <= std::numeric_limits<int>::max(),
                 "gated_norm: ", v.describe(), " with heads ", pitch,
                 " apart, the CUDA kernels count to 2^31");
  return static_cast<int>(pitch);
}
template <class X>
Rows<X> rows_of(View v) {
  return {elements<X>(v), v.stride(0), head_pitch(v, 1)};
}
template <class X>
Rows<const X> rows_of(ConstView v) {
  return {elements<X>(v), v.stride(0), head_pitch(v, 1)};
}
struct Shape {
  int64_t tokens;
  int groups;
  int channels;                // of a head
  int heads, head_quads;       // heads of a group, quads of a head
  int step_heads, step_quads;  // from a thread's quad to its next
  int sweeps;
  const float* active;  // null: all
};

inline int64_t head_quads(ConstView y) {
  return (y.dim(2) + kQuad - 1) / kQuad;
}

inline Shape shape_of(ConstView y, ConstView rstd, ConstView active, int team) {
  const int64_t groups = rstd.dim(1);
  const int64_t heads = y.dim(1) / groups;
  const int64_t quads = head_quads(y);
  const int64_t sweep = int64_t{team} * kHeld;
  return {.tokens = y.dim(0),
          .groups = static_cast<int>(groups),
          .channels = static_cast<int>(y.dim(2)),
          .heads = static_cast<int>(heads),
          .head_quads = static_cast<int>(quads),
          .step_heads = static_cast<int>(team / quads),
          .step_quads = static_cast<int>(team % quads),
          .sweeps = static_cast<int>((heads * quads + sweep - 1) / sweep),
          .active = optional_floats(active)};
}

inline __device__ float active_of(const Shape& s) {
  return s.active != nullptr ? *s.active
                             : static_cast<float>(s.heads) * static_cast<float>(s.channels);
}

// How quads are accessed: one by one; as packs; as packs of heads that divide the team, whose lanes keep to
// one place of every head that they come to.
enum class Access : uint8_t { kAny, kPacked, kEven };

// A thread's quads: the how many-th head of the group, the how many-th quad of it.
struct Place {
  int head, quad;

  __device__ Place(const Shape& s, int lane)
      : head(lane / s.head_quads), quad(lane % s.head_quads) {}
  template <Access kAccess>
  __device__ void advance(const Shape& s) {
    head += s.step_heads;
    if constexpr (kAccess == Access::kEven) return;
    quad += s.step_quads;
    if (quad < s.head_quads) return;
    quad -= s.head_quads;
    ++head;
  }
  // Channels there: 4, fewer at the end of a head, none behind the group.
  __device__ int count(const Shape& s) const {
    return head < s.heads ? min(kQuad, s.channels - quad * kQuad) : 0;
  }
  // From the token's first element.
  __device__ int at(const Shape& s, int group, int head_pitch) const {
    return (head * s.groups + group) * head_pitch + quad * kQuad;
  }
};

// The thread's quads of one sweep; those behind the group are zeros.
template <Access kAccess, class X>
__device__ void load_sweep(Pack<kQuad> (&to)[kHeld], const X* row, int head_pitch, const Shape& s,
                           int group, Place place) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    to[j] =
        load_quad<kAccess != Access::kAny>(row + place.at(s, group, head_pitch), place.count(s));
    place.advance<kAccess>(s);
  }
}
template <Access kAccess, class X>
__device__ void load_sweep(Pack<kQuad> (&to)[kHeld], const Rows<const X>& from, int64_t t,
                           const Shape& s, int group, const Place& place) {
  load_sweep<kAccess>(to, from.data + t * from.token, from.head, s, group, place);
}
template <Access kAccess, class X>
__device__ void store_place(const Rows<X>& to, int64_t t, const Pack<kQuad>& x, const Shape& s,
                            int group, const Place& place) {
  X* row = to.data + t * to.token;
  store_quad<kAccess != Access::kAny>(row + place.at(s, group, to.head), x, place.count(s));
}
template <Access kAccess>
__device__ void advance_sweep(Place& place, const Shape& s) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) place.advance<kAccess>(s);
}

template <int kTeam>
__device__ float team_sum(float x) {
  static_assert(kTeam == kWarp || kTeam == kThreads);
  if constexpr (kTeam == kWarp)
    return warp_sum(x);
  else
    return block_sum<kThreads>(x);
}

// Teams are counted in 32 bits: launches have no more threads.
template <int kTeam>
__device__ unsigned team_index() {
  return blockIdx.x * (kThreads / kTeam) + threadIdx.x / kTeam;
}

// Whether heads and weights are whole quads too.
template <class... Operands>
bool all_packed(ConstView y, const float* w, int w_pitch, const Operands&... operands) {
  return y.dim(2) % kQuad == 0 && packable(w, w_pitch) && (operands.packed() && ...);
}

// Calls body(integral_constant<int, team>, integral_constant<Access, access>).
template <class Body>
void with_team(int64_t group_quads, int64_t head_quads, bool packed, Body&& body) {
  const auto with_access = [&](auto team) {
    if (packed && team % head_quads == 0)
      body(team, std::integral_constant<Access, Access::kEven>());
    else if (packed)
      body(team, std::integral_constant<Access, Access::kPacked>());
    else
      body(team, std::integral_constant<Access, Access::kAny>());
  };
  if (group_quads <= kWarp * kHeld)
    with_access(std::integral_constant<int, kWarp>());
  else
    with_access(std::integral_constant<int, kThreads>());
}

inline int64_t group_quads(ConstView y, ConstView rstd) {
  return y.dim(1) / rstd.dim(1) * head_quads(y);
}

inline Grid teams_grid(int64_t teams, int team, int64_t shared_bytes_per_team = 0) {
  const int64_t per_block = kThreads / team;
  return {.blocks = dim3(static_cast<unsigned>((teams + per_block - 1) / per_block)),
          .threads = kThreads,
          .shared_bytes = per_block * shared_bytes_per_team};
}

}  // namespace nestling::cuda::gated_norm
