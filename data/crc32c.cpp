#include "data/crc32c.h"

#include <cstring>
#include <nmmintrin.h>

namespace nestling {

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  uint64_t crc = before ^ 0xffffffffu;
  const std::byte* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, sizeof(word));
    crc = _mm_crc32_u64(crc, word);
  }
  auto low = static_cast<uint32_t>(crc);
  for (; left > 0; --left, ++p) low = _mm_crc32_u8(low, static_cast<uint8_t>(*p));
  return low ^ 0xffffffffu;
}

std::string crc32c_hex(uint32_t crc) {
  std::string out;
  for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[(crc >> shift) & 15u];
  return out;
}

}  // namespace nestling
