// widen.h - stored numbers as float32: exact, every value of BF16, F16 and F8_E4M3 is one.
//
// Input may be unaligned. F8_E4M3 is the OCP form: no infinities, S.1111.111 is NaN.
#pragma once
#include <cstddef>
#include <span>

#include "data/stored_type.h"

namespace nestling {

bool widens_to_float(StoredType type);
// out [bytes.size() / element bytes]. Throws unless widens_to_float(type).
void widen_to_float(StoredType type, std::span<const std::byte> bytes, float* out);

}  // namespace nestling
