// export_gguf.h - one size of a model as a GGUF file, which llama.cpp runs. No training, no data.
//
// Sources       an elastic file and the name or budget of a size, or a Hugging Face directory or a
//               GGUF file, which have one.
// Writes        what llama.cpp asks of the architecture, weights and tokenizer (model/gguf.h,
//               runtime/gguf_tokenizer.h), the chat template, and where it comes from: general.*
//               keys, and nestling.* with this program's version.
// Precision     BF16 unless said; of an NVFP4 file its codes. llama.cpp has no FP8: an FP8 file,
//               and an NVFP4 one too, is written as numbers where a type of numbers is asked for.
// Notes         what was done that is not plain, and what llama.cpp will do otherwise; a line each.
// Memory        the weights of the size in f32, or as codes, and one tensor's numbers beside them;
//               a row at a time is written.
// Atomic        the file is whole or absent; one that is there is replaced. It may not be the
//               source.
// Errors        kInput: no such size, widths that differ between layers of one kind, codes asked of
//               a file that does not hold them, FP8 without a type asked for, and what llama.cpp
//               cannot run or hold.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/ggml_type.h"

namespace nestling {

struct GgufOptions {
  std::optional<GgmlType> type = {};  // none: as the file holds its weights
  bool tokenizer = true;              // false: a model of token ids
};
struct GgufExport {
  GgmlType type = GgmlType::kBF16;
  int64_t tensors = 0, bytes = 0;  // of the weights
  std::vector<std::string> notes;
};

// bf16, fp32, fp16, q8_0 or nvfp4. Throws kInput for another name.
GgmlType parse_gguf_precision(const std::string& name, const std::string& where);

GgufExport export_gguf(const std::filesystem::path& model, const std::string& size,
                       const std::filesystem::path& out, const GgufOptions& options);

}  // namespace nestling
