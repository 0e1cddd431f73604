// matmul.h - C (+)= op(A) op(B) (+ bias), the product every CPU operator is built on (oneDNN).
//
// Shapes        c [M, N]; a [M, K], or [K, M] when transpose_a; b [K, N], or [N, K] when
//               transpose_b; bias [N] f32. Any row pitch; M, N and K at least 1.
// Dtypes        a and b both f32: c f32. a and b both bf16: c f32 or bf16, sums f32. bf16 products
//               run on any CPU with AVX-512 but are fast only with bf16 dot products: ask
//               bf16_path() first.
// Cache         oneDNN primitives are made once a shape (0.1 to 0.3 ms) and kept in one table per
//               process, behind a mutex. Shapes that change with every call belong to
//               matmul_any_rows.
// Scratch       taken from ctx.scratch() and given back.
// Threads       all of the team; the calling one alone inside a parallel_for and for small products.
// Pinning       oneDNN is told cpu_isa() at the first product, and cannot be told again: a later
//               change of cpu_isa() makes the next product throw.
// Determinism   same inputs, shapes, pitches and threads: same bits.
#pragma once
#include "kernels/core/context.h"
#include "kernels/core/isa.h"
#include "kernels/ops/linear.h"

namespace nestling::cpu {

struct Matmul {
  View c;            // [M, N] overwritten, unless accumulate (f32)
  ConstView a;       // [M, K]
  ConstView b;       // [K, N]
  ConstView bias{};  // [N] f32, optional
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
};

void matmul(Context& ctx, const Matmul& p);

// The same in f32 for extents that differ from call to call (the rows of an expert): nothing is
// made or kept per shape. No bias. With few columns about 0.9 of matmul's rate, else the same.
void matmul_any_rows(const Matmul& p);

// How a product with bf16 weights is done. Widened: operands rounded to bf16, then f32 products on
// them, block by block. Measured without bf16 dot products (Ice Lake, 512^3, one thread): widened
// 0.9 of the f32 rate, oneDNN's emulation of bf16 0.2.
enum class Bf16Path : uint8_t { kNative, kWidened };
Bf16Path bf16_path();

// linear's CPU backend with the choice made explicit, for tests and measurements.
void linear_forward(Context& ctx, const LinearForward& a, Bf16Path path);
void linear_backward(Context& ctx, const LinearBackward& a, Bf16Path path);

}  // namespace nestling::cpu
