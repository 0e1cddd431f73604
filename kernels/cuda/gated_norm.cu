// gated_norm.cu - the gated norm's forward: one team a token and group; see gated_norm.cuh.
#include "kernels/cuda/gated_norm.cuh"
#include "kernels/ops/gated_norm.h"

namespace nestling::cuda {

namespace {

using namespace gated_norm;  // NOLINT(google-build-using-namespace): this operator's own helpers

template <class X>
struct Forward {
  Shape s;
  Rows<X> out;
  Rows<const X> y, z;
  const float* w;
  int64_t w_pitch;
  float* rstd;
  int64_t rstd_pitch;
  float eps;
};

// u = y silu(z).
template <bool kPacked, class X>
__device__ void gate_sweep(Pack<kQuad> (&u)[kHeld], const Forward<X>& f, int64_t t, int64_t group,
                           const Place& place) {
  Pack<kQuad> z[kHeld];
  load_sweep<kPacked>(u, f.y, f.s, t, group, place);
  load_sweep<kPacked>(z, f.z, f.s, t, group, place);
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
#pragma unroll
    for (int i = 0; i < kQuad; ++i) u[j].v[i] *= silu(z[j].v[i]);
}

// Team (token, group).
template <class X, int kTeam, bool kPacked>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<X> f) {
  const Shape& s = f.s;
  const int64_t t = team_index<kTeam>() / s.groups;
  const int64_t group = team_index<kTeam>() % s.groups;
  if (t >= s.tokens) return;  // the whole team
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  Pack<kQuad> u[kHeld];
  float squares = 0.0f;
  Place place(s, lane);
  for (int sweep = 0; sweep < s.sweeps; ++sweep) {
    gate_sweep<kPacked>(u, f, t, group, place);
    advance_sweep(place, s);
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
#pragma unroll
      for (int i = 0; i < kQuad; ++i) squares += u[j].v[i] * u[j].v[i];
  }
  const float rstd = 1.0f / sqrtf(team_sum<kTeam>(squares) / active_of(s) + f.eps);
  if (lane == 0) f.rstd[t * f.rstd_pitch + group] = rstd;

  X* out = f.out.data + t * f.out.token;
  place = Place(s, lane);
  for (int sweep = 0; sweep < s.sweeps; ++sweep) {
    if (s.sweeps > 1) gate_sweep<kPacked>(u, f, t, group, place);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int64_t n = place.count(s);
      const auto w = load_quad<kPacked>(f.w + place.offset(s, group, f.w_pitch), n);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) u[j].v[i] *= rstd * w.v[i];
      store_quad<kPacked>(out + place.offset(s, group, f.out.head), u[j], n);
      place.advance(s);
    }
  }
}

template <class X>
void forward(Context& ctx, const GatedNormForward& a) {
  Forward<X> f{.s = {},
               .out = rows_of<X>(a.out),
               .y = rows_of<X>(a.y),
               .z = rows_of<X>(a.z),
               .w = a.w.ptr<float>(),
               .w_pitch = a.w.stride(0),
               .rstd = a.rstd.ptr<float>(),
               .rstd_pitch = a.rstd.stride(0),
               .eps = a.eps};
  const bool packed = f.out.packed() && f.y.packed() && f.z.packed() && packable(f.w, f.w_pitch);
  with_team(group_quads(a.y, a.rstd), packed, [&](auto team, auto packs) {
    f.s = shape_of(a.y, a.rstd, a.active, team);
    launch(ctx, teams_grid(f.s.tokens * f.s.groups, team), forward_kernel<X, team, packs>, f);
  });
}

}  // namespace

void run(Context& ctx, const GatedNormForward& a) {
  if (a.y.size() == 0) return;
  with_elements(a.y, [&]<class X>(X) { forward<X>(ctx, a); });
}

}  // namespace nestling::cuda
