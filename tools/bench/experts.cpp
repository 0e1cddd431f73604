#include "kernels/ops/experts.h"

#include <algorithm>

#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/nvfp4_linear.h"
#include "kernels/ops/quantized_experts.h"
#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t rows, experts, k, n;
};

// Uneven on purpose: expert e owns a share that grows with e, as gates give it.
Tensor uneven_offsets(const Bench& b, const Shape& s) {
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= s.experts; ++e) {
    const double part = static_cast<double>(e) / static_cast<double>(s.experts);
    offsets.push_back(
        static_cast<int32_t>(static_cast<double>(s.rows) * part * (0.5 + 0.5 * part)));
  }
  return b.integers({s.experts + 1}, offsets);
}

// One row at most an expert, those that have one far from each other.
Tensor decode_offsets(const Bench& b, const Shape& s) {
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= s.experts; ++e)
    offsets.push_back(static_cast<int32_t>((e * s.rows + s.experts - 1) / s.experts));
  return b.integers({s.experts + 1}, offsets);
}

// The products must reach a share of linear's rate on as many rows: 75% on the CPU, 70% on a card. Gradients of weights
// are written, as the first backward of a step does: read and added to, those of 128 experts are more to move than to multiply.
void products(Bench& b, const Shape& whole, const Types& types, int64_t part) {
  const Shape s = {whole.rows, whole.experts, whole.k, whole.n / part};
  const Tensor x = b.random({s.rows, s.k}, types.act), dy = b.random({s.rows, s.n}, types.act);
  const Tensor parent = b.random({s.experts, whole.n, s.k}, types.weight);
  const Tensor offsets = uneven_offsets(b, s);
  Tensor y = b.zeros({s.rows, s.n}, types.act), dx = b.zeros({s.rows, s.k}, types.act);
  Tensor parent_dw = b.zeros({s.experts, whole.n, s.k});
  const ConstView w = parent.view().prefix(1, s.n);
  const View dw = parent_dw.view().prefix(1, s.n);
  const ConstView one = w.slice(0, 0, 1).reshape({s.n, s.k});
  const View done = dw.slice(0, 0, 1).reshape({s.n, s.k});
  const std::string size = str(s.rows, "x", s.k, "x", part_of(whole.n, part));
  const double share =
      types.weight == DType::kBF16 ? b.floor(0.75, 0.7) : b.floor(0.75, 0.0);  // f32: to debug with
  Case c{
      .name = "linear_forward", .shape = size, .bound = BoundBy::kProduct, .dtype = types.name()};
  const double forward =
      b.measure(c, [&](Context& ctx) { linear_forward(ctx, {.y = y, .x = x, .w = one}); });
  c.name = "linear_backward";
  const double backward = b.measure(c, [&](Context& ctx) {
    linear_backward(ctx,
                    {.dx = dx, .dw = done, .dy = dy, .x = x, .w = one, .accumulate_dw = false});
  });
  c.shape = str(size, " over ", s.experts);
  c.name = "experts_forward";
  c.floor_gflops = share * forward;
  b.measure(c, [&](Context& ctx) {
    expert_linear_forward(ctx, {.y = y, .x = x, .w = w, .offsets = offsets});
  });
  c.name = "experts_backward";
  c.floor_gflops = share * backward;
  b.measure(c, [&](Context& ctx) {
    expert_linear_backward(
        ctx,
        {.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w, .offsets = offsets, .accumulate_dw = false});
  });
}

// On codes of the weights; activations become codes in the call.
void products_on_codes(Bench& b, const Shape& whole, DType codes_type, int64_t part,
                       const char* name, const Tensor& offsets) {
  const Shape s = {whole.rows, whole.experts, whole.k, whole.n / part};
  const bool fp8 = codes_type == DType::kF8E4M3;
  const DType act = b.activations().back();
  const Tensor x = b.random({s.rows, s.k}, act);
  Tensor y = b.zeros({s.rows, s.n}, act), block_scales;
  Tensor codes = b.zeros({s.experts, whole.n, fp8 ? s.k : s.k / 2}, codes_type);
  if (!fp8) block_scales = b.zeros({s.experts, whole.n, s.k / kNvfp4Block}, DType::kF8E4M3);
  Tensor scales = b.zeros({s.experts});
  {
    Tensor ones(Device::kCpu, DType::kF32, {s.experts});
    std::fill_n(ones.ptr<float>(), s.experts, 1.0f);
    copy(scales.view(), ones.view());
    const Tensor values = b.random({s.experts, whole.n, s.k}, act);
    const auto matrix = [](auto v) { return v.reshape({v.rows(), v.dim(2)}); };
    Context ctx(b.device());
    if (fp8)
      fp8_quantize(ctx, {.codes = codes, .x = values, .scale = 0.01f});
    else
      nvfp4_quantize(ctx, {.codes = matrix(codes.view()),
                           .scales = matrix(block_scales.view()),
                           .x = values.view().reshape({s.experts * whole.n, s.k}),
                           .scale = 0.002f});
    ctx.synchronize();
  }
  const Case c{.name = name,
               .shape = str(s.rows, "x", s.k, "x", part_of(whole.n, part), " over ", s.experts),
               .bound = b.narrow_product(),
               .dtype = fp8 ? "f8_e4m3" : "nvfp4"};
  b.measure(c, [&](Context& ctx) {
    quantized_expert_linear(ctx,
                            {.y = y,
                             .x = x,
                             .codes = codes.view().prefix(1, s.n),
                             .block_scales = fp8 ? ConstView() : block_scales.view().prefix(1, s.n),
                             .scales = scales,
                             .offsets = offsets,
                             .input_scale = 0.01f});
  });
}

// A row for each of a few experts, as decoding has them. On the CPU for each of all: what is read is more than its caches
// hold.
void decode(Bench& b, const Shape& s) {
  const Tensor offsets = decode_offsets(b, s);
  for (const Types& types : b.types()) {
    const Tensor x = b.random({s.rows, s.k}, types.act);
    const Tensor w = b.random({s.experts, s.n, s.k}, types.weight);
    Tensor y = b.zeros({s.rows, s.n}, types.act);
    const Case c{.name = "experts_decode",
                 .shape = str(s.rows, "x", s.k, "x", s.n, " over ", s.experts),
                 .bound = BoundBy::kMemory,
                 .dtype = types.name()};
    b.measure(c, [&](Context& ctx) {
      expert_linear_forward(ctx, {.y = y, .x = x, .w = w, .offsets = offsets});
    });
  }
  for (const DType codes : {DType::kF8E4M3, DType::kU8})
    products_on_codes(b, s, codes, 1, "experts_decode_codes", offsets);
}

struct Routing {
  int64_t tokens, chosen, experts, width;
};

// Tokens to sorted rows.
void sorting(Bench& b, const Routing& r, Tensor& offsets, Tensor& order) {
  const Tensor index = b.draws({r.tokens, r.chosen}, r.experts);
  const Case c{.name = "experts_sort",
               .shape = str(r.tokens, "x", r.chosen, " to ", r.experts),
               .bound = BoundBy::kMemory,
               .dtype = "i32"};
  b.measure(c, [&](Context& ctx) {
    expert_sort(ctx, {.offsets = offsets, .order = order, .index = index});
  });
}

// And back; a token's sums are f32.
void permutation(Bench& b, const Routing& r, const Tensor& order, DType act) {
  const int64_t rows = r.tokens * r.chosen;
  const Tensor x = b.random({r.tokens, r.width}, act), dy = b.random({r.tokens, r.width});
  const Tensor weight = b.random({r.tokens, r.chosen});
  Tensor moved = b.zeros({rows, r.width}, act), dmoved = b.zeros({rows, r.width}, act);
  Tensor y = b.zeros({r.tokens, r.width}), dweight = b.zeros({r.tokens, r.chosen});
  Case c{.name = "experts_gather",
         .shape = str(r.tokens, "x", r.chosen, "x", r.width),
         .bound = BoundBy::kMemory,
         .floor = b.floor(0, 0.8),
         .dtype = dtype_name(act)};
  b.measure(c, [&](Context& ctx) { expert_gather(ctx, {.rows = moved, .x = x, .order = order}); });
  c.name = "experts_combine";
  b.measure(c, [&](Context& ctx) {
    expert_combine(ctx, {.y = y, .rows = moved, .weight = weight, .order = order});
  });
  c.name = "experts_combine_backward";
  b.measure(c, [&](Context& ctx) {
    expert_combine_backward(ctx, {.drows = dmoved,
                                  .dweight = dweight,
                                  .dy = dy,
                                  .rows = moved,
                                  .weight = weight,
                                  .order = order});
  });
  c.name = "experts_gather_backward";
  b.measure(c, [&](Context& ctx) {
    expert_gather_backward(ctx, {.dx = y, .drows = dmoved, .order = order});
  });
}

void routing(Bench& b) {
  const Routing r = b.at<Routing>({8192, 4, 32, 1024}, {8192, 6, 128, 2688}, {32, 2, 4, 32});
  Tensor offsets = b.zeros({r.experts + 1}, DType::kI32);
  Tensor order = b.zeros({r.tokens * r.chosen}, DType::kI32);
  sorting(b, r, offsets, order);
  for (const DType act : b.activations()) permutation(b, r, order, act);
}

}  // namespace

void bench_experts(Bench& b) {
  const auto shapes = b.at<std::vector<Shape>>(
      {{4096, 8, 512, 512}, {4096, 32, 512, 512}, {4096, 16, 1024, 256}, {4096, 16, 256, 1024}},
      {{8192 * 6, 128, 2688, 1856}, {8192 * 6, 128, 1856, 2688}, {8192 * 6, 32, 2688, 1856}},
      {{64, 4, 32, 32}});
  for (const Types& types : b.types())
    for (const Shape& s : shapes)
      for (const int64_t part : b.parts()) products(b, s, types, part);
  for (const DType codes : {DType::kF8E4M3, DType::kU8})
    for (const int64_t part : b.parts())
      products_on_codes(b, shapes.front(), codes, part, "experts_on_codes",
                        uneven_offsets(b, shapes.front()));
  decode(b, b.at<Shape>({16, 16, 2688, 1856}, {6, 128, 2688, 1856}, {2, 4, 32, 32}));
  routing(b);
}

}  // namespace nestling::bench
