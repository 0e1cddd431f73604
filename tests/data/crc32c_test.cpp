// CRC-32C: the vectors of RFC 3720, appendix B.4, and that parts join.
#include "data/crc32c.h"

#include <gtest/gtest.h>

namespace nestling {
namespace {

TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(crc32c(std::string(rising.rbegin(), rising.rend())), 0x113fdb5cu);
  EXPECT_EQ(crc32c_hex(0x0a9136aau), "0a9136aa");
}

// Bit by bit, as the polynomial says.
uint32_t slow_crc(std::string_view text) {
  uint32_t crc = 0xffffffffu;
  for (char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) ? 0x82f63b78u : 0u);
  }
  return crc ^ 0xffffffffu;
}

TEST(Crc32c, EveryLengthAndEveryCut) {
  std::string text;
  for (int i = 0; i < 70; ++i) {
    const uint32_t want = slow_crc(text);
    ASSERT_EQ(crc32c(text), want);
    const std::string_view view = text;
    for (size_t cut = 0; cut <= view.size(); ++cut)
      ASSERT_EQ(crc32c(view.substr(cut), crc32c(view.substr(0, cut))), want) << cut;
    text += static_cast<char>(i * 37 + 11);
  }
}

}  // namespace
}  // namespace nestling
