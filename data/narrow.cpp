#include "data/narrow.h"

#include <cstring>
#include <immintrin.h>

#include "kernels/core/check.h"

namespace nestling {

namespace {

template <class Fn>
void each(std::span<const float> values, std::vector<std::byte>& out, Fn convert) {
  using Item = decltype(convert(0.0f));
  out.resize(values.size() * sizeof(Item));
  for (size_t i = 0; i < values.size(); ++i) {
    const Item item = convert(values[i]);
    std::memcpy(out.data() + i * sizeof(Item), &item, sizeof(Item));
  }
}

}  // namespace

void narrow_from_float(StoredType type, std::span<const float> values,
                       std::vector<std::byte>& out) {
  switch (type) {
    case StoredType::kF32:
      return each(values, out, [](float x) { return x; });
    case StoredType::kBF16:
      return each(values, out, [](float x) { return bf16(x).bits; });
    case StoredType::kF16:
      return each(values, out, [](float x) { return static_cast<uint16_t>(_cvtss_sh(x, 0)); });
    default:
      throw Error(str("export as ", stored_name(type), ": needs BF16, F16 or F32"));
  }
}

}  // namespace nestling
