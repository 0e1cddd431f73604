// host_bytes.h - the bytes of a dense tensor as the host reads them: where they lie, or a copy of a device's, there when
// the constructor returns.
#pragma once
#include <span>

#include "kernels/core/host_view.h"

namespace nestling {

class HostBytes {
 public:
  explicit HostBytes(ConstView v)
      : copied_(v.device() == Device::kCpu ? Tensor() : on_host(v.reshape({v.size()}))),
        view_(copied_ ? ConstView(copied_.view()) : v) {}
  std::span<const std::byte> get() const {
    return {view_.data(), static_cast<size_t>(view_.bytes())};
  }

 private:
  Tensor copied_;
  ConstView view_;
};

}  // namespace nestling
