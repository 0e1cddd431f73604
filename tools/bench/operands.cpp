#include "tools/bench/operands.h"

#include <algorithm>
#include <vector>

namespace nestling::bench {

namespace {

constexpr int64_t kPeriod = 4099;
constexpr int64_t kPiece = 1024 * kPeriod;  // elements copied at once: whole periods

void fill_host(View to, const std::vector<float>& period) {
  for (int64_t i = 0; i < to.size(); ++i) {
    const float x = period[static_cast<size_t>(i % kPeriod)];
    if (to.dtype() == DType::kBF16)
      to.ptr<bf16>()[i] = bf16(x);
    else
      to.ptr<float>()[i] = x;
  }
}

}  // namespace

Tensor random_tensor(Device device, DType dtype, std::initializer_list<int64_t> shape, Rng& rng,
                     float scale) {
  std::vector<float> period(kPeriod);
  for (float& x : period) x = scale * static_cast<float>(rng.normal());
  Tensor t(device, dtype, shape);
  if (device == Device::kCpu) {
    fill_host(t, period);
    return t;
  }
  const View all = t.view().reshape({t.size()});
  const int64_t first = std::min(t.size(), kPiece);
  Tensor piece(Device::kCpu, dtype, {first});
  fill_host(piece, period);
  copy(all.prefix(0, first), piece.view());
  for (int64_t at = first; at < t.size(); at += kPiece) {
    const int64_t n = std::min(kPiece, t.size() - at);
    copy(all.slice(0, at, n), all.prefix(0, n));
  }
  return t;
}

}  // namespace nestling::bench
