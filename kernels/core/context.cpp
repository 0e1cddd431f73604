#include "kernels/core/context.h"

#include "kernels/cuda/stream.h"

namespace nestling {

Context::Context(Device device, Device code, cuda::StreamState* cuda)
    : device_(device), code_(code), scratch_(device, {Pool::kScratch, "scratch"}), cuda_(cuda) {}

Context::Context(Device device) : Context(device, device, nullptr) {
  if (device != Device::kCuda) return;
  owned_.reset(cuda::make_stream_state());
  cuda_ = owned_.get();
}

Context Context::rehearsal_of(Context& real) {
  NESTLING_CHECK(real.code_ == Device::kCuda, "a rehearsal for ", device_name(real.code_),
                 ", needs cuda");
  return {Device::kNull, real.code_, real.cuda_};
}

cuda::StreamState& Context::cuda() {
  NESTLING_CHECK(cuda_ != nullptr, "the context's device is ", device_name(device_), ", not cuda");
  return *cuda_;
}

void Context::synchronize() {
  if (device_ == Device::kCuda) cuda::synchronize(*cuda_);
}

void Context::count(std::string_view op, double flops, double bytes) {
  auto at = work_.find(op);
  if (at == work_.end()) at = work_.emplace(std::string(op), Work{}).first;
  at->second.flops += flops;
  at->second.bytes += bytes;
  at->second.calls += 1;
}

Work Context::total_work() const {
  Work total;
  for (const auto& [op, work] : work_) {
    total.flops += work.flops;
    total.bytes += work.bytes;
    total.calls += work.calls;
  }
  return total;
}

void check_device(const Context& ctx, const char* op, std::initializer_list<ConstView> views) {
  for (const ConstView& v : views)
    NESTLING_CHECK(!v || v.device() == ctx.device(), op, ": operand ", v.describe(),
                   ", the context runs on ", device_name(ctx.device()));
}

void check_dtype(const char* op, const char* name, ConstView view, DType dtype) {
  NESTLING_CHECK(!view || view.dtype() == dtype, op, ": ", name, " is ", view.describe(),
                 ", needs ", dtype_name(dtype));
}

void check_activations(const Context& ctx, const char* op, std::initializer_list<ConstView> views) {
  ConstView first;
  for (const ConstView& v : views) {
    if (!v) continue;
    if (!first) first = v;
    const bool low = v.dtype() == DType::kBF16 && ctx.device() != Device::kCpu;
    NESTLING_CHECK(low || v.dtype() == DType::kF32, op, ": operand ", v.describe(),
                   ", needs f32, or off the CPU bf16");
    NESTLING_CHECK(v.dtype() == first.dtype(), op, ": operand ", v.describe(), " beside ",
                   first.describe(), ", needs one type");
  }
}

void check_shape(const char* op, const char* name, ConstView view,
                 std::initializer_list<int64_t> shape) {
  if (!view) return;
  const ConstView wanted(nullptr, view.dtype(), view.device(), shape);
  NESTLING_CHECK(same_shape(view, wanted), op, ": ", name, " is ", view.describe(), ", needs ",
                 wanted.describe());
}

void throw_no_cuda_kernel(const char* op) {
  throw Error(str(op, ": no CUDA kernel for this operator in this build"));
}

}  // namespace nestling
