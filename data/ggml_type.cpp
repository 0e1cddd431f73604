#include "data/ggml_type.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <immintrin.h>

#include "data/ggml_blocks.h"
#include "data/narrow.h"
#include "data/widen.h"
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
    case GgmlType::kNvfp4:
      return {kNvfp4Blocks * kNvfp4Block, kNvfp4Blocks * (1 + kNvfp4Block / 2)};
    default:
      break;
  }
  const GgmlBlocks* blocks = ggml_blocks(type);
  NESTLING_CHECK(blocks != nullptr, "no GGUF type ", static_cast<uint32_t>(type));
  return blocks->block;
}

namespace {

constexpr const char* kNames[] = {
    "F32",     "F16",   "Q4_0",   "Q4_1",  nullptr, nullptr,  "Q5_0",  "Q5_1",    "Q8_0",
    "Q8_1",    "Q2_K",  "Q3_K",   "Q4_K",  "Q5_K",  "Q6_K",   "Q8_K",  "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",     "I32",
    "I64",     "F64",   "IQ1_M",  "BF16",  nullptr, nullptr,  nullptr, "TQ1_0",   "TQ2_0",
    nullptr,   nullptr, nullptr,  "MXFP4", "NVFP4", "Q1_0",   "Q2_0"};

// All types of this program, of plain numbers first.
std::vector<GgmlType> all_types() {
  std::vector<GgmlType> types = {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16};
  for (const GgmlBlocks& b : all_ggml_blocks()) types.push_back(b.type);
  types.push_back(GgmlType::kNvfp4);
  return types;
}

}  // namespace

const char* ggml_type_name(GgmlType type) {
  ggml_block(type);  // throws where there is none
  return kNames[static_cast<uint32_t>(type)];
}

std::optional<GgmlType> ggml_type(uint32_t number) {
  for (const GgmlType type : all_types())
    if (static_cast<uint32_t>(type) == number) return type;
  return {};
}

std::string ggml_type_label(uint32_t number) {
  const bool named = number < std::size(kNames) && kNames[number] != nullptr;
  return named ? kNames[number] : str("of type ", number, ", which ggml has not");
}

std::string ggml_type_list() {
  std::string list;
  const std::vector<GgmlType> types = all_types();
  for (size_t i = 0; i < types.size(); ++i)
    list += str(i == 0 ? "" : i + 1 < types.size() ? ", " : " or ", ggml_type_name(types[i]));
  return list;
}

std::optional<int64_t> ggml_bytes(GgmlType type, std::span<const int64_t> shape) {
  const GgmlBlock block = ggml_block(type);
  if (shape.empty() || shape.back() % block.elements != 0) return {};
  int64_t bytes = block.bytes;
  for (size_t d = 0; d < shape.size(); ++d) {
    const int64_t n = d + 1 < shape.size() ? shape[d] : shape[d] / block.elements;
    if (n <= 0 || __builtin_mul_overflow(bytes, n, &bytes)) return {};
  }
  return bytes;
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
    default:
      throw Error(str("numbers are not made ", ggml_type_name(type), " here"));
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

void decode_ggml_row(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  const int64_t count = std::ssize(out);
  const auto needed = ggml_bytes(type, std::span(&count, 1));
  NESTLING_CHECK(needed == std::ssize(bytes), "a row of ", count, " elements in ", bytes.size(),
                 " bytes of ", ggml_type_name(type));
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(out.data(), bytes.data(), bytes.size());
      return;
    case GgmlType::kF16:
      return widen_to_float(StoredType::kF16, bytes, out.data());
    case GgmlType::kBF16:
      return widen_to_float(StoredType::kBF16, bytes, out.data());
    case GgmlType::kNvfp4:
      throw Error("codes of NVFP4 are not made numbers here; they are unpacked");
    default:
      break;
  }
  const GgmlBlocks& blocks = *ggml_blocks(type);
  const auto [elements, size] = blocks.block;
  for (int64_t b = 0; b < count / elements; ++b)
    blocks.decode(bytes.data() + b * size, out.data() + b * elements);
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

void unpack_nvfp4_row(std::span<const std::byte> bytes, std::span<std::byte> codes,
                      std::span<std::byte> block_scales) {
  const auto [elements, size] = ggml_block(GgmlType::kNvfp4);
  constexpr int64_t kHalf = kNvfp4Block / 2;
  const auto count = std::ssize(bytes) / size;
  NESTLING_CHECK(count * size == std::ssize(bytes) && std::ssize(codes) * 2 == count * elements &&
                     std::ssize(block_scales) == count * kNvfp4Blocks,
                 bytes.size(), " bytes of NVFP4 for ", 2 * codes.size(), " codes and ",
                 block_scales.size(), " scales");
  for (int64_t b = 0; b < count; ++b) {
    const std::byte* from = bytes.data() + b * size;
    std::memcpy(block_scales.data() + b * kNvfp4Blocks, from, kNvfp4Blocks);
    for (int64_t s = 0; s < kNvfp4Blocks; ++s) {
      const std::byte* pairs = from + kNvfp4Blocks + s * kHalf;  // code j below code j + 8
      std::byte* to = codes.data() + (b * kNvfp4Blocks + s) * kHalf;
      for (int64_t j = 0; j < kHalf / 2; ++j) {
        const std::byte even = pairs[2 * j], odd = pairs[2 * j + 1];
        to[j] = (even & std::byte{0xf}) | odd << 4;
        to[j + kHalf / 2] = even >> 4 | (odd & std::byte{0xf0});
      }
    }
  }
}

}  // namespace nestling
