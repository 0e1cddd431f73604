#include "data/ggml_blocks.h"

#include <cstring>
#include <immintrin.h>

namespace nestling {

namespace {

constexpr int kSmall = 32, kLarge = 256;  // numbers to a block

// Two codes of 4 bits a byte: those of the first half of a run in the lower halves.
int lower_half(uint8_t byte) {
  return byte & 0xf;
}
int upper_half(uint8_t byte) {
  return byte >> 4;
}
float half(uint16_t bits) {
  return _cvtsh_ss(bits);
}

// The layouts, as they lie in a file.
struct BlockQ40 {
  uint16_t d;
  uint8_t codes[16];
};
struct BlockQ41 {
  uint16_t d, m;
  uint8_t codes[16];
};
struct BlockQ50 {
  uint16_t d;
  uint8_t fifth[4];  // bit i of all of them: the highest of code i
  uint8_t codes[16];
};
struct BlockQ51 {
  uint16_t d, m;
  uint8_t fifth[4];
  uint8_t codes[16];
};
struct BlockQ80 {
  uint16_t d;
  int8_t codes[32];
};
struct BlockQ2K {
  uint8_t scales[16];  // the least in the upper half
  uint8_t codes[64];
  uint16_t d, e;
};
struct BlockQ3K {
  uint8_t third[32];
  uint8_t codes[64];
  uint8_t scales[12];
  uint16_t d;
};
struct BlockQ4K {
  uint16_t d, e;
  uint8_t scales[12];
  uint8_t codes[128];
};
struct BlockQ5K {
  uint16_t d, e;
  uint8_t scales[12];
  uint8_t fifth[32];
  uint8_t codes[128];
};
struct BlockQ6K {
  uint8_t codes[128];
  uint8_t upper[64];  // bits 4 and 5
  int8_t scales[16];
  uint16_t d;
};
struct BlockIq4Nl {
  uint16_t d;
  uint8_t codes[16];
};
struct BlockIq4Xs {
  uint16_t d;
  uint16_t upper_scales;  // bits 4 and 5, two a scale
  uint8_t scales[4];
  uint8_t codes[128];
};

constexpr float kSpaced[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};

// Codes of 4 bits of a run of 32.
int code4(const uint8_t* codes, int i) {
  return i < 16 ? lower_half(codes[i]) : upper_half(codes[i - 16]);
}
int code5(const uint8_t* codes, const uint8_t* fifth, int i) {
  return code4(codes, i) | (fifth[i / 8] >> i % 8 & 1) << 4;
}

void decode(const BlockQ40& b, float* out) {
  for (int i = 0; i < kSmall; ++i) out[i] = half(b.d) * static_cast<float>(code4(b.codes, i) - 8);
}
void decode(const BlockQ41& b, float* out) {
  for (int i = 0; i < kSmall; ++i)
    out[i] = half(b.d) * static_cast<float>(code4(b.codes, i)) + half(b.m);
}
void decode(const BlockQ50& b, float* out) {
  for (int i = 0; i < kSmall; ++i)
    out[i] = half(b.d) * static_cast<float>(code5(b.codes, b.fifth, i) - 16);
}
void decode(const BlockQ51& b, float* out) {
  for (int i = 0; i < kSmall; ++i)
    out[i] = half(b.d) * static_cast<float>(code5(b.codes, b.fifth, i)) + half(b.m);
}
void decode(const BlockQ80& b, float* out) {
  for (int i = 0; i < kSmall; ++i) out[i] = half(b.d) * static_cast<float>(b.codes[i]);
}

// Of Q2_K, Q3_K and of the upper bits of Q6_K: four codes of 2 bits a byte, 32 apart.
int code2(const uint8_t* codes, int i) {
  return codes[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

void decode(const BlockQ2K& b, float* out) {
  for (int i = 0; i < kLarge; ++i) {
    const uint8_t scale = b.scales[i / 16];
    const float step = half(b.d) * static_cast<float>(lower_half(scale));
    const float least = half(b.e) * static_cast<float>(upper_half(scale));
    out[i] = step * static_cast<float>(code2(b.codes, i)) - least;
  }
}

// Scale s of 16: 4 bits in the halves of the first eight bytes, 2 in the four after them.
int scale_q3k(const uint8_t* scales, int s) {
  const int lower = s < 8 ? lower_half(scales[s]) : upper_half(scales[s - 8]);
  return (lower | (scales[8 + s % 4] >> s / 4 * 2 & 3) << 4) - 32;
}
void decode(const BlockQ3K& b, float* out) {
  for (int i = 0; i < kLarge; ++i) {
    const float step = half(b.d) * static_cast<float>(scale_q3k(b.scales, i / 16));
    const int third = b.third[i % 32] >> i / 32 & 1;
    out[i] = step * static_cast<float>((code2(b.codes, i) | third << 2) - 4);
  }
}

// Of 32: the scale and the least s of eight. The first four lie in 6 bits of a byte each; of the
// others 4 bits share a byte, and 2 are in the bytes of the first four.
struct ScaleAndLeast {
  int scale, least;
};
ScaleAndLeast scale_and_least(const uint8_t* scales, int s) {
  if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
  return {lower_half(scales[s + 4]) | scales[s - 4] >> 6 << 4,
          upper_half(scales[s + 4]) | scales[s] >> 6 << 4};
}
// Codes of 4 bits, 64 to 32 bytes.
int code4_of_64(const uint8_t* codes, int i) {
  const uint8_t byte = codes[i / 64 * 32 + i % 32];
  return i % 64 < 32 ? lower_half(byte) : upper_half(byte);
}
template <class Block, class Code>
void decode_with_leasts(const Block& b, const Code& code, float* out) {
  for (int s = 0; s < kLarge / 32; ++s) {
    const ScaleAndLeast of = scale_and_least(b.scales, s);
    const float step = half(b.d) * static_cast<float>(of.scale);
    const float least = half(b.e) * static_cast<float>(of.least);
    for (int i = 32 * s; i < 32 * (s + 1); ++i) out[i] = step * static_cast<float>(code(i)) - least;
  }
}
void decode(const BlockQ4K& b, float* out) {
  decode_with_leasts(
      b, [&](int i) { return code4_of_64(b.codes, i); }, out);
}
void decode(const BlockQ5K& b, float* out) {
  decode_with_leasts(
      b, [&](int i) { return code4_of_64(b.codes, i) | (b.fifth[i % 32] >> i / 32 & 1) << 4; },
      out);
}

void decode(const BlockQ6K& b, float* out) {
  for (int i = 0; i < kLarge; ++i) {
    const uint8_t byte = b.codes[i / 128 * 64 + i % 64];  // 128 codes to 64 bytes
    const int lower = i % 128 < 64 ? lower_half(byte) : upper_half(byte);
    const int8_t scale = b.scales[i / 16];
    const float step = half(b.d) * static_cast<float>(scale);
    out[i] = step * static_cast<float>((lower | code2(b.upper, i) << 4) - 32);
  }
}

void decode(const BlockIq4Nl& b, float* out) {
  for (int i = 0; i < kSmall; ++i) out[i] = half(b.d) * kSpaced[code4(b.codes, i)];
}
void decode(const BlockIq4Xs& b, float* out) {
  for (int s = 0; s < kLarge / 32; ++s) {
    const uint8_t pair = b.scales[s / 2];
    const int lower = s % 2 == 0 ? lower_half(pair) : upper_half(pair);
    const int scale = (lower | (b.upper_scales >> 2 * s & 3) << 4) - 32;
    const float step = half(b.d) * static_cast<float>(scale);
    for (int i = 0; i < 32; ++i) out[32 * s + i] = step * kSpaced[code4(b.codes + 16 * s, i)];
  }
}

template <class Block>
constexpr GgmlBlocks blocks_of(GgmlType type, int elements) {
  return {.type = type,
          .block = {elements, sizeof(Block)},
          .decode = [](const std::byte* bytes, float* out) {
            Block block;
            std::memcpy(&block, bytes, sizeof block);
            decode(block, out);
          }};
}

constexpr GgmlBlocks kBlocks[] = {
    blocks_of<BlockQ40>(GgmlType::kQ40, kSmall),
    blocks_of<BlockQ41>(GgmlType::kQ41, kSmall),
    blocks_of<BlockQ50>(GgmlType::kQ50, kSmall),
    blocks_of<BlockQ51>(GgmlType::kQ51, kSmall),
    blocks_of<BlockQ80>(GgmlType::kQ8, kSmall),
    blocks_of<BlockQ2K>(GgmlType::kQ2K, kLarge),
    blocks_of<BlockQ3K>(GgmlType::kQ3K, kLarge),
    blocks_of<BlockQ4K>(GgmlType::kQ4K, kLarge),
    blocks_of<BlockQ5K>(GgmlType::kQ5K, kLarge),
    blocks_of<BlockQ6K>(GgmlType::kQ6K, kLarge),
    blocks_of<BlockIq4Nl>(GgmlType::kIq4Nl, kSmall),
    blocks_of<BlockIq4Xs>(GgmlType::kIq4Xs, kLarge),
};

}  // namespace

const GgmlBlocks* ggml_blocks(GgmlType type) {
  for (const GgmlBlocks& b : kBlocks)
    if (b.type == type) return &b;
  return nullptr;
}

std::span<const GgmlBlocks> all_ggml_blocks() {
  return kBlocks;
}

}  // namespace nestling
