#include "data/ggml_type.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <immintrin.h>

#include "data/narrow.h"
#include "kernels/core/check.h"
#include "kernels/core/nvfp4.h"

namespace nestling {

namespace {

constexpr int64_t kQ8Block = 32;
constexpr int64_t kNvfp4Blocks = 4;  // to one of GGUF's

struct Q8Block {
  uint16_t scale;
  int8_t values[kQ8Block];
};
static_assert(sizeof(Q8Block) == 34);

Q8Block encode_q8(const float* x) {
  float largest = 0;
  for (int64_t i = 0; i < kQ8Block; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127;
  const float inverse = scale > 0 ? 1 / scale : 0;
  Q8Block block{.scale = static_cast<uint16_t>(_cvtss_sh(scale, 0)), .values = {}};
  for (int64_t i = 0; i < kQ8Block; ++i)
    block.values[i] = static_cast<int8_t>(std::round(x[i] * inverse));
  return block;
}

std::byte code_at(const std::byte* codes, int64_t i) {
  return i % 2 == 0 ? codes[i / 2] & std::byte{0xf} : codes[i / 2] >> 4;
}

}  // namespace

GgmlBlock ggml_block(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return {1, 4};
    case GgmlType::kF16:
    case GgmlType::kBF16:
      return {1, 2};
    case GgmlType::kQ8:
      return {kQ8Block, sizeof(Q8Block)};
    case GgmlType::kNvfp4:
      return {kNvfp4Blocks * kNvfp4Block, kNvfp4Blocks * (1 + kNvfp4Block / 2)};
  }
  throw Error(str("no GGUF type ", static_cast<uint32_t>(type)));
}

const char* ggml_type_name(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return "F32";
    case GgmlType::kF16:
      return "F16";
    case GgmlType::kBF16:
      return "BF16";
    case GgmlType::kQ8:
      return "Q8_0";
    case GgmlType::kNvfp4:
      return "NVFP4";
  }
  throw Error(str("no GGUF type ", static_cast<uint32_t>(type)));
}

void encode_ggml_row(GgmlType type, std::span<const float> row, std::vector<std::byte>& out) {
  switch (type) {
    case GgmlType::kF32:
      return narrow_from_float(StoredType::kF32, row, out);
    case GgmlType::kF16:
      return narrow_from_float(StoredType::kF16, row, out);
    case GgmlType::kBF16:
      return narrow_from_float(StoredType::kBF16, row, out);
    case GgmlType::kQ8:
      break;
    case GgmlType::kNvfp4:
      throw Error("numbers are not made NVFP4 here; codes are repacked");
  }
  const auto blocks = static_cast<int64_t>(row.size()) / kQ8Block;
  NESTLING_CHECK(blocks * kQ8Block == std::ssize(row), "a row of ", row.size(),
                 " elements is no whole blocks of ", kQ8Block);
  out.resize(static_cast<size_t>(blocks) * sizeof(Q8Block));
  for (int64_t b = 0; b < blocks; ++b) {
    const Q8Block block = encode_q8(row.data() + b * kQ8Block);
    std::memcpy(out.data() + b * static_cast<int64_t>(sizeof block), &block, sizeof block);
  }
}

void repack_nvfp4_row(std::span<const std::byte> codes, std::span<const std::byte> block_scales,
                      std::vector<std::byte>& out) {
  const auto [elements, bytes] = ggml_block(GgmlType::kNvfp4);
  constexpr int64_t kHalf = kNvfp4Block / 2;
  const auto count = std::ssize(codes) * 2 / elements;
  NESTLING_CHECK(count * elements == std::ssize(codes) * 2 &&
                     std::ssize(block_scales) * kNvfp4Block == count * elements,
                 "a row of ", 2 * codes.size(), " codes and ", block_scales.size(),
                 " scales is no whole blocks of ", elements);
  out.resize(static_cast<size_t>(count * bytes));
  for (int64_t b = 0; b < count; ++b) {
    std::byte* to = out.data() + b * bytes;
    std::memcpy(to, block_scales.data() + b * kNvfp4Blocks, kNvfp4Blocks);
    for (int64_t s = 0; s < kNvfp4Blocks; ++s) {
      const std::byte* from = codes.data() + (b * kNvfp4Blocks + s) * kHalf;
      for (int64_t j = 0; j < kHalf; ++j)
        to[kNvfp4Blocks + s * kHalf + j] = code_at(from, j) | code_at(from, j + kHalf) << 4;
    }
  }
}

}  // namespace nestling
