#include "data/stored_type.h"

#include <iterator>

#include "kernels/core/check.h"

namespace nestling {
namespace {

struct Row {
  StoredType type;
  const char* name;
  int bits;
  std::optional<DType> dtype;
};

constexpr Row kRows[] = {
    {StoredType::kBool, "BOOL", 8, DType::kBool},
    {StoredType::kF4, "F4", 4, {}},
    {StoredType::kF6E2M3, "F6_E2M3", 6, {}},
    {StoredType::kF6E3M2, "F6_E3M2", 6, {}},
    {StoredType::kU8, "U8", 8, DType::kU8},
    {StoredType::kI8, "I8", 8, {}},
    {StoredType::kF8E5M2, "F8_E5M2", 8, {}},
    {StoredType::kF8E4M3, "F8_E4M3", 8, DType::kF8E4M3},
    {StoredType::kF8E8M0, "F8_E8M0", 8, {}},
    {StoredType::kF8E4M3FNUZ, "F8_E4M3FNUZ", 8, {}},
    {StoredType::kF8E5M2FNUZ, "F8_E5M2FNUZ", 8, {}},
    {StoredType::kI16, "I16", 16, {}},
    {StoredType::kU16, "U16", 16, {}},
    {StoredType::kF16, "F16", 16, DType::kF16},
    {StoredType::kBF16, "BF16", 16, DType::kBF16},
    {StoredType::kI32, "I32", 32, DType::kI32},
    {StoredType::kU32, "U32", 32, {}},
    {StoredType::kF32, "F32", 32, DType::kF32},
    {StoredType::kC64, "C64", 64, {}},
    {StoredType::kF64, "F64", 64, DType::kF64},
    {StoredType::kI64, "I64", 64, DType::kI64},
    {StoredType::kU64, "U64", 64, {}},
};

const Row& row(StoredType type) {
  const auto at = static_cast<size_t>(type);
  NESTLING_ASSERT(at < std::size(kRows) && kRows[at].type == type);
  return kRows[at];
}

}  // namespace

int stored_bits(StoredType type) {
  return row(type).bits;
}
const char* stored_name(StoredType type) {
  return row(type).name;
}
std::optional<DType> kernel_type(StoredType type) {
  return row(type).dtype;
}

std::optional<StoredType> parse_stored_type(std::string_view name) {
  for (const Row& r : kRows)
    if (name == r.name) return r.type;
  return std::nullopt;
}

StoredType stored_type(DType dtype) {
  for (const Row& r : kRows)
    if (r.dtype == dtype) return r.type;
  throw Error(str("safetensors has no type for ", dtype_name(dtype)));
}

}  // namespace nestling
