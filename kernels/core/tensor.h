// tensor.h - memory that owns itself.
//
// Tensor        move-only owner of one allocation; dense unless made with a pitch. Converts to
//               View.
// Alignment     64 bytes on the CPU, 256 on CUDA; a pitched tensor aligns every row to 64 bytes.
// Content       zero on creation.
// Null device   holds no bytes: extents only, so that a model of any size can be laid out.
// Holder        who the memory is for, in the table of memory_table.h; kept on CUDA alone.
// Errors        an allocation that fails throws Error naming the tensor's bytes.
#pragma once
#include <initializer_list>
#include <memory>

#include "kernels/core/memory_table.h"
#include "kernels/core/view.h"

namespace nestling {

class Context;

// Raw zeroed device memory, for the owners of memory (Tensor, Arena). Null device: nullptr.
std::byte* allocate_bytes(Device device, int64_t bytes, Holder holder);
void release_bytes(Device device, std::byte* data) noexcept;
struct ReleaseBytes {
  Device device = Device::kCpu;
  void operator()(std::byte* data) const noexcept { release_bytes(device, data); }
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(Device device, DType dtype, std::initializer_list<int64_t> shape, Holder holder = {});
  // Rows start on 64-byte boundaries: the pitch of the last dim is rounded up.
  static Tensor pitched(Device device, DType dtype, int64_t rows, int64_t cols);

  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  explicit operator bool() const { return static_cast<bool>(view_); }
  View view() { return view_; }
  ConstView view() const { return view_; }
  operator View() { return view_; }             // NOLINT(google-explicit-constructor)
  operator ConstView() const { return view_; }  // NOLINT(google-explicit-constructor)
  template <class T>
  T* ptr() {
    return view_.ptr<T>();
  }
  template <class T>
  const T* ptr() const {
    return ConstView(view_).ptr<T>();
  }
  int64_t size() const { return view_.size(); }
  int64_t allocated_bytes() const { return allocated_; }

 private:
  std::unique_ptr<std::byte, ReleaseBytes> data_;
  View view_;
  int64_t allocated_ = 0;
};

// dst = src between CPU and CUDA or within one device. Shapes and dtypes must agree; gaps are kept.
void copy(View dst, ConstView src);
void fill_zero(View x);
// The same within the Context's device, in the order of its operators: what a step does.
void copy(Context& ctx, View dst, ConstView src);
void fill_zero(Context& ctx, View x);

}  // namespace nestling
