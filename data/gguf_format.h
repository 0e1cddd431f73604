// gguf_format.h - what the writer and the reader of GGUF files share: the numbers of the format,
// and the names of keys that both sides of a tokenizer use.
//
// Source        ggml/docs/gguf.md; ggml/include/gguf.h.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nestling {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint32_t kGgufVersion = 3;    // 2 is the same for what is little-endian
inline constexpr int64_t kGgufAlignment = 32;  // where no key says another
inline constexpr size_t kMostGgufDimensions = 4;
inline constexpr size_t kLongestGgufTensorName = 63;  // bytes
inline constexpr size_t kLongestGgufKey = 65535;

// Types of values, as the format numbers them.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12
};

// Types of tokens, as the format numbers them.
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

namespace gguf_key {
inline constexpr const char* kArchitecture = "general.architecture";
inline constexpr const char* kTokenizerModel = "tokenizer.ggml.model";
inline constexpr const char* kTokenizerPre = "tokenizer.ggml.pre";
inline constexpr const char* kTokens = "tokenizer.ggml.tokens";
inline constexpr const char* kTokenTypes = "tokenizer.ggml.token_type";
inline constexpr const char* kMerges = "tokenizer.ggml.merges";
inline constexpr const char* kBos = "tokenizer.ggml.bos_token_id";
inline constexpr const char* kPadding = "tokenizer.ggml.padding_token_id";
inline constexpr const char* kUnknown = "tokenizer.ggml.unknown_token_id";
// The end of a text, of a turn, of a message.
inline constexpr const char* kEnds[] = {
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
inline constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
inline constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
inline constexpr const char* kChatTemplate = "tokenizer.chat_template";
}  // namespace gguf_key

}  // namespace nestling
