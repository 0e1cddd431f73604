#include "model/layers/mamba.h"

#include "kernels/ops/conv1d.h"
#include "kernels/ops/gated_norm.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/scan.h"

namespace nestling {

namespace {

// Extents, read off the weights of whatever size is running.
struct MambaShape {
  int64_t H, P, N, G;
  explicit MambaShape(const MambaParams<ConstView>& w)
      : H(w.x.dim(0)), P(w.x.dim(1)), N(w.B.dim(0)), G(w.B.dim(1)) {}
};

// x_raw, B_raw, C_raw and dt of T tokens; z too.
void project(Context& ctx, const MambaParams<ConstView>& w, const MambaActs& a) {
  const ConstView in = a.norm.normed;
  const int64_t tokens = in.dim(0);
  linear_forward(ctx, {.y = merge_cols(a.z), .x = in, .w = merge_rows(w.z)});
  linear_forward(ctx, {.y = a.x_raw, .x = in, .w = merge_rows(w.x)});
  linear_forward(ctx, {.y = a.B_raw, .x = in, .w = merge_rows(w.B)});
  linear_forward(ctx, {.y = a.C_raw, .x = in, .w = merge_rows(w.C)});
  linear_forward(ctx, {.y = a.dt, .x = in, .w = w.dt});
  NESTLING_ASSERT(a.x_raw.dim(0) == tokens);
}

void allocate(Arena& arena, const MambaShape& s, int64_t tokens, MambaActs& a) {
  const auto f32 = [&](std::initializer_list<int64_t> shape) {
    return arena.alloc(DType::kF32, shape);
  };
  a.z = f32({tokens, s.H, s.P});
  a.x_raw = f32({tokens, s.H * s.P});
  a.B_raw = f32({tokens, s.N * s.G});
  a.C_raw = f32({tokens, s.N * s.G});
  a.dt = f32({tokens, s.H});
  a.x = f32({tokens, s.H, s.P});
  a.B = f32({tokens, s.N, s.G});
  a.C = f32({tokens, s.N, s.G});
  a.y = f32({tokens, s.H, s.P});
  a.group_rstd = f32({tokens, s.G});
  a.gated = f32({tokens, s.H, s.P});
}

void convolve(LayerRun& run, const MambaParams<ConstView>& w, const MambaActs& a,
              const MambaCache* cache) {
  const auto one = [&](View y, ConstView x, ConstView weight, ConstView bias, View final_state) {
    conv1d_forward(run.ctx, {.y = y,
                             .final_state = final_state,
                             .x = x,
                             .w = merge_rows(weight),
                             .bias = flatten(bias),
                             .segments = run.segments});
  };
  one(merge_cols(a.x), a.x_raw, w.conv_x, w.conv_bias_x, cache ? cache->conv_x : View());
  one(merge_cols(a.B), a.B_raw, w.conv_B, w.conv_bias_B, cache ? cache->conv_B : View());
  one(merge_cols(a.C), a.C_raw, w.conv_C, w.conv_bias_C, cache ? cache->conv_C : View());
}

void convolve_backward(LayerRun& run, const MambaParams<ConstView>& w, const MambaParams<View>& g,
                       const MambaActs& a, View dx, View dB, View dC, View dx_raw, View dB_raw,
                       View dC_raw) {
  const auto one = [&](View draw, ConstView dy, ConstView x, ConstView weight, ConstView bias,
                       View dweight, View dbias) {
    conv1d_backward(run.ctx, {.dx = draw,
                              .dw = merge_rows(dweight),
                              .dbias = flatten(dbias),
                              .dy = dy,
                              .x = x,
                              .w = merge_rows(weight),
                              .bias = flatten(bias),
                              .segments = run.segments});
  };
  one(dx_raw, merge_cols(dx), a.x_raw, w.conv_x, w.conv_bias_x, g.conv_x, g.conv_bias_x);
  one(dB_raw, merge_cols(dB), a.B_raw, w.conv_B, w.conv_bias_B, g.conv_B, g.conv_bias_B);
  one(dC_raw, merge_cols(dC), a.C_raw, w.conv_C, w.conv_bias_C, g.conv_C, g.conv_bias_C);
}

}  // namespace

MambaActs mamba_forward(LayerRun& run, const MambaParams<ConstView>& w, ConstView input,
                        View output, const MambaCache* cache) {
  const MambaShape s(w);
  MambaActs a;
  a.norm = layer_norm_forward(run, w.norm, input);
  allocate(run.arena, s, input.dim(0), a);
  project(run.ctx, w, a);
  convolve(run, w, a, cache);
  if (run.save)
    a.chunk_states =
        run.arena.alloc(DType::kF32, {scan_chunks(run.segments, run.config.chunk), s.H, s.P, s.N});
  scan_forward(run.ctx, {.y = a.y,
                         .chunk_states = a.chunk_states,
                         .final_state = cache ? cache->state : View(),
                         .x = a.x,
                         .dt_raw = a.dt,
                         .B = a.B,
                         .C = a.C,
                         .A_log = w.A_log,
                         .D = w.D,
                         .dt_bias = w.dt_bias,
                         .segments = run.segments,
                         .chunk = run.config.chunk});
  gated_norm_forward(run.ctx, {.out = a.gated,
                               .rstd = a.group_rstd,
                               .y = a.y,
                               .z = a.z,
                               .w = w.gated_norm,
                               .eps = run.config.eps});
  copy(output, input);
  linear_forward(run.ctx, {.y = output,
                           .x = merge_cols(ConstView(a.gated)),
                           .w = merge_cols(w.out),
                           .accumulate = true});
  return a;
}

void mamba_backward(LayerRun& run, const MambaParams<ConstView>& w, const MambaParams<View>& g,
                    const MambaActs& a, View dh) {
  const MambaShape s(w);
  const int64_t tokens = dh.dim(0);
  Context& ctx = run.ctx;
  const Arena::Mark mark(run.arena);
  MambaActs d;  // gradients of the activations of the same names
  allocate(run.arena, s, tokens, d);
  const View dnormed = run.arena.alloc(DType::kF32, {tokens, dh.dim(1)});

  linear_backward(ctx, {.dx = merge_cols(d.gated),
                        .dw = merge_cols(g.out),
                        .dy = dh,
                        .x = merge_cols(ConstView(a.gated)),
                        .w = merge_cols(w.out)});
  gated_norm_backward(ctx, {.dy = d.y,
                            .dz = d.z,
                            .dw = g.gated_norm,
                            .dout = d.gated,
                            .y = a.y,
                            .z = a.z,
                            .w = w.gated_norm,
                            .rstd = a.group_rstd});
  scan_backward(ctx, {.dx = d.x,
                      .ddt_raw = d.dt,
                      .dB = d.B,
                      .dC = d.C,
                      .dA_log = g.A_log,
                      .dD = g.D,
                      .ddt_bias = g.dt_bias,
                      .dy = d.y,
                      .x = a.x,
                      .dt_raw = a.dt,
                      .B = a.B,
                      .C = a.C,
                      .A_log = w.A_log,
                      .D = w.D,
                      .dt_bias = w.dt_bias,
                      .chunk_states = a.chunk_states,
                      .segments = run.segments,
                      .chunk = run.config.chunk});
  convolve_backward(run, w, g, a, d.x, d.B, d.C, d.x_raw, d.B_raw, d.C_raw);

  const auto project_backward = [&](ConstView dy, ConstView weight, View dweight, bool accumulate) {
    linear_backward(ctx, {.dx = dnormed,
                          .dw = dweight,
                          .dy = dy,
                          .x = a.norm.normed,
                          .w = weight,
                          .accumulate_dx = accumulate});
  };
  project_backward(merge_cols(ConstView(d.z)), merge_rows(w.z), merge_rows(g.z), false);
  project_backward(d.x_raw, merge_rows(w.x), merge_rows(g.x), true);
  project_backward(d.B_raw, merge_rows(w.B), merge_rows(g.B), true);
  project_backward(d.C_raw, merge_rows(w.C), merge_rows(g.C), true);
  project_backward(d.dt, w.dt, g.dt, true);
  layer_norm_backward(run, w.norm, g.norm, a.norm, dnormed, dh);
}

void mamba_step(StepRun& run, const MambaParams<ConstView>& w, const MambaCache& cache, View h) {
  const MambaShape s(w);
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const int64_t batch = h.dim(0);
  MambaActs a;
  allocate(ctx.scratch(), s, batch, a);
  a.norm = {.input = h,
            .rstd = ctx.scratch().alloc(DType::kF32, {batch}),
            .normed = ctx.scratch().alloc(DType::kF32, {batch, h.dim(1)})};
  rms_norm_forward(
      ctx, {.y = a.norm.normed, .rstd = a.norm.rstd, .x = h, .w = w.norm, .eps = run.config.eps});
  project(ctx, w, a);
  const auto convolve_one = [&](View y, View state, ConstView x, ConstView weight, ConstView bias) {
    conv1d_step(ctx,
                {.y = y, .state = state, .x = x, .w = merge_rows(weight), .bias = flatten(bias)});
  };
  convolve_one(merge_cols(a.x), cache.conv_x, a.x_raw, w.conv_x, w.conv_bias_x);
  convolve_one(merge_cols(a.B), cache.conv_B, a.B_raw, w.conv_B, w.conv_bias_B);
  convolve_one(merge_cols(a.C), cache.conv_C, a.C_raw, w.conv_C, w.conv_bias_C);
  scan_step(ctx, {.y = a.y,
                  .state = cache.state,
                  .x = a.x,
                  .dt_raw = a.dt,
                  .B = a.B,
                  .C = a.C,
                  .A_log = w.A_log,
                  .D = w.D,
                  .dt_bias = w.dt_bias});
  gated_norm_forward(ctx, {.out = a.gated,
                           .rstd = a.group_rstd,
                           .y = a.y,
                           .z = a.z,
                           .w = w.gated_norm,
                           .eps = run.config.eps});
  linear_forward(
      ctx,
      {.y = h, .x = merge_cols(ConstView(a.gated)), .w = merge_cols(w.out), .accumulate = true});
}

}  // namespace nestling
