// ggml_type.h - the element types of GGUF files that are written and read here: rows of numbers as
// their bytes, and back.
//
// F32, F16, BF16  as they are, rounded to nearest even.
// Q8_0          32 along a row to a block: an f16 scale, the largest size / 127, and 32 int8, value
//               / scale to nearest, halves away from zero.
// NVFP4         64 along a row: four scales of 16 each in E4M3, then 32 bytes of E2M1 codes; of the
//               16 of a scale byte j holds code j in its lower half and code j + 8 in its upper
//               one. The scale of the tensor stands beside it.
// Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS
//               read alone (ggml_blocks.h).
// Back          every number that these bytes stand for is an f32, but of the types with a least in a
//               block, where it is the nearest one.
// Source        ggml: ggml-common.h (blocks), ggml.h (numbers of the types).
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nestling {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ40 = 2,
  kQ41 = 3,
  kQ50 = 6,
  kQ51 = 7,
  kQ8 = 8,  // Q8_0
  kQ2K = 10,
  kQ3K = 11,
  kQ4K = 12,
  kQ5K = 13,
  kQ6K = 14,
  kIq4Nl = 20,
  kIq4Xs = 23,
  kBF16 = 30,
  kNvfp4 = 40
};

struct GgmlBlock {
  int64_t elements, bytes;  // rows are whole blocks
};
GgmlBlock ggml_block(GgmlType type);
const char* ggml_type_name(GgmlType type);  // "Q8_0"
// By ggml's number; none: not one of these. Its name, of every type that ggml has: "TQ1_0".
std::optional<GgmlType> ggml_type(uint32_t number);
std::string ggml_type_label(uint32_t number);
std::string ggml_type_list();  // of these: "F32, F16, ... or NVFP4"
// Of a tensor of this shape, outermost first; none: a row is no whole blocks, or beyond int64.
std::optional<int64_t> ggml_bytes(GgmlType type, std::span<const int64_t> shape);

// out: the bytes of the row, resized. F32, F16, BF16, Q8_0; throws for others, and where the row is no
// whole blocks.
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
