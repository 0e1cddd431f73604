#include "kernels/ops/linear.h"

#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/loss.h"
#include "kernels/ops/nvfp4_linear.h"
#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t t, k, n;
};

// CPU: large products must be near peak, 85% from 512^3 up. A card: 90% at 4096^3, 75% at a layer's shapes.
double floor_of(const Bench& b, const Shape& s, DType weight) {
  const bool large = std::min({s.t, s.k, s.n}) >= 512;
  const bool cube = s.t == s.k && s.k == s.n;
  return b.floor(large ? 0.85 : 0.0, weight == DType::kBF16 ? (cube ? 0.9 : 0.75) : 0.0);
}

void training(Bench& b, const Shape& whole, const Types& types, int64_t part) {
  const Shape s = {whole.t, whole.k / part, whole.n / part};
  const Tensor x = b.random({s.t, s.k}, types.act), dy = b.random({s.t, s.n}, types.act);
  const Tensor parent = b.random({whole.n, whole.k}, types.weight);
  Tensor y = b.zeros({s.t, s.n}, types.act), dx = b.zeros({s.t, s.k}, types.act);
  Tensor parent_dw = b.zeros({whole.n, whole.k});
  const ConstView w = parent.view().prefix(0, s.n).prefix(1, s.k);
  const View dw = parent_dw.view().prefix(0, s.n).prefix(1, s.k);
  Case c{.name = "linear_forward",
         .shape = str(s.t, "x", part_of(whole.k, part), "x", part_of(whole.n, part)),
         .bound = b.narrow_product(),
         .floor = floor_of(b, whole, types.weight),
         .dtype = types.name()};
  b.measure(c, [&](Context& ctx) { linear_forward(ctx, {.y = y, .x = x, .w = w}); });
  c.name = "linear_backward";
  b.measure(c, [&](Context& ctx) {
    linear_backward(ctx, {.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w});
  });
}

// One to a few tokens: reading the weights is all the cost.
void decoding(Bench& b, int64_t tokens, const Types& types, bool packed) {
  const int64_t width = b.at<int64_t>(8192, 8192, 64);  // 256 MiB of f32: beyond the caches
  const Tensor x = b.random({tokens, width}, types.act);
  const Tensor w = b.random({width, width}, types.weight);
  Tensor y = b.zeros({tokens, width}, types.act);
  const Case c{.name = packed ? "linear_decode_packed" : "linear_decode",
               .shape = str(tokens, "x", width, "x", width),
               .bound = BoundBy::kMemory,
               .dtype = types.name()};
  if (!packed) {
    b.measure(c, [&](Context& ctx) { linear_forward(ctx, {.y = y, .x = x, .w = w}); });
    return;
  }
  Context ctx_pack(Device::kCpu);
  const PackedWeight weight(ctx_pack, w);
  b.measure(c, [&](Context& ctx) { weight.forward(ctx, y, x); });
}

Tensor fp8_codes(Bench& b, int64_t rows, int64_t cols, DType dtype) {
  const Tensor values = b.random({rows, cols}, dtype);
  Tensor codes = b.zeros({rows, cols}, DType::kF8E4M3);
  Context ctx(b.device());
  fp8_quantize(ctx, {.codes = codes, .x = values, .scale = 0.01f});
  ctx.synchronize();
  return codes;
}

// As decoding, on weights that are codes; on the CPU alone.
void decoding_codes(Bench& b, int64_t tokens) {
  const int64_t width = b.at<int64_t>(8192, 8192, 64);
  const Tensor x = b.random({tokens, width});
  Tensor y = b.zeros({tokens, width});
  const std::string shape = str(tokens, "x", width, "x", width);
  const auto on = [&](const char* name, const char* dtype) {
    return Case{.name = name, .shape = shape, .bound = BoundBy::kMemory, .dtype = dtype};
  };
  {
    const Tensor w = fp8_codes(b, width, width, DType::kF32);
    b.measure(on("linear_decode_fp8", dtype_name(DType::kF8E4M3)), [&](Context& ctx) {
      fp8_linear(ctx, {.y = y, .x = x, .w = w, .input_scale = 0.01f, .weight_scale = 0.01f});
    });
  }
  Tensor codes = b.zeros({width, width / 2}, DType::kU8);
  Tensor scales = b.zeros({width, width / kNvfp4Block}, DType::kF8E4M3);
  {
    const Tensor values = b.random({width, width});
    Context ctx(b.device());
    nvfp4_quantize(ctx, {.codes = codes, .scales = scales, .x = values, .scale = 0.002f});
  }
  const Nvfp4 w{.codes = codes.view(), .scales = scales.view(), .scale = 0.002f};
  b.measure(on("linear_decode_nvfp4", "nvfp4"), [&](Context& ctx) {
    nvfp4_linear(ctx, {.y = y, .x = x, .w = w, .input_scale = 0.002f});
  });
}

// On a card: codes of the weight, bf16 activations that become codes in the call.
void fp8(Bench& b, const Shape& whole, int64_t part) {
  const Shape s = {whole.t, whole.k / part, whole.n / part};
  const Tensor x = b.random({s.t, s.k}, DType::kBF16);
  Tensor y = b.zeros({s.t, s.n}, DType::kBF16);
  const Tensor parent = fp8_codes(b, whole.n, whole.k, DType::kBF16);
  const ConstView w = parent.view().prefix(0, s.n).prefix(1, s.k);
  const Case c{.name = "linear_fp8",
               .shape = str(s.t, "x", part_of(whole.k, part), "x", part_of(whole.n, part)),
               .bound = b.narrow_product(),
               .dtype = dtype_name(DType::kF8E4M3)};
  b.measure(c, [&](Context& ctx) {
    fp8_linear(ctx, {.y = y, .x = x, .w = w, .input_scale = 0.01f, .weight_scale = 0.01f});
  });
}

// On a card: the layers' z, x, q, k, v, out, up, down, and the logits of one chunk.
std::vector<Shape> shapes(const Bench& b) {
  const int64_t t = 8192, d = 2688;
  return b.at<std::vector<Shape>>({{16, 16, 16},
                                   {64, 64, 64},
                                   {256, 256, 256},
                                   {512, 512, 512},
                                   {1024, 1024, 1024},
                                   {2048, 2048, 2048},
                                   {1024, 384, 1536},
                                   {4096, 512, 512}},
                                  {{4096, 4096, 4096},
                                   {t, d, 4096},
                                   {t, d, 256},
                                   {t, d, 1024},
                                   {t, 4096, d},
                                   {t, d, 3712},
                                   {t, 3712, d},
                                   {loss_chunk(Device::kCuda), d, 131072}},
                                  {{32, 64, 32}});
}

}  // namespace

void bench_linear(Bench& b) {
  for (const Types& types : b.types()) {
    for (const Shape& s : shapes(b))
      for (const int64_t part : b.parts()) training(b, s, types, part);
    for (const int64_t tokens : {1, 4})
      for (const bool packed : {false, true})
        if (!packed || b.device() == Device::kCpu) decoding(b, tokens, types, packed);
  }
  if (b.device() != Device::kCuda) {
    for (const int64_t tokens : {1, 4}) decoding_codes(b, tokens);
    return;
  }
  for (const Shape& s : shapes(b))
    for (const int64_t part : b.parts()) fp8(b, s, part);
}

}  // namespace nestling::bench
