// quantized_experts.cpp - one product an expert on weights that are codes.
//
// x             becomes the values of its codes once, as a whole.
// Pieces        some rows of an expert and as many of its columns as a thread makes f32 at a time: the block is
//               widened into that thread's scratch and multiplied while it is in the cache.
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

struct ExpertPiece {
  int64_t expert, row, rows, column, columns;
  int64_t before;  // work of all pieces before it
};

struct ExpertPieces {
  std::vector<ExpertPiece> all;
  int64_t work = 0;

  ExpertPieces(ConstView offsets, int64_t n, int64_t step) {
    const auto* at = offsets.ptr<int32_t>();
    for (int64_t e = 0; e + 1 < offsets.dim(0); ++e)
      for (int64_t row = at[e]; row < at[e + 1]; row += kPieceRows)
        for (int64_t column = 0; column < n; column += step)
          add({.expert = e,
               .row = row,
               .rows = std::min(kPieceRows, at[e + 1] - row),
               .column = column,
               .columns = std::min(step, n - column),
               .before = work});
  }

 private:
  void add(const ExpertPiece& piece) {
    all.push_back(piece);
    work += kWidenRows + piece.rows;
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
void write_values(Context& ctx, View out, const QuantizedExpertLinear& a) {
  if (!a.block_scales) return quantized(out, a.x, a.input_scale);
  const Arena::Mark mark(ctx.scratch());
  const View codes = ctx.scratch().alloc(DType::kU8, {out.dim(0), out.dim(1) / 2});
  const View scales = ctx.scratch().alloc(DType::kF8E4M3, {out.dim(0), out.dim(1) / kNvfp4Block});
  run(ctx, Nvfp4Quantize{.codes = codes, .scales = scales, .x = a.x, .scale = a.input_scale});
  widen(out, codes, scales);
}

// The piece's block of weights, in `wide`.
View widened(View wide, const QuantizedExpertLinear& a, const ExpertPiece& p, int64_t k) {
  const View block = wide.prefix(0, p.columns * k).reshape({p.columns, k});
  const auto part = [&](ConstView w) {
    return expert_of(w, p.expert).slice(0, p.column, p.columns);
  };
  if (a.block_scales)
    widen(block, part(a.codes), part(a.block_scales));
  else
    widen(block, part(a.codes));
  return block;
}

// The one place that chooses by the number of rows: with few, reading the weights is all the work.
void multiply(View y, ConstView x, const QuantizedExpertLinear& a, const ExpertPiece& p,
              View wide) {
  const View w = widened(wide, a, p, x.dim(1));
  if (p.rows <= kGemvRows) return gemv({.y = y, .x = x, .w = w});
  matmul_any_rows({.c = y, .a = x, .b = w, .transpose_b = true});
}

void scale_rows(View y, float by) {
  for (int64_t r = 0; r < y.dim(0); ++r) {
    float* row = y.ptr<float>() + r * y.pitch();
    for (int64_t n = 0; n < y.dim(1); ++n) row[n] *= by;
  }
}

}  // namespace

void run(Context& ctx, const QuantizedExpertLinear& a) {
  check_offsets(kOp, a.offsets, a.x.dim(0));
  check_scales(a);
  if (a.x.dim(0) == 0) return;
  const Arena::Mark mark(ctx.scratch());
  const View x = ctx.scratch().alloc(DType::kF32, {a.x.dim(0), a.x.dim(1)});
  write_values(ctx, x, a);
  const int64_t step = std::min(a.y.dim(1), widened_at_once(x.dim(1)));
  const View wide = ctx.scratch().alloc(DType::kF32, {thread_count(), step * x.dim(1)});
  const ExpertPieces pieces(a.offsets, a.y.dim(1), step);
  // A range begins at any unit of work, so that even one piece is done inside a parallel_for: outside, oneDNN would
  // spread it over the threads, in another order of sums.
  parallel_for(pieces.work, 1, [&](int64_t begin, int64_t end) {
    const View own = wide.slice(0, thread_index(), 1).reshape({wide.dim(1)});
    auto p = std::lower_bound(
        pieces.all.begin(), pieces.all.end(), begin,
        [](const ExpertPiece& piece, int64_t work) { return piece.before < work; });
    for (; p != pieces.all.end() && p->before < end; ++p) {
      const View y = a.y.slice(0, p->row, p->rows).slice(1, p->column, p->columns);
      multiply(y, x.slice(0, p->row, p->rows), a, *p, own);
      scale_rows(y, quantized_expert_scale(a.input_scale, a.scales.ptr<float>()[p->expert]));
    }
  });
}

}  // namespace nestling::cpu
