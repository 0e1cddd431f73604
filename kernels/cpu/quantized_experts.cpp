// quantized_experts.cpp - one product an expert on weights that are codes.
//
// x             becomes codes once, as a whole, and values where products read those.
// Few rows      of an expert are multiplied with its codes as they are (gemv.h); nothing is widened.
// Pieces        some rows of an expert and as many of its columns as a thread makes f32 at a time: the block is
//               widened into that thread's scratch and multiplied while it is in the cache. Those of few rows have
//               fewer columns, so that one row for each of a few experts is work for all threads.
// Threads       each takes pieces of about as much work, however uneven the experts. Pieces do not depend on the
//               threads, and one thread does a piece: the same bits with any number of them.
#include "kernels/ops/quantized_experts.h"

#include <cmath>
#include <vector>

#include "kernels/core/parallel.h"
#include "kernels/cpu/code_values.h"
#include "kernels/cpu/expert_rows.h"
#include "kernels/cpu/gemv.h"
#include "kernels/cpu/matmul.h"
#include "kernels/ops/code_operands.h"
#include "kernels/ops/nvfp4_linear.h"

namespace nestling::cpu {

namespace {

constexpr const char* kOp = "quantized_expert_linear";
constexpr int64_t kPieceRows = 256;  // beside so many, widening costs little
constexpr int64_t kWidenRows = 16;   // about as much work as products with so many rows
constexpr int64_t kReadRows = 4;     // and reading the codes alone
constexpr int64_t kFewColumns = 32;  // of a piece of few rows

struct ExpertPiece {
  int64_t expert, row, rows, column, columns;
  int64_t before;  // work of all pieces before it
  bool few() const { return rows <= kGemvRows; }
};

// `step`: columns of a piece that is widened.
struct ExpertPieces {
  std::vector<ExpertPiece> all;
  int64_t work = 0;  // in rows times columns
  bool widened = false;

  ExpertPieces(ConstView offsets, int64_t n, int64_t step) {
    const auto* at = offsets.ptr<int32_t>();
    for (int64_t e = 0; e + 1 < offsets.dim(0); ++e)
      for (int64_t row = at[e]; row < at[e + 1]; row += kPieceRows)
        add_columns({.expert = e,
                     .row = row,
                     .rows = std::min(kPieceRows, at[e + 1] - row),
                     .column = 0,
                     .columns = 0,
                     .before = 0},
                    n, step);
  }

 private:
  void add_columns(ExpertPiece piece, int64_t n, int64_t step) {
    const int64_t most = piece.few() ? std::min(step, kFewColumns) : step;
    widened = widened || !piece.few();
    for (piece.column = 0; piece.column < n; piece.column += most) {
      piece.columns = std::min(most, n - piece.column);
      piece.before = work;
      all.push_back(piece);
      work += ((piece.few() ? kReadRows : kWidenRows) + piece.rows) * piece.columns;
    }
  }
};

void check_scales(const QuantizedExpertLinear& a) {
  const float* scales = a.scales.ptr<float>();
  for (int64_t e = 0; e < a.scales.dim(0); ++e) {
    const std::string name = str("the scale of expert ", e);
    (a.block_scales ? check_nvfp4_scale : check_fp8_scale)(kOp, name.c_str(), scales[e]);
    NESTLING_CHECK_INPUT(std::isnormal(quantized_expert_scale(a.input_scale, scales[e])), kOp,
                         ": input_scale ", a.input_scale, " times ", name, " ", scales[e],
                         " is no normal f32");
  }
}

// What products read of x.
struct Activations {
  View values;         // [R, K] f32; of NVFP4 where a piece is widened
  View codes, scales;  // of NVFP4

  Activations(Context& ctx, const QuantizedExpertLinear& a, bool widened) {
    const int64_t rows = a.x.dim(0);
    const int64_t k = a.x.dim(1);
    if (!a.block_scales || widened) values = ctx.scratch().alloc(DType::kF32, {rows, k});
    if (!a.block_scales) {
      quantized(values, a.x, a.input_scale);
      return;
    }
    codes = ctx.scratch().alloc(DType::kU8, {rows, k / 2});
    scales = ctx.scratch().alloc(DType::kF8E4M3, {rows, k / kNvfp4Block});
    run(ctx, Nvfp4Quantize{.codes = codes, .scales = scales, .x = a.x, .scale = a.input_scale});
    if (widened) widen(values, codes, scales);
  }
};

// The piece's block of weights, or of the scales of their blocks.
ConstView block_of(ConstView w, const ExpertPiece& p) {
  return expert_of(w, p.expert).slice(0, p.column, p.columns);
}

void multiply_codes(View y, const Activations& x, const QuantizedExpertLinear& a,
                    const ExpertPiece& p, float scale) {
  const ConstView w = block_of(a.codes, p);
  if (!a.block_scales)
    return gemv({.y = y, .x = x.values.slice(0, p.row, p.rows), .w = w, .scale = scale});
  gemv_nvfp4({.y = y,
              .x = x.codes.slice(0, p.row, p.rows),
              .x_scales = x.scales.slice(0, p.row, p.rows),
              .w = w,
              .w_scales = block_of(a.block_scales, p),
              .scale = scale});
}

void scale_rows(View y, float by) {
  for (int64_t r = 0; r < y.dim(0); ++r) {
    float* row = y.ptr<float>() + r * y.pitch();
    for (int64_t n = 0; n < y.dim(1); ++n) row[n] *= by;
  }
}

void multiply_values(View y, ConstView x, const QuantizedExpertLinear& a, const ExpertPiece& p,
                     float scale, View wide) {
  const View w = wide.prefix(0, p.columns * x.dim(1)).reshape({p.columns, x.dim(1)});
  if (a.block_scales)
    widen(w, block_of(a.codes, p), block_of(a.block_scales, p));
  else
    widen(w, block_of(a.codes, p));
  matmul_any_rows({.c = y, .a = x, .b = w, .transpose_b = true});
  scale_rows(y, scale);
}

// The one place that chooses by the number of rows: with few, reading the weights is all the work.
void multiply(const Activations& x, const QuantizedExpertLinear& a, const ExpertPiece& p,
              View wide) {
  const View y = a.y.slice(0, p.row, p.rows).slice(1, p.column, p.columns);
  const float scale = quantized_expert_scale(a.input_scale, a.scales.ptr<float>()[p.expert]);
  if (p.few()) return multiply_codes(y, x, a, p, scale);
  multiply_values(y, x.values.slice(0, p.row, p.rows), a, p, scale, wide);
}

}  // namespace

void run(Context& ctx, const QuantizedExpertLinear& a) {
  check_offsets(kOp, a.offsets, a.x.dim(0));
  check_scales(a);
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const int64_t step = std::min(a.y.dim(1), widened_at_once(a.x.dim(1)));
  const ExpertPieces pieces(a.offsets, a.y.dim(1), step);
  const Activations x(ctx, a, pieces.widened);
  View wide;
  if (pieces.widened) wide = ctx.scratch().alloc(DType::kF32, {thread_count(), step * a.x.dim(1)});
  // A range begins at any unit of work, so that even one piece is done inside a parallel_for: outside, oneDNN would
  // spread it over the threads, in another order of sums.
  parallel_for(pieces.work, 1, [&](int64_t begin, int64_t end) {
    const View own = wide ? wide.slice(0, thread_index(), 1).reshape({wide.dim(1)}) : View();
    auto p = std::lower_bound(
        pieces.all.begin(), pieces.all.end(), begin,
        [](const ExpertPiece& piece, int64_t work) { return piece.before < work; });
    for (; p != pieces.all.end() && p->before < end; ++p) multiply(x, a, *p, own);
  });
}

}  // namespace nestling::cpu
