// view.h - a borrowed, strided window on memory: the type every operator takes.
//
// Shape         rank 0 (absent) to 4, extents and strides in elements. The last stride is 1; the
//               others are free, so a prefix on any axis is again a view and copies nothing.
// Ownership     none: whoever owns the memory (Tensor, Arena, a mapped file) must outlive the view.
// Device        a property of the memory. On kNull there is no memory: data is nullptr.
// Errors        a cut that does not fit, or a pointer asked for as the wrong type, throws Error.
#pragma once
#include <array>
#include <cstddef>
#include <initializer_list>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace nestling {

enum class Device : uint8_t { kCpu, kCuda, kNull };
const char* device_name(Device device);
Device parse_device(const std::string& name);  // "cpu" or "cuda", as in configs

inline constexpr int kMaxRank = 4;
using Extents = std::array<int64_t, kMaxRank>;

namespace detail {

// What View and ConstView share: everything but the constness of the bytes.
template <class Byte>
class BasicView {
 public:
  BasicView() = default;
  BasicView(Byte* data, DType dtype, Device device, std::initializer_list<int64_t> shape)
      : BasicView(data, dtype, device, to_extents(shape), static_cast<int>(shape.size())) {}
  // Dense row-major.
  BasicView(Byte* data, DType dtype, Device device, const Extents& shape, int rank)
      : data_(data), shape_(shape), rank_(rank), dtype_(dtype), device_(device) {
    int64_t stride = 1;
    for (int d = rank - 1; d >= 0; --d) {
      stride_[d] = stride;
      stride *= shape_[d];
    }
  }

  explicit operator bool() const { return rank_ > 0; }  // false: the operand was left out
  int rank() const { return rank_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t dim(int d) const { return shape_[check_dim(d)]; }
  int64_t stride(int d) const { return stride_[check_dim(d)]; }
  int64_t rows() const { return size() / (rank_ ? shape_[rank_ - 1] : 1); }  // all but the last dim
  int64_t size() const {
    int64_t n = rank_ ? 1 : 0;
    for (int d = 0; d < rank_; ++d) n *= shape_[d];
    return n;
  }
  int64_t bytes() const { return size() * dtype_bytes(dtype_); }  // elements only, not the gaps
  bool dense() const { return rank_ == 0 || row_dense(0); }
  // Elements from one row to the next when all leading dims are read as one "row" dim [rows, last].
  // Throws where the strides forbid that reading.
  int64_t pitch() const {
    NESTLING_CHECK(rank_ >= 1, "pitch of an absent view");
    if (rank_ == 1) return shape_[0];
    for (int d = 0; d + 2 < rank_; ++d)
      NESTLING_CHECK(shape_[d] == 1 || stride_[d] == stride_[d + 1] * shape_[d + 1],
                     "the leading dims of ", describe(), " are not one run of equal rows");
    return stride_[rank_ - 2];
  }

  std::string describe() const {  // "[5,12] f32 cpu"
    std::string s = "[";
    for (int d = 0; d < rank_; ++d) s += (d ? "," : "") + std::to_string(shape_[d]);
    return s + "] " + dtype_name(dtype_) + " " + device_name(device_);
  }

 protected:
  static Extents to_extents(std::initializer_list<int64_t> shape) {
    NESTLING_CHECK(shape.size() <= kMaxRank, "rank ", shape.size(), " exceeds ", kMaxRank);
    Extents e{};
    size_t d = 0;
    for (int64_t n : shape) {
      NESTLING_CHECK(n >= 0, "extent ", n, " of dim ", d, " is negative");
      e[d++] = n;
    }
    return e;
  }
  int check_dim(int d) const {
    NESTLING_CHECK(d >= 0 && d < rank_, "dim ", d, " of ", describe());
    return d;
  }
  bool row_dense(int from) const {
    int64_t stride = 1;
    for (int d = rank_ - 1; d >= from; --d) {
      if (shape_[d] != 1 && stride_[d] != stride) return false;
      stride *= shape_[d];
    }
    return true;
  }
  void cut(int d, int64_t begin, int64_t n) {
    check_dim(d);
    NESTLING_CHECK(begin >= 0 && n >= 0 && begin + n <= shape_[d], "cut [", begin, ", ", begin + n,
                   ") does not fit dim ", d, " of ", describe());
    if (data_ != nullptr) data_ += begin * stride_[d] * dtype_bytes(dtype_);
    shape_[d] = n;
  }
  void reshape_to(std::initializer_list<int64_t> shape) {
    const BasicView fresh(data_, dtype_, device_, shape);
    NESTLING_CHECK(fresh.size() == size(), "cannot reshape ", describe(), " to ", fresh.describe());
    if (dense()) {
      *this = fresh;
      return;
    }
    split_or_merge(fresh);
  }
  // Reshape of a view with gaps: allowed where every old dim is a product of whole new dims or the
  // reverse, and merged dims are contiguous among themselves.
  void split_or_merge(const BasicView& fresh) {
    BasicView out = fresh;
    int o = rank_ - 1;
    int n = fresh.rank_ - 1;
    while (o >= 0 && n >= 0) {
      int64_t old_extent = shape_[o];
      int64_t new_extent = fresh.shape_[n];
      int64_t stride = stride_[o];
      out.stride_[n] = stride;
      while (old_extent != new_extent) {
        if (old_extent < new_extent) {
          NESTLING_CHECK(o > 0 && stride_[o - 1] == stride_[o] * shape_[o], "strides of ",
                         describe(), " forbid the reshape to ", fresh.describe());
          old_extent *= shape_[--o];
        } else {
          NESTLING_CHECK(n > 0, "strides of ", describe(), " forbid the reshape to ",
                         fresh.describe());
          out.stride_[n - 1] = out.stride_[n] * fresh.shape_[n];
          new_extent *= fresh.shape_[--n];
        }
      }
      --o;
      --n;
    }
    for (; n >= 0; --n) out.stride_[n] = out.stride_[n + 1] * out.shape_[n + 1];
    *this = out;
  }

  template <class B>
  friend class BasicView;
  Byte* data_ = nullptr;
  Extents shape_{};
  Extents stride_{};
  int rank_ = 0;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kCpu;
};

}  // namespace detail

class ConstView;

class View : public detail::BasicView<std::byte> {
 public:
  using BasicView::BasicView;

  std::byte* data() const { return data_; }
  template <class T>
  T* ptr() const {
    NESTLING_CHECK(DTypeOf<T>::kValue == dtype_, describe(), " read as ",
                   dtype_name(DTypeOf<T>::kValue));
    return reinterpret_cast<T*>(data_);
  }
  View prefix(int d, int64_t n) const { return slice(d, 0, n); }
  View slice(int d, int64_t begin, int64_t n) const {
    View v = *this;
    v.cut(d, begin, n);
    return v;
  }
  View reshape(std::initializer_list<int64_t> shape) const {
    View v = *this;
    v.reshape_to(shape);
    return v;
  }
  friend class ConstView;
};

class ConstView : public detail::BasicView<const std::byte> {
 public:
  using BasicView::BasicView;
  ConstView(const View& v) {  // NOLINT(google-explicit-constructor): as string to string_view
    data_ = v.data_;
    shape_ = v.shape_;
    stride_ = v.stride_;
    rank_ = v.rank_;
    dtype_ = v.dtype_;
    device_ = v.device_;
  }

  const std::byte* data() const { return data_; }
  template <class T>
  const T* ptr() const {
    NESTLING_CHECK(DTypeOf<T>::kValue == dtype_, describe(), " read as ",
                   dtype_name(DTypeOf<T>::kValue));
    return reinterpret_cast<const T*>(data_);
  }
  ConstView prefix(int d, int64_t n) const { return slice(d, 0, n); }
  ConstView slice(int d, int64_t begin, int64_t n) const {
    ConstView v = *this;
    v.cut(d, begin, n);
    return v;
  }
  ConstView reshape(std::initializer_list<int64_t> shape) const {
    ConstView v = *this;
    v.reshape_to(shape);
    return v;
  }
};

bool same_shape(ConstView a, ConstView b);

}  // namespace nestling
