// rank_operand.h - operands of collectives: what every rank holds is known to all, and so is what comes out.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/comm/comm.h"
#include "kernels/core/rng.h"
#include "kernels/core/tensor.h"

namespace nestling::testing {

// What rank `rank` holds at element i: small whole numbers and halves, negative ones too, plus for
// floats a part that makes every addition round.
template <class T>
T value(int rank, int64_t i) {
  Rng rng(5, static_cast<uint64_t>(rank) << 32 | static_cast<uint64_t>(i));
  if constexpr (std::is_same_v<T, uint8_t>)
    return static_cast<T>(rng.below(256));
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(rng.below(2001)) - 1000;
  else
    return static_cast<T>(static_cast<float>(rng.normal()));
}

// A [rows, cols] operand, dense or with gaps that must survive. Elements are read and written on the host;
// view() sends what was written to the device, fetch() brings home what a collective left there.
template <class T>
class Operand {
 public:
  Operand(Device device, int64_t rows, int64_t cols, int64_t gap)
      : host_(Device::kCpu, DTypeOf<T>::kValue, {rows, cols + gap}), cols_(cols) {
    if (host_.allocated_bytes() > 0)
      std::memset(host_.view().data(), 0xab, static_cast<size_t>(host_.allocated_bytes()));
    if (device != Device::kCpu) there_ = Tensor(device, DTypeOf<T>::kValue, {rows, cols + gap});
  }
  View view() {
    if (!there_) return host_.view().prefix(1, cols_);
    if (written_) copy(there_, host_);
    written_ = false;
    return there_.view().prefix(1, cols_);
  }
  void fetch() {
    if (there_) copy(host_, there_);
  }
  T& operator[](int64_t i) {
    written_ = true;
    return at(i);
  }
  void fill(int rank) {
    for (int64_t i = 0; i < rows() * cols_; ++i) (*this)[i] = value<T>(rank, i);
  }
  bool holds(int64_t i, T wanted) { return std::memcmp(&at(i), &wanted, sizeof(T)) == 0; }
  bool gaps_intact() {
    const auto* bytes = host_.view().data();
    const int64_t pitch = host_.view().dim(1) * static_cast<int64_t>(sizeof(T));
    const int64_t used = cols_ * static_cast<int64_t>(sizeof(T));
    for (int64_t b = 0; b < host_.allocated_bytes(); ++b)
      if (b % pitch >= used && bytes[b] != std::byte{0xab}) return false;
    return true;
  }

 private:
  int64_t rows() { return host_.view().dim(0); }
  T& at(int64_t i) { return host_.template ptr<T>()[i / cols_ * host_.view().dim(1) + i % cols_]; }

  Tensor host_, there_;
  int64_t cols_;
  bool written_ = true;
};

// The reduction in rank order, as the contract states it.
template <class T>
T reduced(int ranks, int64_t i, Reduce op) {
  using Sum = std::conditional_t<std::is_same_v<T, bf16>, float, T>;
  auto sum = static_cast<Sum>(value<T>(0, i));
  for (int r = 1; r < ranks; ++r) {
    const auto x = static_cast<Sum>(value<T>(r, i));
    sum = op == Reduce::kMax ? std::max(sum, x) : static_cast<Sum>(sum + x);
  }
  if (op == Reduce::kMean) sum = static_cast<Sum>(sum / static_cast<Sum>(ranks));
  return static_cast<T>(sum);
}

}  // namespace nestling::testing
