#include "kernels/ops/scan.h"

#include "tools/bench/benches.h"

namespace nestling::bench {

namespace {

struct Shape {
  int64_t tokens, heads, channels, state, groups;
};

struct Operands {
  Tensor x, dt_raw, B, C, A_log, D, dt_bias, dy;
  Tensor y, dx, ddt_raw, dB, dC, dA_log, dD, ddt_bias, chunk_states;

  Operands(Bench& b, const Shape& s, int64_t chunks, DType act)
      : x(b.random({s.tokens, s.heads, s.channels}, act)),
        dt_raw(b.random({s.tokens, s.heads})),
        B(b.random({s.tokens, s.state, s.groups}, act)),
        C(b.random({s.tokens, s.state, s.groups}, act)),
        A_log(b.random({s.heads})),
        D(b.random({s.heads})),
        dt_bias(b.random({s.heads})),
        dy(b.random({s.tokens, s.heads, s.channels}, act)),
        y(b.zeros({s.tokens, s.heads, s.channels}, act)),
        dx(b.zeros({s.tokens, s.heads, s.channels}, act)),
        ddt_raw(b.zeros({s.tokens, s.heads})),
        dB(b.zeros({s.tokens, s.state, s.groups}, act)),
        dC(b.zeros({s.tokens, s.state, s.groups}, act)),
        dA_log(b.zeros({s.heads})),
        dD(b.zeros({s.heads})),
        ddt_bias(b.zeros({s.heads})),
        chunk_states(b.zeros({chunks, s.heads, s.channels, s.state})) {}

  void forward(Context& ctx, const Segments& segments, int64_t chunk) {
    scan_forward(ctx, {.y = y,
                       .chunk_states = chunk_states,
                       .x = x,
                       .dt_raw = dt_raw,
                       .B = B,
                       .C = C,
                       .A_log = A_log,
                       .D = D,
                       .dt_bias = dt_bias,
                       .segments = segments,
                       .chunk = chunk});
  }
  void backward(Context& ctx, const Segments& segments, int64_t chunk) {
    scan_backward(ctx, {.dx = dx,
                        .ddt_raw = ddt_raw,
                        .dB = dB,
                        .dC = dC,
                        .dA_log = dA_log,
                        .dD = dD,
                        .ddt_bias = ddt_bias,
                        .dy = dy,
                        .x = x,
                        .dt_raw = dt_raw,
                        .B = B,
                        .C = C,
                        .A_log = A_log,
                        .D = D,
                        .dt_bias = dt_bias,
                        .chunk_states = chunk_states,
                        .segments = segments,
                        .chunk = chunk});
  }
};

void measure(Bench& b, const Shape& s, DType act) {
  const int64_t chunk = b.at<int64_t>(64, 128, 16);  // a card: the model's
  const int32_t offsets[] = {0, static_cast<int32_t>(s.tokens)};
  const Segments segments(offsets);
  Operands o(b, s, scan_chunks(segments, chunk), act);
  Case c{.name = "scan_forward",
         .shape = str(s.tokens, "x", s.heads, "(", s.groups, ")x", s.channels, " state ", s.state),
         .bound = b.narrow_product(),
         .dtype = dtype_name(act)};
  b.measure(c, [&](Context& ctx) { o.forward(ctx, segments, chunk); });
  c.name = "scan_backward";
  b.measure(c, [&](Context& ctx) { o.backward(ctx, segments, chunk); });
  c.name = "scan_forward_backward";
  c.floor =
      b.floor(s.tokens >= 1024 && s.channels >= 64 ? 0.35 : 0.0, act == DType::kBF16 ? 0.4 : 0.0);
  b.measure(c, [&](Context& ctx) {
    o.forward(ctx, segments, chunk);
    o.backward(ctx, segments, chunk);
  });
}

}  // namespace

// Forward and backward together. CPU: 35% of peak at head dim 64 and up, S 1024 and up. A card in bf16:
// 40% of what bytes or FLOPs, whichever take longer, would take at their peaks.
void bench_scan(Bench& b) {
  const auto shapes = b.at<std::vector<Shape>>(
      {{128, 8, 32, 32, 2}, {1024, 16, 64, 128, 4}, {2048, 16, 64, 64, 2}, {4096, 16, 64, 128, 8}},
      {{8192, 64, 64, 128, 8}, {49152, 64, 64, 128, 8}}, {{32, 4, 16, 16, 2}});
  for (const DType act : b.activations())
    for (const Shape& s : shapes) measure(b, s, act);
}

}  // namespace nestling::bench
