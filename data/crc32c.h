// crc32c.h - CRC-32C (Castagnoli, RFC 3720 appendix B.4; reflected polynomial 0x82F63B78).
//
// Finds every error of up to 3 flipped bits in 2^31 bits and every burst of up to 32 bits. One pass
// with the processor's crc32 instruction, 8 bytes at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nestling {

// `before`: the CRC of what came before, to go on from.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);
inline uint32_t crc32c(std::string_view text, uint32_t before = 0) {
  return crc32c(std::as_bytes(std::span(text)), before);
}
std::string crc32c_hex(uint32_t crc);  // 8 lower-case digits

}  // namespace nestling
