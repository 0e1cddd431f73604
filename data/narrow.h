// narrow.h - float32 as stored numbers: F32, BF16 or F16, rounded to nearest even. The way back is
// widen.h.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "data/stored_type.h"

namespace nestling {

// out: values.size() elements, resized. Throws for any other type.
void narrow_from_float(StoredType type, std::span<const float> values, std::vector<std::byte>& out);

}  // namespace nestling
