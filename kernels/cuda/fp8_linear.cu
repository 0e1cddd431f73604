// fp8_linear.cu - products of E4M3 operands by cuBLASLt, and the kernels that make codes. Where it takes none, products are
// those of their values (code_values.h).
//
// Codes         a thread takes 16 bytes of a row of x at a time, and writes their 4 or 8 codes at once; where
//               rows start elsewhere, the same elements one by one: the same bits.
#include <cstring>

#include <cuda_fp8.h>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/code_values.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rounded.h"
#include "kernels/cuda/widened_product.h"
#include "kernels/ops/fp8_linear.h"

namespace nestling::cuda {

namespace {

constexpr int kThreads = 256;

template <class X>
struct Quantize {
  static constexpr int kPiece = 16 / sizeof(X);
  const X* x;
  unsigned char* codes;
  int64_t rows, cols, x_pitch, codes_pitch;
  float scale;
};

// Two codes, that of a in the lower byte. The quotient is that of IEEE.
__device__ unsigned short code_pair(float a, float b, float scale) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a / scale, b / scale), __NV_SATFINITE, __NV_E4M3);
}

template <class X>
__device__ void quantize_whole(unsigned char* to, const X* from, float scale) {
  constexpr int kPiece = Quantize<X>::kPiece;
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  X x[kPiece];
  memcpy(x, &bits, sizeof bits);
  unsigned words[kPiece / 4];
#pragma unroll
  for (int i = 0; i < kPiece; i += 4) {
    const unsigned low = code_pair(load(x + i), load(x + i + 1), scale);
    const unsigned high = code_pair(load(x + i + 2), load(x + i + 3), scale);
    words[i / 4] = low | high << 16;
  }
  if constexpr (kPiece == 4)
    *reinterpret_cast<unsigned*>(to) = words[0];
  else
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

template <bool kAligned, class X>
__global__ void __launch_bounds__(kThreads) quantize_kernel(Quantize<X> q) {
  constexpr int kPiece = kAligned ? Quantize<X>::kPiece : 1;
  const int64_t width = (q.cols + kPiece - 1) / kPiece;
  for (int64_t i = first_item(); i < q.rows * width; i += item_step()) {
    const int64_t row = i / width;
    const int64_t col = i % width * kPiece;
    const X* from = q.x + row * q.x_pitch + col;
    unsigned char* to = q.codes + row * q.codes_pitch + col;
    if (kAligned && q.cols - col >= kPiece) {
      quantize_whole(to, from, q.scale);
      continue;
    }
    const int64_t count = min(int64_t{kPiece}, q.cols - col);
    for (int64_t k = 0; k < count; ++k)
      to[k] = static_cast<unsigned char>(code_pair(load(from + k), 0.0f, q.scale));
  }
}

// Rows read as one where neither side has gaps: then only their beginnings have to be aligned.
template <class X>
void quantize(Context& ctx, const Fp8Quantize& a, const X* x) {
  constexpr int kPiece = Quantize<X>::kPiece;
  const bool one = a.x.dense() && a.codes.dense();
  Quantize<X> q{.x = x,
                .codes = reinterpret_cast<unsigned char*>(a.codes.ptr<f8e4m3>()),
                .rows = one ? 1 : a.x.rows(),
                .cols = one ? a.x.size() : a.x.dim(a.x.rank() - 1),
                .x_pitch = one ? 0 : a.x.pitch(),
                .codes_pitch = one ? 0 : a.codes.pitch(),
                .scale = a.scale};
  const bool aligned =
      pitches_aligned(q.x, {q.x_pitch}, 16) && pitches_aligned(q.codes, {q.codes_pitch}, kPiece);
  const int64_t piece = aligned ? kPiece : 1;
  const dim3 blocks = blocks_for(q.rows * ((q.cols + piece - 1) / piece), kThreads);
  if (aligned)
    launch(ctx, {blocks, kThreads}, quantize_kernel<true, X>, q);
  else
    launch(ctx, {blocks, kThreads}, quantize_kernel<false, X>, q);
}

// Whether cuBLASLt multiplies these codes as they are. It counts elements of y, of either type: "M must be divisible by
// 16" is what its log says of other N.
bool takes_codes(Context& ctx, const Fp8Linear& a) {
  constexpr int kFirstWithFp8 = 89;
  return ctx.cuda().capability >= kFirstWithFp8 && whole_rows({a.w, a.y}, 16) &&
         a.w.dim(0) % 16 == 0;
}

View codes_of(Context& ctx, const Fp8Linear& a) {
  const View codes = aligned_scratch(ctx, DType::kF8E4M3, a.x.dim(0), a.x.dim(1));
  run(ctx, Fp8Quantize{.codes = codes, .x = a.x, .scale = a.input_scale});
  return codes;
}

void product_of_codes(Context& ctx, const Fp8Linear& a) {
  const Arena::Mark mark(ctx.scratch());
  run(ctx, Product{.d = a.y,
                   .a = codes_of(ctx, a),
                   .b = a.w,
                   .transpose_b = true,
                   .accumulate = a.accumulate,
                   .scale = fp8_product_scale(a)});
}

void product_of_values(Context& ctx, const Fp8Linear& a) {
  const Arena::Mark mark(ctx.scratch());
  const View x = aligned_scratch(ctx, DType::kBF16, a.x.dim(0), a.x.dim(1));
  {
    const Arena::Mark until_widened(ctx.scratch());
    widen(ctx, x, codes_of(ctx, a), {});
  }
  const WidenedProduct p{
      .y = a.y, .x = x, .scale = fp8_product_scale(a), .accumulate = a.accumulate};
  widened_product(
      ctx, p, [&](View to, int64_t begin) { widen(ctx, to, a.w.slice(0, begin, to.dim(0)), {}); });
}

}  // namespace

void run(Context& ctx, const Fp8Quantize& a) {
  if (a.x.dtype() == DType::kBF16)
    quantize(ctx, a, bf16_of(a.x));
  else
    quantize(ctx, a, a.x.ptr<float>());
}

void run(Context& ctx, const Fp8Linear& a) {
  if (a.y.size() == 0) return;
  const bool codes = takes_codes(ctx, a);
  if (codes) product_of_codes(ctx, a);
  // A rehearsal, which knows no addresses, takes what either does.
  if (!codes || ctx.device() == Device::kNull) product_of_values(ctx, a);
}

}  // namespace nestling::cuda
