// stored_type.h - element types as safetensors files name them: a superset of what kernels compute
// on.
//
// The order is the official one, by rising alignment; its writer sorts tensors by it, descending.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/core/dtype.h"

namespace nestling {

enum class StoredType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

int stored_bits(StoredType type);          // per element; 4 and 6 are packed
const char* stored_name(StoredType type);  // "BF16"
std::optional<StoredType> parse_stored_type(std::string_view name);
std::optional<DType> kernel_type(StoredType type);  // none: kernels have no such type
StoredType stored_type(DType dtype);

}  // namespace nestling
