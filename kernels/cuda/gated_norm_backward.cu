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
constexpr int64_t kMostBlocks = 2112;  // 16 a multiprocessor of an H100
constexpr int64_t kTokensPerPart = 8;  // at least, where there are so many

template <class X>
struct Backward {
  Shape s;
  Rows<X> dy, dz;
  Rows<const X> dout, y, z;
  const float* w;
  int64_t w_pitch;
  const float* rstd;
  int64_t rstd_pitch;
  int64_t parts;
  float* dw;       // [parts, H * P]
  float* dactive;  // [parts, G]
};

struct Held {
  Pack<kQuad> dout[kHeld], y[kHeld], z[kHeld];
};
template <bool kPacked, class X>
__device__ void load_held(Held& held, const Backward<X>& b, int64_t t, int64_t group,
                          const Place& place) {
  load_sweep<kPacked>(held.dout, b.dout, b.s, t, group, place);
  load_sweep<kPacked>(held.y, b.y, b.s, t, group, place);
  load_sweep<kPacked>(held.z, b.z, b.s, t, group, place);
}

struct Dots {
  float dot = 0.0f;      // of dout w u
  float squares = 0.0f;  // of u^2
};

// What the token adds to the thread's dw and to the group's sums. dw [kHeld * kTeam] is the sweep's.
template <int kTeam, bool kPacked, class X>
__device__ void add_sweep(Dots& dots, float4* dw, const Held& held, const Backward<X>& b,
                          int64_t group, Place place, float rstd) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t n = place.count(b.s);
    const auto w = load_quad<kPacked>(b.w + place.offset(b.s, group, b.w_pitch), n);
    float scaled[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const float u = held.y[j].v[i] * silu(held.z[j].v[i]);
      scaled[i] = held.dout[j].v[i] * u;
      dots.dot += scaled[i] * w.v[i];
      dots.squares += u * u;
    }
    if (n > 0) {
      float4& to = dw[j * kTeam];
      to = make_float4(to.x + scaled[0] * rstd, to.y + scaled[1] * rstd, to.z + scaled[2] * rstd,
                       to.w + scaled[3] * rstd);
    }
    place.advance(b.s);
  }
}

// du = dout w rstd - u pull, through u = y silu(z).
template <bool kPacked, class X>
__device__ void store_sweep(const Held& held, const Backward<X>& b, int64_t t, int64_t group,
                            Place place, float rstd, float pull) {
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int64_t n = place.count(b.s);
    const auto w = load_quad<kPacked>(b.w + place.offset(b.s, group, b.w_pitch), n);
    Pack<kQuad> dy, dz;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const float y = held.y[j].v[i];
      const float gate = sigmoid(held.z[j].v[i]);
      const float gated = held.z[j].v[i] * gate;
      const float du = held.dout[j].v[i] * w.v[i] * rstd - y * gated * pull;
      dy.v[i] = du * gated;
      dz.v[i] = du * y * (gate + gated * (1.0f - gate));
    }
    store_quad<kPacked>(b.dy.data + t * b.dy.token + place.offset(b.s, group, b.dy.head), dy, n);
    store_quad<kPacked>(b.dz.data + t * b.dz.token + place.offset(b.s, group, b.dz.head), dz, n);
    place.advance(b.s);
  }
}

// Team (part, group): tokens part, part + parts, ...
template <class X, int kTeam, bool kPacked>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<X> b) {
  const Shape& s = b.s;
  const int64_t part = team_index<kTeam>() / s.groups;
  const int64_t group = team_index<kTeam>() % s.groups;
  if (part >= b.parts) return;  // the whole team
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  const int quads = s.heads * s.head_quads;
  float4* dw = dynamic_shared<float4>() + static_cast<int>(threadIdx.x) / kTeam * quads + lane;
  for (int q = 0; lane + q < quads; q += kTeam) dw[q] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const float active = active_of(s);
  float dactive = 0.0f;
  Held held;
  for (int64_t t = part; t < s.tokens; t += b.parts) {
    const float rstd = b.rstd[t * b.rstd_pitch + group];
    Dots dots;
    Place place(s, lane);
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      load_held<kPacked>(held, b, t, group, place);
      add_sweep<kTeam, kPacked>(dots, dw + sweep * kTeam * kHeld, held, b, group, place, rstd);
      advance_sweep(place, s);
    }
    const float pull = team_sum<kTeam>(dots.dot) * rstd * rstd * rstd / active;
    dactive += pull * team_sum<kTeam>(dots.squares) / (2.0f * active);
    place = Place(s, lane);
    for (int sweep = 0; sweep < s.sweeps; ++sweep) {
      if (s.sweeps > 1) load_held<kPacked>(held, b, t, group, place);
      store_sweep<kPacked>(held, b, t, group, place, rstd, pull);
      advance_sweep(place, s);
    }
  }
  if (lane == 0) b.dactive[part * s.groups + group] = dactive;
  float* to = b.dw + part * s.groups * s.heads * s.channels;
  Place place(s, lane);
  for (int q = 0; lane + q < quads; q += kTeam) {
    const Pack<kQuad> sums{{dw[q].x, dw[q].y, dw[q].z, dw[q].w}};
    store_quad<false>(to + place.offset(s, group, s.channels), sums, place.count(s));
    place.advance(s);
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
                .w_pitch = a.w.stride(0),
                .rstd = a.rstd.ptr<float>(),
                .rstd_pitch = a.rstd.stride(0),
                .parts = 0,
                .dw = nullptr,
                .dactive = nullptr};
  const bool packed = b.dy.packed() && b.dz.packed() && b.dout.packed() && b.y.packed() &&
                      b.z.packed() && packable(b.w, b.w_pitch);
  const Arena::Mark mark(ctx.scratch());
  const int64_t groups = a.rstd.dim(1);
  const int64_t width = a.w.size();
  with_team(quads, packed, [&](auto team, auto packs) {
    b.s = shape_of(a.y, a.rstd, a.active, team);
    const int64_t most = kMostBlocks * (kThreads / team) / groups;
    const int64_t wanted = (b.s.tokens + kTokensPerPart - 1) / kTokensPerPart;
    b.parts = std::max<int64_t>(1, std::min(wanted, most));
    b.dw = ctx.scratch().floats(b.parts * width);
    b.dactive = ctx.scratch().floats(b.parts * groups);
    launch(ctx, teams_grid(b.parts * groups, team, quads * int64_t{sizeof(float4)}),
           backward_kernel<X, team, packs>, b);
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
