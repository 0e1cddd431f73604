#include "model/layers/mamba.h"

#include "kernels/ops/conv1d.h"
#include "kernels/ops/gated_norm.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/scan.h"
#include "model/layers/gather.h"
#include "model/layers/product.h"

namespace nestling {

namespace {

// Extents, read off the weights of whatever size is running.
struct MambaShape {
  int64_t H, P, N, G;
  explicit MambaShape(const MambaParams<Weight>& w)
      : H(w.x.dim(0)), P(w.x.dim(1)), N(w.B.dim(0)), G(w.B.dim(1)) {}
};

// x_raw, B_raw, C_raw and dt of T tokens; z too.
void project(Context& ctx, const MambaParams<Weight>& w, const MambaActs& a) {
  const auto one = [&](View y, const Weight& weight) {
    const Arena::Mark mark(ctx.scratch());
    product(ctx, {.y = y, .x = a.norm.normed, .w = merge_or_gather(ctx, weight)});
  };
  one(merge_cols(a.z), w.z);
  one(a.x_raw, w.x);
  one(a.B_raw, w.B);
  one(a.C_raw, w.C);
  product(ctx, {.y = a.dt, .x = a.norm.normed, .w = w.dt});
}

// y += out_proj(gated)
void project_out(Context& ctx, const MambaParams<Weight>& w, const MambaActs& a, View y) {
  const Arena::Mark mark(ctx.scratch());
  product(ctx, {.y = y,
                .x = merge_cols(ConstView(a.gated)),
                .w = merge_or_gather(ctx, w.out, 1),
                .accumulate = true});
}

void allocate(Arena& arena, const MambaShape& s, int64_t tokens, DType type, MambaActs& a) {
  const auto act = [&](std::initializer_list<int64_t> shape) { return arena.alloc(type, shape); };
  a.z = act({tokens, s.H, s.P});
  a.x_raw = act({tokens, s.H * s.P});
  a.B_raw = act({tokens, s.N * s.G});
  a.C_raw = act({tokens, s.N * s.G});
  a.dt = arena.alloc(DType::kF32, {tokens, s.H});
  a.x = act({tokens, s.H, s.P});
  a.B = act({tokens, s.N, s.G});
  a.C = act({tokens, s.N, s.G});
  a.y = act({tokens, s.H, s.P});
  a.group_rstd = arena.alloc(DType::kF32, {tokens, s.G});
  a.gated = act({tokens, s.H, s.P});
}

// A state of a cache: where it is read, and where it is written.
ConstView before(const LayerRun& run, View state) {
  return run.starts.empty() ? ConstView() : ConstView(state);
}
View behind(const LayerRun& run, View state) {
  return run.hold ? View() : state;
}

void convolve(LayerRun& run, const MambaParams<Weight>& w, const MambaActs& a,
              const MambaCache& cache) {
  const auto one = [&](View y, ConstView x, ConstView weight, ConstView bias, View state) {
    const Arena::Mark mark(run.ctx.scratch());
    conv1d_forward(run.ctx, {.y = y,
                             .final_state = behind(run, state),
                             .x = x,
                             .w = merge_or_gather(run.ctx, weight),
                             .bias = merge_or_gather(run.ctx, bias),
                             .initial = before(run, state),
                             .segments = run.segments});
  };
  one(merge_cols(a.x), a.x_raw, w.conv_x, w.conv_bias_x, cache.conv_x);
  one(merge_cols(a.B), a.B_raw, w.conv_B, w.conv_bias_B, cache.conv_B);
  one(merge_cols(a.C), a.C_raw, w.conv_C, w.conv_bias_C, cache.conv_C);
}

// In every backward function `d` holds the gradients of the activations of the same names.
void convolve_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                       const MambaActs& a, const MambaActs& d) {
  Context& ctx = run.ctx;
  const auto one = [&](View draw, ConstView dy, ConstView x, ConstView weight, ConstView bias,
                       View dweight, View dbias) {
    const Arena::Mark mark(ctx.scratch());
    const GatheredGradient dw(ctx, dweight), db(ctx, dbias);
    conv1d_backward(ctx, {.dx = draw,
                          .dw = dw.merged(),
                          .dbias = db.merged(),
                          .dy = dy,
                          .x = x,
                          .w = merge_or_gather(ctx, weight),
                          .bias = merge_or_gather(ctx, bias),
                          .segments = run.segments});
    dw.store();
    db.store();
  };
  one(d.x_raw, merge_cols(d.x), a.x_raw, w.conv_x, w.conv_bias_x, g.conv_x, g.conv_bias_x);
  one(d.B_raw, merge_cols(d.B), a.B_raw, w.conv_B, w.conv_bias_B, g.conv_B, g.conv_bias_B);
  one(d.C_raw, merge_cols(d.C), a.C_raw, w.conv_C, w.conv_bias_C, g.conv_C, g.conv_bias_C);
}

void scan(LayerRun& run, const MambaParams<Weight>& w, const MambaActs& a,
          const MambaCache& cache) {
  const Arena::Mark mark(run.ctx.scratch());
  scan_forward(run.ctx, {.y = a.y,
                         .chunk_states = a.chunk_states,
                         .final_state = behind(run, cache.state),
                         .x = a.x,
                         .dt_raw = a.dt,
                         .B = masked(run.ctx, a.B, run.layer_masks().state),
                         .C = a.C,
                         .A_log = w.A_log,
                         .D = w.D,
                         .dt_bias = w.dt_bias,
                         .initial = before(run, cache.state),
                         .segments = run.segments,
                         .chunk = run.config.chunk});
}

void scan_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                   const MambaActs& a, const MambaActs& d) {
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const ConstView state = run.layer_masks().state;
  nestling::scan_backward(ctx, {.dx = d.x,
                                .ddt_raw = d.dt,
                                .dB = d.B,
                                .dC = d.C,
                                .dA_log = g.A_log,
                                .dD = g.D,
                                .ddt_bias = g.dt_bias,
                                .dy = d.y,
                                .x = a.x,
                                .dt_raw = a.dt,
                                .B = masked(ctx, a.B, state),
                                .C = a.C,
                                .A_log = w.A_log,
                                .D = w.D,
                                .dt_bias = w.dt_bias,
                                .chunk_states = a.chunk_states,
                                .segments = run.segments,
                                .chunk = run.config.chunk});
  masked_backward(ctx, d.B, a.B, state, run.layer_mask_grads().state);
}

void gated_norm(LayerRun& run, const MambaParams<Weight>& w, const MambaActs& a) {
  const Arena::Mark mark(run.ctx.scratch());
  const LayerMasks masks = run.layer_masks();
  gated_norm_forward(run.ctx, {.out = a.gated,
                               .rstd = a.group_rstd,
                               .y = masked(run.ctx, a.y, masks.heads),
                               .z = a.z,
                               .w = w.gated_norm,
                               .active = masks.group_active,
                               .eps = run.config.eps});
}

void gated_norm_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                         const MambaActs& a, const MambaActs& d) {
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const LayerMasks masks = run.layer_masks();
  const LayerMaskGrads mask_grads = run.layer_mask_grads();
  nestling::gated_norm_backward(ctx, {.dy = d.y,
                                      .dz = d.z,
                                      .dw = g.gated_norm,
                                      .dactive = mask_grads.group_active,
                                      .dout = d.gated,
                                      .y = masked(ctx, a.y, masks.heads),
                                      .z = a.z,
                                      .w = w.gated_norm,
                                      .rstd = a.group_rstd,
                                      .active = masks.group_active});
  masked_backward(ctx, d.y, a.y, masks.heads, mask_grads.heads);
}

// d.gated from dy, the gradient of the mixer's output.
void project_out_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                          const MambaActs& a, const MambaActs& d, ConstView dy) {
  const Arena::Mark mark(run.ctx.scratch());
  const GatheredGradient dw(run.ctx, g.out, 1);
  product_backward(run.ctx, {.dx = merge_cols(d.gated),
                             .dw = dw.merged(),
                             .dy = dy,
                             .x = merge_cols(ConstView(a.gated)),
                             .w = merge_or_gather(run.ctx, w.out, 1),
                             .accumulate_dw = !run.fresh});
  dw.store();
}

void project_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                      const MambaActs& a, const MambaActs& d, View dnormed) {
  Context& ctx = run.ctx;
  const auto one = [&](ConstView dy, const Weight& weight, View dweight, bool accumulate) {
    const Arena::Mark mark(ctx.scratch());
    const GatheredGradient dw(ctx, dweight);
    product_backward(ctx, {.dx = dnormed,
                           .dw = dw.merged(),
                           .dy = dy,
                           .x = a.norm.normed,
                           .w = merge_or_gather(ctx, weight),
                           .accumulate_dx = accumulate,
                           .accumulate_dw = !run.fresh});
    dw.store();
  };
  one(merge_cols(ConstView(d.z)), w.z, g.z, false);
  one(d.x_raw, w.x, g.x, true);
  one(d.B_raw, w.B, g.B, true);
  one(d.C_raw, w.C, g.C, true);
  product_backward(ctx, {.dx = dnormed,
                         .dw = g.dt,
                         .dy = d.dt,
                         .x = a.norm.normed,
                         .w = w.dt,
                         .accumulate_dx = true,
                         .accumulate_dw = !run.fresh});
}

}  // namespace

MambaActs mamba_forward(LayerRun& run, const MambaParams<Weight>& w, ConstView input, View output,
                        const MambaCache* cache) {
  const MambaShape s(w);
  const MambaCache states = cache != nullptr ? *cache : MambaCache{};
  MambaActs a;
  a.norm = layer_norm_forward(run, w.norm, input);
  allocate(run.arena, s, input.dim(0), run.activations, a);
  project(run.ctx, w, a);
  convolve(run, w, a, states);
  if (run.save && !run.hold)
    a.chunk_states =
        run.arena.alloc(DType::kF32, {scan_chunks(run.segments, run.config.chunk), s.H, s.P, s.N});
  scan(run, w, a, states);
  gated_norm(run, w, a);
  const View to = begin_mixer_output(run, input, output, a.mixed);
  project_out(run.ctx, w, a, to);
  end_mixer_output(run, input, output, to);
  return a;
}

void mamba_backward(LayerRun& run, const MambaParams<Weight>& w, const MambaParams<View>& g,
                    const MambaActs& a, View dh) {
  const Arena::Mark mark(run.arena);
  MambaActs d;
  allocate(run.arena, MambaShape(w), dh.dim(0), run.activations, d);
  const View dnormed = run.arena.alloc(DType::kF32, {dh.dim(0), dh.dim(1)});
  project_out_backward(run, w, g, a, d, mixer_output_backward(run, a.mixed, dh));
  gated_norm_backward(run, w, g, a, d);
  scan_backward(run, w, g, a, d);
  convolve_backward(run, w, g, a, d);
  project_backward(run, w, g, a, d, dnormed);
  layer_norm_backward(run, w.norm, g.norm, a.norm, dnormed, dh);
}

void mamba_advance(LayerRun& run, const MambaParams<Weight>& w, const MambaActs& a,
                   std::span<const int32_t> counts, const MambaCache& cache) {
  const Segments& all = run.segments;
  for (int64_t i = 0; i < all.count(); ++i) {
    const int32_t count = counts[static_cast<size_t>(i)], offsets[] = {0, count}, start[] = {1};
    const auto rows = [&](View v) { return v.slice(0, all.begin(i), count); };
    const auto own = [&](View state) { return state.slice(0, i, 1); };
    MambaActs part;
    part.x_raw = rows(a.x_raw);
    part.B_raw = rows(a.B_raw);
    part.C_raw = rows(a.C_raw);
    part.x = rows(a.x);
    part.B = rows(a.B);
    part.C = rows(a.C);
    part.dt = rows(a.dt);
    part.y = rows(a.y);
    LayerRun one = run;
    one.segments = Segments(offsets);
    one.starts = start;
    one.hold = false;
    const MambaCache states{.conv_x = own(cache.conv_x),
                            .conv_B = own(cache.conv_B),
                            .conv_C = own(cache.conv_C),
                            .state = own(cache.state)};
    convolve(one, w, part, states);
    scan(one, w, part, states);
  }
}

void mamba_step(StepRun& run, const MambaParams<Weight>& w, const MambaCache& cache, View h) {
  const MambaShape s(w);
  Context& ctx = run.ctx;
  const Arena::Mark mark(ctx.scratch());
  const int64_t batch = h.dim(0);
  MambaActs a;
  allocate(ctx.scratch(), s, batch, DType::kF32, a);
  a.norm = {.input = h,
            .rstd = ctx.scratch().alloc(DType::kF32, {batch}),
            .normed = ctx.scratch().alloc(DType::kF32, {batch, h.dim(1)})};
  rms_norm_forward(
      ctx, {.y = a.norm.normed, .rstd = a.norm.rstd, .x = h, .w = w.norm, .eps = run.config.eps});
  project(ctx, w, a);
  const auto convolve_one = [&](View y, View state, ConstView x, ConstView weight, ConstView bias) {
    const Arena::Mark weights(ctx.scratch());
    conv1d_step(ctx, {.y = y,
                      .state = state,
                      .x = x,
                      .w = merge_or_gather(ctx, weight),
                      .bias = merge_or_gather(ctx, bias)});
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
  const View to = begin_step_output(run, h);
  project_out(ctx, w, a, to);
  end_step_output(run, h, to);
}

}  // namespace nestling
