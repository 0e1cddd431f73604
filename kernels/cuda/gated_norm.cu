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
  int w_pitch;
  float* rstd;
  int64_t rstd_pitch;
  float eps;
};

// u = y silu(z).
template <Access kAccess, class X>
__device__ void gate_sweep(Pack<kQuad> (&u)[kHeld], const Forward<X>& f, int64_t t, int group,
                           const Place& place) {
  Pack<kQuad> z[kHeld];
  load_sweep<kAccess>(u, f.y, t, f.s, group, place);
  load_sweep<kAccess>(z, f.z, t, f.s, group, place);
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
#pragma unroll
    for (int i = 0; i < kQuad; ++i) u[j].v[i] *= silu(z[j].v[i]);
}

// Team (token, group).
template <class X, int kTeam, Access kAccess>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<X> f) {
  const Shape& s = f.s;
  const auto t = static_cast<int64_t>(team_index<kTeam>() / s.groups);
  const int group = static_cast<int>(team_index<kTeam>() % s.groups);
  if (t >= s.tokens) return;  // the whole team
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  Pack<kQuad> u[kHeld], w[kHeld];
  float squares = 0.0f;
  Place place(s, lane);
  constexpr bool kWaits = kAccess == Access::kAny;  // for registers
  if constexpr (!kWaits) load_sweep<kAccess>(w, f.w, f.w_pitch, s, group, place);
  for (int sweep = 0; sweep < s.sweeps; ++sweep) {
    gate_sweep<kAccess>(u, f, t, group, place);
    advance_sweep<kAccess>(place, s);
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
#pragma unroll
      for (int i = 0; i < kQuad; ++i) squares += u[j].v[i] * u[j].v[i];
  }
  const float rstd = 1.0f / sqrtf(team_sum<kTeam>(squares) / active_of(s) + f.eps);
  if (lane == 0) f.rstd[t * f.rstd_pitch + group] = rstd;

  place = Place(s, lane);
  for (int sweep = 0; sweep < s.sweeps; ++sweep) {
    if (s.sweeps > 1) gate_sweep<kAccess>(u, f, t, group, place);
    if (kWaits || s.sweeps > 1) load_sweep<kAccess>(w, f.w, f.w_pitch, s, group, place);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
#pragma unroll
      for (int i = 0; i < kQuad; ++i) u[j].v[i] *= rstd * w[j].v[i];
      store_place<kAccess>(f.out, t, u[j], s, group, place);
      place.advance<kAccess>(s);
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
               .w_pitch = head_pitch(a.w, 0),
               .rstd = a.rstd.ptr<float>(),
               .rstd_pitch = a.rstd.stride(0),
               .eps = a.eps};
  const bool packed = all_packed(a.y, f.w, f.w_pitch, f.out, f.y, f.z);
  with_team(group_quads(a.y, a.rstd), head_quads(a.y), packed, [&](auto team, auto access) {
    f.s = shape_of(a.y, a.rstd, a.active, team);
    launch(ctx, teams_grid(f.s.tokens * f.s.groups, team), forward_kernel<X, team, access>, f);
  });
}

}  // namespace

void run(Context& ctx, const GatedNormForward& a) {
  if (a.y.size() == 0) return;
  with_elements(a.y, [&]<class X>(X) { forward<X>(ctx, a); });
}

}  // namespace nestling::cuda
