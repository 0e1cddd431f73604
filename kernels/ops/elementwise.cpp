#include "kernels/ops/elementwise.h"

#include "kernels/cpu/elementwise.h"

namespace nestling {

namespace {

// True when there is work to do; the null device is done once checked and counted.
bool begin(Context& ctx, const char* op, std::initializer_list<ConstView> views, double flops,
           double bytes) {
  const ConstView& first = *views.begin();
  for (const ConstView& v : views)
    NESTLING_CHECK(same_shape(v, first), op, ": operands ", first.describe(), " and ", v.describe(),
                   " differ in shape");
  check_device(ctx, op, views);
  ctx.count(op, flops, bytes);
  return ctx.code() != Device::kNull && first.size() > 0;
}

void check_f32(const char* op, std::initializer_list<ConstView> views) {
  for (const ConstView& v : views) check_dtype(op, "operand", v, DType::kF32);
}

}  // namespace

void add(Context& ctx, View y, ConstView a, ConstView b) {
  constexpr const char* kOp = "add";
  check_f32(kOp, {y, a, b});
  const auto n = static_cast<double>(y.size());
  if (!begin(ctx, kOp, {y, a, b}, n, 12 * n)) return;
  if (ctx.code() == Device::kCuda) return cuda::add(ctx, y, a, b);
  cpu::add(y, a, b);
}

void add_scaled(Context& ctx, View y, ConstView x, float scale) {
  constexpr const char* kOp = "add_scaled";
  check_f32(kOp, {y, x});
  const auto n = static_cast<double>(y.size());
  if (!begin(ctx, kOp, {y, x}, 2 * n, 12 * n)) return;
  if (ctx.code() == Device::kCuda) return cuda::add_scaled(ctx, y, x, scale);
  cpu::add_scaled(y, x, scale);
}

void scale(Context& ctx, View x, float factor) {
  constexpr const char* kOp = "scale";
  check_f32(kOp, {x});
  const auto n = static_cast<double>(x.size());
  if (!begin(ctx, kOp, {x}, n, 8 * n)) return;
  if (ctx.code() == Device::kCuda) return cuda::scale(ctx, x, factor);
  cpu::scale(x, factor);
}

void cast(Context& ctx, View y, ConstView x) {
  constexpr const char* kOp = "cast";
  for (const ConstView& v : {ConstView(y), x})
    NESTLING_CHECK(v.dtype() == DType::kF32 || v.dtype() == DType::kBF16, kOp, ": operand ",
                   v.describe(), ", needs f32 or bf16");
  if (!begin(ctx, kOp, {y, x}, 0, static_cast<double>(y.bytes() + x.bytes()))) return;
  if (ctx.code() == Device::kCuda) return cuda::cast(ctx, y, x);
  cpu::cast(y, x);
}

}  // namespace nestling
