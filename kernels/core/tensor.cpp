#include "kernels/core/tensor.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "kernels/core/fence.h"
#include "kernels/cuda/memory.h"

namespace nestling {

namespace {

int64_t product(std::initializer_list<int64_t> shape) {
  int64_t n = 1;
  for (int64_t extent : shape) {
    NESTLING_CHECK(extent >= 0, "extent ", extent, " is negative");
    NESTLING_CHECK(!__builtin_mul_overflow(n, extent, &n), "a tensor's size overflows 64 bits");
  }
  return n;
}

// Calls fn(dst row, src row, elements) for each innermost row of two views of one shape.
template <class Fn>
void for_each_row(const View& dst, const ConstView& src, Fn fn) {
  const int last = dst.rank() - 1;
  const int64_t row_bytes = dst.dim(last) * dtype_bytes(dst.dtype());
  const int64_t rows = dst.rows();
  const int64_t item = dtype_bytes(dst.dtype());
  for (int64_t r = 0; r < rows; ++r) {
    int64_t rest = r;
    int64_t dst_at = 0;
    int64_t src_at = 0;
    for (int d = last - 1; d >= 0; --d) {
      const int64_t i = rest % dst.dim(d);
      rest /= dst.dim(d);
      dst_at += i * dst.stride(d);
      src_at += i * src.stride(d);
    }
    fn(dst.data() + dst_at * item, src.data() + src_at * item, row_bytes);
  }
}

constexpr int64_t kLine = 64;
// Walks with a row pitch touch a page a row; in huge pages they stay within the TLB, which counts
// most under virtualisation. From this size on the rounding up costs little.
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kHugeFrom = 2 * kHugePage;

}  // namespace

std::byte* allocate_bytes(Device device, int64_t bytes, Holder holder) {
  if (device == Device::kNull || bytes == 0) return nullptr;
  if (device == Device::kCuda) return cuda::allocate(bytes, holder);
  const int64_t alignment = bytes >= kHugeFrom ? kHugePage : kLine;
  const int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  auto* data = static_cast<std::byte*>(
      std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded)));
  NESTLING_CHECK(data != nullptr, "out of memory: ", bytes, " bytes asked for");
  // Large: given back to the system, which hands out zeros page by page as they are touched, so that
  // what an arena holds in reserve is not resident. Huge pages are advice only: where the kernel does
  // not take it, pages stay small.
  const bool lazy =
      alignment == kHugePage && madvise(data, static_cast<size_t>(rounded), MADV_DONTNEED) == 0;
  if (lazy) madvise(data, static_cast<size_t>(rounded), MADV_HUGEPAGE);
  if (!lazy) std::memset(data, 0, static_cast<size_t>(rounded));
  detail::fence(data + bytes, rounded - bytes);
  return data;
}

void release_bytes(Device device, std::byte* data) noexcept {
  if (data == nullptr) return;
  if (device == Device::kCuda) {
    cuda::release(data);
  } else {
    std::free(data);
  }
}

Tensor::Tensor(Device device, DType dtype, std::initializer_list<int64_t> shape, Holder holder)
    : allocated_(product(shape) * dtype_bytes(dtype)) {
  data_ = {allocate_bytes(device, allocated_, holder), ReleaseBytes{device}};
  view_ = View(data_.get(), dtype, device, shape);
}

Tensor Tensor::pitched(Device device, DType dtype, int64_t rows, int64_t cols) {
  const int64_t per_line = 64 / dtype_bytes(dtype);
  const int64_t pitch = (cols + per_line - 1) / per_line * per_line;
  Tensor t(device, dtype, {rows, pitch});
  t.view_ = t.view_.prefix(1, cols);
  return t;
}

namespace {
// False: there is nothing to do.
bool begin_copy(const ConstView& dst, const ConstView& src) {
  NESTLING_CHECK(same_shape(dst, src) && dst.dtype() == src.dtype(), "copy ", src.describe(),
                 " to ", dst.describe());
  return dst.device() != Device::kNull && src.device() != Device::kNull && dst.size() > 0;
}
}  // namespace

void copy(View dst, ConstView src) {
  if (!begin_copy(dst, src)) return;
  if (dst.device() == Device::kCuda || src.device() == Device::kCuda) {
    cuda::copy(dst, src);
    return;
  }
  for_each_row(dst, src, [](std::byte* to, const std::byte* from, int64_t n) {
    std::memmove(to, from, static_cast<size_t>(n));
  });
}

void fill_zero(View x) {
  if (x.device() == Device::kNull || x.size() == 0) return;
  if (x.device() == Device::kCuda) {
    cuda::fill_zero(x);
    return;
  }
  for_each_row(x, x, [](std::byte* to, const std::byte*, int64_t n) {
    std::memset(to, 0, static_cast<size_t>(n));
  });
}

void copy(Context& ctx, View dst, ConstView src) {
  check_device(ctx, "copy", {dst, src});
  if (dst.device() != Device::kCuda) return copy(dst, src);
  if (begin_copy(dst, src)) cuda::copy(ctx, dst, src);
}

void fill_zero(Context& ctx, View x) {
  check_device(ctx, "fill_zero", {x});
  if (x.device() != Device::kCuda) return fill_zero(x);
  if (x.size() > 0) cuda::fill_zero(ctx, x);
}

}  // namespace nestling
