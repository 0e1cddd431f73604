#include "data/utf8.h"

#include <gtest/gtest.h>
#include <optional>

#include "data/byte_level.h"
#include "data/normalizer.h"
#include "kernels/core/rng.h"

namespace nestling {
namespace {

constexpr size_t kNone = std::string_view::npos;
const std::string kBad = "\xEF\xBF\xBD";

TEST(Utf8, EveryCodePointRoundTripsAndSurrogatesAreInvalid) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string s;
    utf8_append(&s, c);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    ASSERT_EQ(find_invalid_utf8(s) == kNone, !surrogate) << uint32_t{c};
    if (surrogate) continue;
    ASSERT_EQ(utf8_step(s, 0).bytes, s.size());
    ASSERT_EQ(utf8_decode(s), c);
  }
}

// The definition, said another way: a sequence is valid if it decodes to a scalar value whose
// encoding it is.
bool valid_by_definition(std::string_view s) {
  for (size_t at = 0; at < s.size();) {
    const auto b = static_cast<uint8_t>(s[at]);
    const size_t n = b < 0x80 ? 1 : b >> 5 == 6 ? 2 : b >> 4 == 14 ? 3 : b >> 3 == 30 ? 4 : 0;
    if (n == 0 || at + n > s.size()) return false;
    for (size_t k = 1; k < n; ++k)
      if ((static_cast<uint8_t>(s[at + k]) & 0xC0) != 0x80) return false;
    const char32_t c = utf8_decode(s.substr(at, n));
    std::string again;
    utf8_append(&again, c);
    if (again != s.substr(at, n) || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return false;
    at += n;
  }
  return true;
}

TEST(Utf8, AgreesWithTheDefinitionOnRandomBytes) {
  Rng rng(3);
  const uint8_t edges[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2,
                           0xDF, 0xE0, 0xE1, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
  for (int trial = 0; trial < 200'000; ++trial) {
    std::string s(1 + rng.below(6), '\0');
    for (char& c : s) c = static_cast<char>(edges[rng.below(std::size(edges))]);
    ASSERT_EQ(find_invalid_utf8(s) == kNone, valid_by_definition(s));
    const std::string repaired = replace_invalid_utf8(s);
    ASSERT_TRUE(valid_by_definition(repaired));
    ASSERT_EQ(repaired == s, valid_by_definition(s));
  }
}

TEST(Utf8, ReplacesMaximalSubparts) {
  EXPECT_EQ(replace_invalid_utf8("a\xF0\x9F\x98z"), "a" + kBad + "z");  // one cut character
  EXPECT_EQ(replace_invalid_utf8("\xE0\x80\x80"), kBad + kBad + kBad);  // overlong
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), kBad + kBad + kBad);  // surrogate
  EXPECT_EQ(replace_invalid_utf8("\xF1\x80\x80\xE1\x80\xC2"
                                 "b\x80"),
            kBad + kBad + kBad + "b" + kBad);
  EXPECT_EQ(find_invalid_utf8("0123456789\xC3\xA9\xFF"), 12u);
}

TEST(Utf8, HoldsBackOnlyWhatMayBecomeACharacter) {
  EXPECT_EQ(incomplete_utf8_tail(""), 0u);
  EXPECT_EQ(incomplete_utf8_tail("a"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("a\xC3"), 1u);
  EXPECT_EQ(incomplete_utf8_tail("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(incomplete_utf8_tail("\xF0\x9F\x98\x80"), 0u);
  EXPECT_EQ(incomplete_utf8_tail("\xE0\x80"), 0u);  // no character begins so
  EXPECT_EQ(incomplete_utf8_tail("\x9F\x98"), 0u);
}

TEST(ByteLevel, IsABijectionOnBytes) {
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  EXPECT_EQ(from_byte_level(to_byte_level(all)), all);
  EXPECT_EQ(to_byte_level(" \n"), "\u0120\u010A");
  EXPECT_EQ(to_byte_level("\xAD"), "\u0143");  // the last of the 68 that move
  EXPECT_EQ(from_byte_level(" "), std::nullopt);
  EXPECT_EQ(from_byte_level("\u2581"), std::nullopt);
  EXPECT_EQ(from_byte_level("\u0144"), std::nullopt);
}

TEST(Normalizer, ComposesCanonically) {
  EXPECT_EQ(normalize_nfc("plain"), "plain");
  EXPECT_EQ(normalize_nfc("cafe\u0301"), "caf\u00e9");
  EXPECT_EQ(normalize_nfc("\u212b"), "\u00c5");
  EXPECT_EQ(normalize_nfc("\u1100\u1161\u11a8"), "\uac01");
  EXPECT_EQ(normalize_nfc("\u1e9b\u0323"), "\u1e9b\u0323");  // canonical only
  EXPECT_EQ(normalize_nfc(std::string_view("\u00e9\0x", 4)), std::string("\u00e9\0x", 4));
}

}  // namespace
}  // namespace nestling
