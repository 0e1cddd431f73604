// rms_norm.cu - teams of lanes walk rows; a thread holds some quads of one, so that rows of up to 4096 elements are
// read once, and w once a block, longer ones again for the second half. A team is half a warp for rows of up to 128
// elements, as heads are, a warp up to 512, a block beyond. In backward a team sums its part of dw in shared memory,
// each element with one thread; the teams of a block, then the blocks' parts, are added in one order.
//
// Limits        backward: 32768 columns, whose dw must fit the shared memory of any card.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/parts.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops/rms_norm.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostWidth = 32768;
constexpr int64_t kRowsPerPart = 8;  // of a team at least, where there are so many

// Who takes a row: kLanes neighbouring threads, of which each holds kHeld quads at a time.
template <int kLanes_, int kHeld_>
struct TeamOf {
  static constexpr int kLanes = kLanes_;
  static constexpr int kHeld = kHeld_;
  static constexpr int kTeams = kThreads / kLanes;  // of a block
  static constexpr int64_t kSweep = int64_t{kLanes} * kHeld * kQuad;
  using Quads = Pack<kQuad>[kHeld];
  // Of an H100's 132 multiprocessors each gets five blocks, or eight of short rows. In backward a block has a part of
  // dw, which is written and read again: three, where they are long.
  static constexpr int64_t kMostBlocks = kTeams == 1 ? 660 : 1056;
  static constexpr int64_t kMostParts = kTeams == 1 ? 396 : 1056;

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  static __device__ int index() { return static_cast<int>(threadIdx.x) / kLanes; }
  // Of the thread's quad j of a sweep.
  static __device__ int64_t column(int sweep, int j) {
    return ((int64_t{sweep} * kHeld + j) * kLanes + lane()) * kQuad;
  }
  static __device__ float sum(float x) {
    if constexpr (kTeams == 1)
      return block_sum<kThreads>(x);
    else
      return warp_sum<kLanes>(x);
  }
};
using HalfWarp = TeamOf<kWarp / 2, 2>;
using Warp = TeamOf<kWarp, 4>;
using Block = TeamOf<kThreads, 4>;

// Calls body(Team, bool_constant<packed>).
template <class Body>
void with_team(int64_t width, bool packed, Body&& body) {
  const auto with_packs = [&](auto team) {
    if (packed)
      body(team, std::true_type());
    else
      body(team, std::false_type());
  };
  if (width <= HalfWarp::kSweep)
    with_packs(HalfWarp());
  else if (width <= Warp::kSweep)
    with_packs(Warp());
  else
    with_packs(Block());
}

struct Shape {
  int64_t rows, width;
  const float* active;  // null: the width
  template <class Team>
  __device__ int sweeps() const {
    return Team::kTeams > 1 ? 1 : static_cast<int>((width + Team::kSweep - 1) / Team::kSweep);
  }
};

Shape shape_of(ConstView x, ConstView active) {
  return {.rows = x.dim(0), .width = x.dim(1), .active = optional_floats(active)};
}

__device__ float active_of(const Shape& s) {
  return s.active != nullptr ? *s.active : static_cast<float>(s.width);
}

// The thread's quads of a row that has `width` elements, zeros behind them.
template <class Team, bool kPacked, class X>
__device__ void load_sweep(typename Team::Quads& to, const X* row, int64_t width, int sweep) {
#pragma unroll
  for (int j = 0; j < Team::kHeld; ++j) {
    const int64_t c = Team::column(sweep, j);
    to[j] = load_quad<kPacked>(row + c, max(width - c, int64_t{0}));
  }
}

template <class Y>
struct Forward {
  Shape s;
  Y* y;
  float* rstd;
  const float* x;
  const float* w;
  int64_t y_pitch, x_pitch;
  float eps;
};

// All teams of a block walk as far: behind the last row they have rows without elements.
template <class Y, class Team, bool kPacked>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<Y> f) {
  const Shape& s = f.s;
  const int sweeps = s.sweeps<Team>();
  const float active = active_of(s);
  typename Team::Quads x = {}, w = {};
  if (sweeps == 1) load_sweep<Team, kPacked>(w, f.w, s.width, 0);
  const int64_t step = int64_t{gridDim.x} * Team::kTeams;
  for (int64_t first = int64_t{blockIdx.x} * Team::kTeams; first < s.rows; first += step) {
    const int64_t t = first + Team::index();
    const int64_t width = t < s.rows ? s.width : 0;
    const float* row = f.x + t * f.x_pitch;
    float squares = 0.0f;
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      load_sweep<Team, kPacked>(x, row, width, sweep);
#pragma unroll
      for (int j = 0; j < Team::kHeld; ++j)
#pragma unroll
        for (int i = 0; i < kQuad; ++i) squares += x[j].v[i] * x[j].v[i];
    }
    const float rstd = 1.0f / sqrtf(Team::sum(squares) / active + f.eps);
    if (Team::lane() == 0 && t < s.rows) f.rstd[t] = rstd;
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      if (sweeps > 1) {
        load_sweep<Team, kPacked>(x, row, width, sweep);
        load_sweep<Team, kPacked>(w, f.w, width, sweep);
      }
#pragma unroll
      for (int j = 0; j < Team::kHeld; ++j) {
        const int64_t c = Team::column(sweep, j);
#pragma unroll
        for (int i = 0; i < kQuad; ++i) x[j].v[i] *= rstd * w[j].v[i];
        store_quad<kPacked>(f.y + t * f.y_pitch + c, x[j], max(width - c, int64_t{0}));
      }
    }
  }
}

struct Backward {
  Shape s;
  float* dx;
  float* parts;  // [blocks, width + 1]: dw, then dactive, of the rows of a block
  const float* dy;
  const float* x;
  const float* w;
  const float* rstd;
  int64_t dx_pitch, dy_pitch, x_pitch;
};

struct Dots {
  float dot = 0.0f;      // of dy w x
  float squares = 0.0f;  // of x^2
};

// Leaves dy w in dy. dw [kHeld * kLanes] is the sweep's.
template <class Team>
__device__ void add_sweep(Dots& dots, float4* dw, typename Team::Quads& dy,
                          const typename Team::Quads& x, const typename Team::Quads& w,
                          int64_t width, int sweep, float rstd) {
#pragma unroll
  for (int j = 0; j < Team::kHeld; ++j) {
    float scaled[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      scaled[i] = dy[j].v[i] * x[j].v[i];
      dots.dot += scaled[i] * w[j].v[i];
      dots.squares += x[j].v[i] * x[j].v[i];
      dy[j].v[i] *= w[j].v[i];
    }
    if (Team::column(sweep, j) >= width) continue;
    float4& to = dw[j * Team::kLanes];
    to = make_float4(to.x + scaled[0] * rstd, to.y + scaled[1] * rstd, to.z + scaled[2] * rstd,
                     to.w + scaled[3] * rstd);
  }
}

// Of dy w in dy.
template <class Team, bool kPacked>
__device__ void store_sweep(float* row, typename Team::Quads& dy, const typename Team::Quads& x,
                            int64_t width, int sweep, float rstd, float pull) {
#pragma unroll
  for (int j = 0; j < Team::kHeld; ++j) {
    const int64_t c = Team::column(sweep, j);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) dy[j].v[i] = dy[j].v[i] * rstd - x[j].v[i] * pull;
    store_quad<kPacked>(row + c, dy[j], max(width - c, int64_t{0}));
  }
}

// Of all teams' sums in shared memory, and of what each thread has of dactive.
template <class Team>
__device__ void store_part(const Backward& b, int64_t quads, float dactive) {
  const int64_t width = b.s.width;
  float* part = b.parts + blockIdx.x * (width + 1);
  dactive = block_sum<kThreads>(dactive);  // whose barriers let the teams' sums be read
  for (int64_t q = threadIdx.x; q < quads; q += kThreads) {
    float4 sums = dynamic_shared<float4>()[q];
    for (int team = 1; team < Team::kTeams; ++team) {
      const float4 more = dynamic_shared<float4>()[team * quads + q];
      sums = make_float4(sums.x + more.x, sums.y + more.y, sums.z + more.z, sums.w + more.w);
    }
    store_quad<false>(part + q * kQuad, Pack<kQuad>{{sums.x, sums.y, sums.z, sums.w}},
                      width - q * kQuad);
  }
  if (threadIdx.x == 0) part[width] = dactive;
}

// Team i of all takes rows i, i + teams, ...
template <class Team, bool kPacked>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward b) {
  const Shape& s = b.s;
  const int sweeps = s.sweeps<Team>();
  const float active = active_of(s);
  const int64_t quads = (s.width + kQuad - 1) / kQuad;
  float4* dw = dynamic_shared<float4>() + Team::index() * quads + Team::lane();
  for (int64_t q = 0; Team::lane() + q < quads; q += Team::kLanes)
    dw[q] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float dactive = 0.0f;  // this thread's part
  typename Team::Quads dy = {}, x = {}, w = {};
  if (sweeps == 1) load_sweep<Team, kPacked>(w, b.w, s.width, 0);
  const int64_t step = int64_t{gridDim.x} * Team::kTeams;
  for (int64_t first = int64_t{blockIdx.x} * Team::kTeams; first < s.rows; first += step) {
    const int64_t t = first + Team::index();
    const int64_t width = t < s.rows ? s.width : 0;  // behind the last row: no elements
    const float rstd = t < s.rows ? b.rstd[t] : 0.0f;
    Dots dots;
    const auto load = [&](int sweep) {
      load_sweep<Team, kPacked>(dy, b.dy + t * b.dy_pitch, width, sweep);
      load_sweep<Team, kPacked>(x, b.x + t * b.x_pitch, width, sweep);
      if (sweeps > 1) load_sweep<Team, kPacked>(w, b.w, width, sweep);
    };
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      load(sweep);
      add_sweep<Team>(dots, dw + sweep * Team::kHeld * Team::kLanes, dy, x, w, width, sweep, rstd);
    }
    const float pull = Team::sum(dots.dot) * rstd * rstd * rstd / active;
    dactive += pull * dots.squares / (2.0f * active);
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      if (sweeps > 1) {
        load(sweep);
#pragma unroll
        for (int j = 0; j < Team::kHeld; ++j)
#pragma unroll
          for (int i = 0; i < kQuad; ++i) dy[j].v[i] *= w[j].v[i];
      }
      store_sweep<Team, kPacked>(b.dx + t * b.dx_pitch, dy, x, width, sweep, rstd, pull);
    }
  }
  store_part<Team>(b, quads, dactive);
}

template <class Y>
void forward(Context& ctx, const RmsNormForward& a) {
  const Forward<Y> f{.s = shape_of(a.x, a.active),
                     .y = elements<Y>(a.y),
                     .rstd = a.rstd.ptr<float>(),
                     .x = a.x.ptr<float>(),
                     .w = a.w.ptr<float>(),
                     .y_pitch = a.y.pitch(),
                     .x_pitch = a.x.pitch(),
                     .eps = a.eps};
  const bool packed = f.s.width % kQuad == 0 && packable(f.y, f.y_pitch) &&
                      packable(f.x, f.x_pitch) && packable(f.w, 0);
  with_team(f.s.width, packed, [&]<class Team, class Packed>(Team, Packed) {
    const int64_t needed = (f.s.rows + Team::kTeams - 1) / Team::kTeams;
    const auto blocks = static_cast<unsigned>(std::min(needed, Team::kMostBlocks));
    launch(ctx, {blocks, kThreads}, forward_kernel<Y, Team, Packed::value>, f);
  });
}

}  // namespace

void run(Context& ctx, const RmsNormForward& a) {
  if (a.x.size() == 0) return;
  with_elements(a.y, [&]<class Y>(Y) { forward<Y>(ctx, a); });
}

void run(Context& ctx, const RmsNormBackward& a) {
  if (a.x.size() == 0) return;
  const int64_t rows = a.x.dim(0);
  const int64_t width = a.x.dim(1);
  NESTLING_CHECK(width <= kMostWidth, "rms_norm_backward: ", width,
                 " columns, the CUDA kernel holds ", kMostWidth);
  Backward b{.s = shape_of(a.x, a.active),
             .dx = a.dx.ptr<float>(),
             .parts = nullptr,
             .dy = a.dy.ptr<float>(),
             .x = a.x.ptr<float>(),
             .w = a.w.ptr<float>(),
             .rstd = a.rstd.ptr<float>(),
             .dx_pitch = a.dx.pitch(),
             .dy_pitch = a.dy.pitch(),
             .x_pitch = a.x.pitch()};
  const bool packed = width % kQuad == 0 && packable(b.dx, b.dx_pitch) &&
                      packable(b.dy, b.dy_pitch) && packable(b.x, b.x_pitch) && packable(b.w, 0);
  const int64_t padded = (width + kQuad - 1) / kQuad * kQuad;
  const Arena::Mark mark(ctx.scratch());
  with_team(width, packed, [&]<class Team, class Packed>(Team, Packed) {
    const int64_t blocks =
        std::clamp<int64_t>(rows / (kRowsPerPart * Team::kTeams), 1, Team::kMostParts);
    b.parts = ctx.scratch().floats(blocks * (width + 1));
    const Grid grid{static_cast<unsigned>(blocks), kThreads,
                    Team::kTeams * padded * int64_t{sizeof(float)}};
    launch(ctx, grid, backward_kernel<Team, Packed::value>, b);
    add_parts(ctx, a.dw, b.parts, blocks, width + 1, a.dactive);
  });
}

}  // namespace nestling::cuda
