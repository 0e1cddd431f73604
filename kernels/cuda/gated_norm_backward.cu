// gated_norm_backward.cu - the gated norm's backward: a team keeps to one group and walks tokens; see
// gated_norm.cuh. Its sums of dw lie in shared memory, each element with one thread: one part a team.
//
// Limits        24576 channels a group, whose dw must fit the shared memory of any card.
#include <algorithm>

#include "kernels/cuda/gated_norm.cuh"
#include "kernels/cuda/parts.h"
#include "kernels/ops/gated_norm.h"

namespace nestling::cuda {

namespace {

using namespace gated_norm;  // NOLINT(google-build-using-namespace): this operator's own helpers

constexpr int64_t kMostQuads = 6144;
constexpr int64_t kMostBlocks =
    528;  // four a multiprocessor of an H100: parts are written and read again
constexpr int64_t kTokensPerPart = 16;  // at least, where there are so many

template <class X>
struct Backward {
  Shape s;
  Rows<X> dy, dz;
  Rows<const X> dout, y, z;
  const float* w;
  int w_pitch;
  const float* rstd;
  int64_t rstd_pitch;
  int64_t parts;
  float* dw;       // [parts, H * P]
  float* dactive;  // [parts, G]
};

struct Held {
  Pack<kQuad> dout[kHeld], y[kHeld], z[kHeld];
};
template <Access kAccess, class X>
__device__ void load_held(Held& held, const Backward<X>& b, int64_t t, int group,
                          const Place& place) {
  load_sweep<kAccess>(held.dout, b.dout, t, b.s, group, place);
  load_sweep<kAccess>(held.y, b.y, t, b.s, group, place);
  load_sweep<kAccess>(held.z, b.z, t, b.s, group, place);
}

struct Dots {
  float dot = 0.0f;      // of dout w u
  float squares = 0.0f;  // of u^2
};

// What the token adds to the thread's dw and to the group's sums. dw [kHeld * kTeam] is the sweep's. Leaves dout w
// in dout, and sigmoid(z) in gate.
template <int kTeam, Access kAccess, class X>
__device__ void add_sweep(Dots& dots, float4* dw, Held& held, Pack<kQuad> (&gate)[kHeld],
                          const Backward<X>& b, int group, Place place, float rstd) {
  Pack<kQuad> w[kHeld];
  load_sweep<kAccess>(w, b.w, b.w_pitch, b.s, group, place);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    float scaled[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      gate[j].v[i] = sigmoid(held.z[j].v[i]);
      const float u = held.y[j].v[i] * (held.z[j].v[i] * gate[j].v[i]);
      scaled[i] = held.dout[j].v[i] * u;
      dots.dot += scaled[i] * w[j].v[i];
      dots.squares += u * u;
      held.dout[j].v[i] *= w[j].v[i];
    }
    if (place.count(b.s) > 0) {
      float4& to = dw[j * kTeam];
      to = make_float4(to.x + scaled[0] * rstd, to.y + scaled[1] * rstd, to.z + scaled[2] * rstd,
                       to.w + scaled[3] * rstd);
    }
    place.advance<kAccess>(b.s);
  }
}

// du = dout w rstd - u pull, through u = y silu(z). Of dout w in dout.
template <Access kAccess, class X>
__device__ void store_sweep(const Held& held, const Pack<kQuad> (&gates)[kHeld],
                            const Backward<X>& b, int64_t t, int group, Place place, float rstd,
                            float pull) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    Pack<kQuad> dy, dz;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const float y = held.y[j].v[i];
      const float gate = gates[j].v[i];
      const float gated = held.z[j].v[i] * gate;
      const float du = held.dout[j].v[i] * rstd - y * gated * pull;
      dy.v[i] = du * gated;
      dz.v[i] = du * y * (gate + gated * (1.0f - gate));
    }
    store_place<kAccess>(b.dy, t, dy, b.s, group, place);
    store_place<kAccess>(b.dz, t, dz, b.s, group, place);
    place.advance<kAccess>(b.s);
  }
}

// What store_sweep needs, once more.
template <Access kAccess, class X>
__device__ void reload_sweep(Held& held, Pack<kQuad> (&gate)[kHeld], const Backward<X>& b,
                             int64_t t, int group, const Place& place) {
  Pack<kQuad> w[kHeld];
  load_held<kAccess>(held, b, t, group, place);
  load_sweep<kAccess>(w, b.w, b.w_pitch, b.s, group, place);
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      gate[j].v[i] = sigmoid(held.z[j].v[i]);
      held.dout[j].v[i] *= w[j].v[i];
    }
}

// Team (part, group): tokens part, part + parts, ...
template <class X, int kTeam, Access kAccess>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<X> b) {
  const Shape& s = b.s;
  const auto part = static_cast<int64_t>(team_index<kTeam>() / s.groups);
  const int group = static_cast<int>(team_index<kTeam>() % s.groups);
  if (part >= b.parts) return;  // the whole team
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const int quads = s.heads * s.head_quads;
  float4* dw = dynamic_shared<float4>() + static_cast<int>(threadIdx.x) / kTeam * quads + lane;
  for (int q = 0; lane + q < quads; q += kTeam) dw[q] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const float active = active_of(s);
  float dactive = 0.0f;  // this thread's part
  Held held;
  Pack<kQuad> gate[kHeld];
  const Place first(s, lane);
  for (int64_t t = part; t < s.tokens; t += b.parts) {
    const float rstd = b.rstd[t * b.rstd_pitch + group];
    Dots dots;
    Place place = first;
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      load_held<kAccess>(held, b, t, group, place);
      add_sweep<kTeam, kAccess>(dots, dw + sweep * kTeam * kHeld, held, gate, b, group, place,
                                rstd);
      advance_sweep<kAccess>(place, s);
    }
    const float pull = team_sum<kTeam>(dots.dot) * rstd * rstd * rstd / active;
    dactive += pull * dots.squares / (2.0f * active);
    place = first;
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      if (s.sweeps > 1) reload_sweep<kAccess>(held, gate, b, t, group, place);
      store_sweep<kAccess>(held, gate, b, t, group, place, rstd, pull);
      advance_sweep<kAccess>(place, s);
    }
  }
  dactive = team_sum<kTeam>(dactive);
  if (lane == 0) b.dactive[part * s.groups + group] = dactive;
  float* to = b.dw + part * s.groups * s.heads * s.channels;
  Place place = first;
  for (int q = 0; lane + q < quads; q += kTeam) {
    const Pack<kQuad> sums{{dw[q].x, dw[q].y, dw[q].z, dw[q].w}};
    store_quad<false>(to + place.at(s, group, s.channels), sums, place.count(s));
    place.advance<kAccess>(s);
  }
}

template <class X>
void backward(Context& ctx, const GatedNormBackward& a) {
  const int64_t quads = group_quads(a.y, a.rstd);
  NESTLING_CHECK(quads <= kMostQuads, "gated_norm_backward: ", a.y.dim(1) / a.rstd.dim(1),
                 " heads of ", a.y.dim(2), " channels a group, the CUDA kernel holds ",
                 kMostQuads * kQuad, " channels");
  Backward<X> b{.s = {},
                .dy = rows_of<X>(a.dy),
                .dz = rows_of<X>(a.dz),
                .dout = rows_of<X>(a.dout),
                .y = rows_of<X>(a.y),
                .z = rows_of<X>(a.z),
                .w = a.w.ptr<float>(),
                .w_pitch = head_pitch(a.w, 0),
                .rstd = a.rstd.ptr<float>(),
                .rstd_pitch = a.rstd.stride(0),
                .parts = 0,
                .dw = nullptr,
                .dactive = nullptr};
  const bool packed = all_packed(a.y, b.w, b.w_pitch, b.dy, b.dz, b.dout, b.y, b.z);
  const Arena::Mark mark(ctx.scratch());
  const int64_t groups = a.rstd.dim(1);
  const int64_t width = a.w.size();
  with_team(quads, head_quads(a.y), packed, [&](auto team, auto access) {
    b.s = shape_of(a.y, a.rstd, a.active, team);
    const int64_t most = kMostBlocks * (kThreads / team) / groups;
    const int64_t wanted = (b.s.tokens + kTokensPerPart - 1) / kTokensPerPart;
    b.parts = std::max<int64_t>(1, std::min(wanted, most));
    b.dw = ctx.scratch().floats(b.parts * width);
    b.dactive = ctx.scratch().floats(b.parts * groups);
    launch(ctx, teams_grid(b.parts * groups, team, quads * int64_t{sizeof(float4)}),
           backward_kernel<X, team, access>, b);
  });
  add_parts(ctx, a.dw, b.dw, b.parts, width);
  if (a.dactive) add_parts(ctx, a.dactive, b.dactive, b.parts * groups, 1);
}

}  // namespace

void run(Context& ctx, const GatedNormBackward& a) {
  if (a.y.size() == 0) return;
  with_elements(a.y, [&]<class X>(X) { backward<X>(ctx, a); });
}

}  // namespace nestling::cuda
