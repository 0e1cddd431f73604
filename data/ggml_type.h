// ggml_type.h - the element types of GGUF files that are written and read here: rows of numbers as
// their bytes, and back.
//
// F32, F16, BF16  as they are, rounded to nearest even.
// Q8_0          32 along a row to a block: an f16 scale, the largest size / 127, and 32 int8, value
//               / scale to nearest, halves away from zero.
// NVFP4         64 along a row: four scales of 16 each in E4M3, then 32 bytes of E2M1 codes; of the
//               16 of a scale byte j holds code j in its lower half and code j + 8 in its upper
//               one. The scale of the tensor stands beside it.
// Back          exact: every number that these bytes stand for is an f32 (an f16 times an int8 has 19
//               bits).
// Source        ggml: ggml-common.h (blocks), ggml.h (numbers of the types).
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nestling {

enum class GgmlType : uint32_t { kF32 = 0, kF16 = 1, kQ8 = 8, kBF16 = 30, kNvfp4 = 40 };

struct GgmlBlock {
  int64_t elements, bytes;  // rows are whole blocks
};
GgmlBlock ggml_block(GgmlType type);
const char* ggml_type_name(GgmlType type);  // "Q8_0"
// By ggml's number; none: not one of these. Its name, of every type that ggml has: "Q4_K".
std::optional<GgmlType> ggml_type(uint32_t number);
std::string ggml_type_label(uint32_t number);
// Of a tensor of this shape, outermost first; none: a row is no whole blocks, or beyond int64.
std::optional<int64_t> ggml_bytes(GgmlType type, std::span<const int64_t> shape);

// out: the bytes of the row, resized. Throws for NVFP4, and where the row is no whole blocks.
void encode_ggml_row(GgmlType type, std::span<const float> row, std::vector<std::byte>& out);
// The way back: `bytes` are those of a row of out.size() numbers. Throws for NVFP4.
void decode_ggml_row(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);
// The same codes and scales of blocks in NVFP4's order here. `codes`: two a byte, the even one in
// the lower half (kernels/core/nvfp4.h); `block_scales`: E4M3, none below zero.
void repack_nvfp4_row(std::span<const std::byte> codes, std::span<const std::byte> block_scales,
                      std::vector<std::byte>& out);
// The way back. `codes` and `block_scales`: two codes a byte and 16 codes a scale.
void unpack_nvfp4_row(std::span<const std::byte> bytes, std::span<std::byte> codes,
                      std::span<std::byte> block_scales);

}  // namespace nestling
