// gguf_writer.h - writing GGUF files, version 3: keys with their values, and tensors. Knows of no
// model.
//
// Layout        little-endian. "GGUF", u32 3, u64 tensors, u64 keys; of a key its name, u32 type,
//               value; of a tensor its name, u32 dimensions, u64 each of them (innermost first),
//               u32 type, u64 offset; a string is u64 bytes and then these. The data begins, and
//               each tensor of it, at a multiple of 32 bytes.
// Order         as given, so that the same input gives the same bytes.
// Memory        a tensor hands its bytes over in pieces when its turn comes (produced_bytes.h).
// Atomic        the file is whole or absent; nothing is left behind of one that fails.
// Errors        a name given twice or longer than its readers take (ggml: 63 bytes of a tensor's),
//               more than 4 dimensions or none, a row that is no whole blocks of its type, a
//               producer that gives too few or too many bytes: Error.
// Source        ggml/docs/gguf.md; ggml/src/gguf.cpp.
#pragma once
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include "data/ggml_type.h"
#include "data/produced_bytes.h"

namespace nestling {

using GgufValue = std::variant<uint32_t, float, bool, std::string, std::vector<int32_t>,
                               std::vector<std::string>>;
struct GgufKey {
  std::string name;
  GgufValue value;
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  // outermost first; the last is a row
  ByteProducer produce;
};
int64_t gguf_tensor_bytes(const GgufTensor& tensor);

void write_gguf(const std::filesystem::path& file, const std::vector<GgufKey>& keys,
                const std::vector<GgufTensor>& tensors);

}  // namespace nestling
