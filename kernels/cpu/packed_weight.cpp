// packed_weight.cpp - PackedWeight: weights laid out once for the products of this CPU.
//
// f32, and bf16 where there are bf16 dot products: oneDNN's blocked layout, which also serves one
// row at the speed of memory. bf16 elsewhere: the rows themselves, densely and still in bf16, so
// that decoding reads two bytes a weight; larger products widen them block by block.
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "kernels/core/parallel.h"
#include "kernels/core/tensor.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dnnl.h"
#include "kernels/cpu/matmul.h"

namespace nestling {

using dnnl::memory;

namespace {

constexpr int64_t kTypicalRows = 64;  // the layout is chosen for this many tokens
constexpr size_t kMostShapes = 512;   // token counts kept per weight; then the table starts anew

// Everything a product depends on besides the weight.
struct Shape {
  int64_t rows, x_pitch, y_pitch;
  DType y;
  int threads;
  auto operator<=>(const Shape&) const = default;  // NOLINT(modernize-use-nullptr): false alarm
};

struct Product {
  memory::desc x, y;
  dnnl::matmul primitive;
  int64_t scratch_bytes = 0;
};

}  // namespace

struct PackedWeight::State {
  int64_t n = 0;
  int64_t k = 0;
  DType dtype = DType::kF32;
  Tensor data;  // rows [N, K], or the bytes of `layout`
  bool blocked = false;
  memory::desc layout;
  std::shared_mutex mutex;  // products run under the shared lock
  std::map<Shape, Product> products;

  dnnl::matmul::primitive_desc describe(const Shape& s, const memory::desc& w, Product& p) const;
  void pack(ConstView w);
  void forward_blocked(Context& ctx, View y, ConstView x);
  void execute(Context& ctx, const Product& p, View y, ConstView x) const;
};

dnnl::matmul::primitive_desc PackedWeight::State::describe(const Shape& s, const memory::desc& w,
                                                           Product& p) const {
  p.x = memory::desc({s.rows, k}, cpu::dnnl_type(dtype), memory::dims{s.x_pitch, 1});
  p.y = memory::desc({s.rows, n}, cpu::dnnl_type(s.y), memory::dims{s.y_pitch, 1});
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return {dnnl::matmul::desc(p.x, w, p.y), attr, cpu::dnnl_engine()};
}

void PackedWeight::State::pack(ConstView w) {
  Product typical;
  const memory::desc any({k, n}, cpu::dnnl_type(dtype), memory::format_tag::any);
  layout = describe({.rows = kTypicalRows,
                     .x_pitch = k,
                     .y_pitch = n,
                     .y = DType::kF32,
                     .threads = thread_count()},
                    any, typical)
               .weights_desc();
  data = Tensor(Device::kCpu, DType::kU8, {static_cast<int64_t>(layout.get_size())});
  const int64_t pitch = n == 1 ? k : w.pitch();
  const memory::desc rows({k, n}, cpu::dnnl_type(dtype), memory::dims{1, pitch});
  const auto& engine = cpu::dnnl_engine();
  const dnnl::reorder reorder(dnnl::reorder::primitive_desc(engine, rows, engine, layout));
  cpu::DnnlArguments arguments;
  arguments.add(DNNL_ARG_FROM, rows, w.data());
  arguments.add(DNNL_ARG_TO, layout, data.view().data());
  arguments.run(reorder);
  blocked = true;
}

void PackedWeight::State::execute(Context& ctx, const Product& p, View y, ConstView x) const {
  const Arena::Mark mark(ctx.scratch());
  cpu::DnnlArguments arguments;
  arguments.add(DNNL_ARG_SRC, p.x, x.data());
  arguments.add(DNNL_ARG_WEIGHTS, layout, data.view().data());
  arguments.add(DNNL_ARG_DST, p.y, y.data());
  const View scratch = ctx.scratch().alloc(DType::kU8, {p.scratch_bytes});
  const memory::desc bytes({p.scratch_bytes}, memory::data_type::u8, memory::dims{1});
  arguments.add(DNNL_ARG_SCRATCHPAD, bytes, scratch.data());
  arguments.run(p.primitive);
}

void PackedWeight::State::forward_blocked(Context& ctx, View y, ConstView x) {
  const Arena::Mark mark(ctx.scratch());
  if (x.dtype() != dtype) x = cpu::bf16_copy(ctx, x);
  const bool one = x.dim(0) == 1;
  const Shape shape{.rows = x.dim(0),
                    .x_pitch = one ? k : x.pitch(),
                    .y_pitch = one ? n : y.pitch(),
                    .y = y.dtype(),
                    .threads = in_parallel() ? 1 : thread_count()};
  {
    const std::shared_lock lock(mutex);
    if (const auto at = products.find(shape); at != products.end())
      return execute(ctx, at->second, y, x);
  }
  Product made;
  const auto described = describe(shape, layout, made);
  made.scratch_bytes = static_cast<int64_t>(described.scratchpad_desc().get_size());
  made.primitive = dnnl::matmul(described);
  {
    const std::scoped_lock lock(mutex);
    if (products.size() >= kMostShapes) products.clear();
    products.try_emplace(shape, made);
  }
  execute(ctx, made, y, x);
}

PackedWeight::PackedWeight(Context& ctx, ConstView w) : state_(std::make_unique<State>()) {
  constexpr const char* kOp = "packed_weight";
  NESTLING_CHECK(w.rank() == 2 && w.size() > 0, kOp, ": w is ", w.describe(), ", needs [N, K]");
  NESTLING_CHECK(w.dtype() == DType::kF32 || w.dtype() == DType::kBF16, kOp, ": w is ",
                 w.describe(), ", needs f32 or bf16");
  check_device(ctx, kOp, {w});
  state_->n = w.dim(0);
  state_->k = w.dim(1);
  state_->dtype = w.dtype();
  if (ctx.device() == Device::kCuda) throw_no_cuda_kernel(kOp);
  if (ctx.device() == Device::kNull) return;
  cpu::check_dnnl_isa();
  if (w.dtype() == DType::kF32 || cpu::bf16_path() == cpu::Bf16Path::kNative) {
    try {
      state_->pack(w);
    } catch (const dnnl::error& e) {
      throw Error(str(kOp, ": w ", w.describe(), ": oneDNN: ", e.what()));
    }
  } else {
    state_->data = Tensor(Device::kCpu, DType::kBF16, {state_->n, state_->k});
    copy(state_->data.view(), w);
  }
}

PackedWeight::~PackedWeight() = default;
PackedWeight::PackedWeight(PackedWeight&&) noexcept = default;
PackedWeight& PackedWeight::operator=(PackedWeight&&) noexcept = default;

void PackedWeight::forward(Context& ctx, View y, ConstView x) const {
  constexpr const char* kOp = "linear_forward";
  State& s = *state_;
  const ConstView extents(nullptr, s.dtype, ctx.device(), {s.n, s.k});
  if (!s.blocked) {
    const ConstView rows = s.data ? ConstView(s.data) : extents;
    return linear_forward(ctx, {.y = y, .x = x, .w = rows});
  }
  NESTLING_CHECK(x.rank() == 2 && y.rank() == 2, kOp, ": y ", y.describe(), " = x ", x.describe(),
                 " packed w ", extents.describe(), "^T");
  check_shape(kOp, "x", x, {y.dim(0), s.k});
  check_shape(kOp, "y", y, {x.dim(0), s.n});
  check_device(ctx, kOp, {x, y});
  if (s.dtype == DType::kF32) {
    check_dtype(kOp, "x", x, DType::kF32);
    check_dtype(kOp, "y", y, DType::kF32);
  }
  const auto rows = static_cast<double>(x.dim(0));
  ctx.count(kOp, 2 * rows * static_cast<double>(extents.size()),
            static_cast<double>(x.bytes() + y.bytes() + extents.bytes()));
  if (x.dim(0) == 0) return;
  cpu::check_dnnl_isa();
  try {
    s.forward_blocked(ctx, y, x);
  } catch (const dnnl::error& e) {
    throw Error(str(kOp, ": y ", y.describe(), " = x ", x.describe(), " packed w ",
                    extents.describe(), "^T: oneDNN: ", e.what()));
  }
}

int64_t PackedWeight::bytes() const {
  return state_->data ? state_->data.allocated_bytes()
                      : state_->n * state_->k * dtype_bytes(state_->dtype);
}

}  // namespace nestling
