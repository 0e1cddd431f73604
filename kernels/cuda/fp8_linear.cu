// fp8_linear.cu - products of E4M3 operands by cuBLASLt, and the kernel that makes codes.
//
// Codes         a thread takes 16 bytes of a row of x at a time, and writes their 4 or 8 codes at once; where
//               rows start elsewhere, the same elements one by one: the same bits.
#include <cstring>

#include <cuda_fp8.h>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rounded.h"
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
__device__ unsigned short codes_of(float a, float b, float scale) {
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
    const unsigned low = codes_of(load(x + i), load(x + i + 1), scale);
    const unsigned high = codes_of(load(x + i + 2), load(x + i + 3), scale);
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
      to[k] = static_cast<unsigned char>(codes_of(load(from + k), 0.0f, q.scale));
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

void check_card(Context& ctx) {
  constexpr int kFirstWithFp8 = 89;
  const int has = ctx.cuda().capability;
  NESTLING_CHECK_INPUT(has >= kFirstWithFp8, "fp8_linear: the device has compute capability ",
                       has / 10, ".", has % 10, ", FP8 products need 8.9 or newer");
}

void check_view(const char* name, ConstView v) {
  NESTLING_CHECK(whole_rows(v, 16), "fp8_linear: ", name, " ", v.describe(), " with row pitch ",
                 v.stride(0), " at address ", static_cast<const void*>(v.data()),
                 ": FP8 products need rows that start at multiples of 16 bytes and are whole 16 "
                 "bytes long");
}
// cuBLASLt counts elements of y, of either type: "M must be divisible by 16" is what its log says of other N.
void check_columns(ConstView w) {
  NESTLING_CHECK(w.dim(0) % 16 == 0, "fp8_linear: w ", w.describe(),
                 ": FP8 products need N in multiples of 16");
}

}  // namespace

void run(Context& ctx, const Fp8Quantize& a) {
  if (a.x.dtype() == DType::kBF16)
    quantize(ctx, a, bf16_of(a.x));
  else
    quantize(ctx, a, a.x.ptr<float>());
}

void run(Context& ctx, const Fp8Linear& a) {
  check_card(ctx);
  check_view("w", a.w);
  check_columns(a.w);
  check_view("y", a.y);
  if (a.y.size() == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const View codes = aligned_scratch(ctx, DType::kF8E4M3, a.x.dim(0), a.x.dim(1));
  run(ctx, Fp8Quantize{.codes = codes, .x = a.x, .scale = a.input_scale});
  run(ctx, Product{.d = a.y,
                   .a = codes,
                   .b = a.w,
                   .transpose_b = true,
                   .accumulate = a.accumulate,
                   .scale = fp8_product_scale(a)});
}

}  // namespace nestling::cuda
