#include "model/layers/gather.h"

#include "kernels/core/tensor.h"

namespace nestling {

namespace {

bool one_run(ConstView w, int first) {
  return !w || w.dense() || w.stride(first) == w.stride(first + 1) * w.dim(first + 1);
}

template <class V>
V merge(V w, int first) {
  if (!w) return w;
  const int64_t run = w.dim(first) * w.dim(first + 1);
  if (w.rank() == 2) return w.reshape({run});
  NESTLING_CHECK(w.rank() == 3 && first <= 1, "dims ", first, " and ", first + 1, " of ",
                 w.describe(), " cannot be merged");
  return first == 0 ? w.reshape({run, w.dim(2)}) : w.reshape({w.dim(0), run});
}

View gather(Context& ctx, ConstView w) {
  Arena& scratch = ctx.scratch();
  const View dense = w.rank() == 2 ? scratch.alloc(w.dtype(), {w.dim(0), w.dim(1)})
                                   : scratch.alloc(w.dtype(), {w.dim(0), w.dim(1), w.dim(2)});
  ctx.count("gather", 0, 2 * static_cast<double>(w.bytes()));
  copy(ctx, dense, w);
  return dense;
}

}  // namespace

ConstView merge_or_gather(Context& ctx, ConstView w, int first) {
  return merge(one_run(w, first) ? w : ConstView(gather(ctx, w)), first);
}

Weight merge_or_gather(Context& ctx, const Weight& w, int first) {
  Weight merged = w;
  merged.stored = merge_or_gather(ctx, w.stored, first);
  merged.block_scales = merge_or_gather(ctx, w.block_scales, first);
  return merged;
}

GatheredGradient::GatheredGradient(Context& ctx, View gradient, int first)
    : ctx_(ctx), gradient_(gradient) {
  if (!one_run(gradient, first)) copy_ = gather(ctx, gradient);
  merged_ = merge(copy_ ? copy_ : gradient, first);
}

void GatheredGradient::store() const {
  if (!copy_) return;
  ctx_.count("gather", 0, 2 * static_cast<double>(copy_.bytes()));
  copy(ctx_, gradient_, copy_);
}

}  // namespace nestling
