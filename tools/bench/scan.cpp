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

  Operands(Bench& b, const Shape& s, int64_t chunks)
      : x(b.random({s.tokens, s.heads, s.channels})),
        dt_raw(b.random({s.tokens, s.heads})),
        B(b.random({s.tokens, s.state, s.groups})),
        C(b.random({s.tokens, s.state, s.groups})),
        A_log(b.random({s.heads})),
        D(b.random({s.heads})),
        dt_bias(b.random({s.heads})),
        dy(b.random({s.tokens, s.heads, s.channels})),
        y(Device::kCpu, DType::kF32, {s.tokens, s.heads, s.channels}),
        dx(Device::kCpu, DType::kF32, {s.tokens, s.heads, s.channels}),
        ddt_raw(Device::kCpu, DType::kF32, {s.tokens, s.heads}),
        dB(Device::kCpu, DType::kF32, {s.tokens, s.state, s.groups}),
        dC(Device::kCpu, DType::kF32, {s.tokens, s.state, s.groups}),
        dA_log(Device::kCpu, DType::kF32, {s.heads}),
        dD(Device::kCpu, DType::kF32, {s.heads}),
        ddt_bias(Device::kCpu, DType::kF32, {s.heads}),
        chunk_states(Device::kCpu, DType::kF32, {chunks, s.heads, s.channels, s.state}) {}

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

}  // namespace

// Forward and backward together must reach 35% of peak at head dim 64 and up, S 1024 and up.
void bench_scan(Bench& b) {
  constexpr int64_t kChunk = 64;
  for (const Shape& s : {Shape{128, 8, 32, 32, 2}, Shape{1024, 16, 64, 128, 4},
                         Shape{2048, 16, 64, 64, 2}, Shape{4096, 16, 64, 128, 8}}) {
    const int32_t offsets[] = {0, static_cast<int32_t>(s.tokens)};
    const Segments segments(offsets);
    Operands o(b, s, scan_chunks(segments, kChunk));
    Case c{
        .name = "scan_forward",
        .shape = str(s.tokens, "x", s.heads, "(", s.groups, ")x", s.channels, " state ", s.state),
        .bound = BoundBy::kF32Product};
    b.measure(c, [&](Context& ctx) { o.forward(ctx, segments, kChunk); });
    c.name = "scan_backward";
    b.measure(c, [&](Context& ctx) { o.backward(ctx, segments, kChunk); });
    c.name = "scan_forward_backward";
    c.floor = s.tokens >= 1024 && s.channels >= 64 ? 0.35 : 0.0;
    b.measure(c, [&](Context& ctx) {
      o.forward(ctx, segments, kChunk);
      o.backward(ctx, segments, kChunk);
    });
  }
}

}  // namespace nestling::bench
