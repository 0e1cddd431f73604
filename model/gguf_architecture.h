// gguf_architecture.h - the architectures of GGUF files that are written and read here, one table
// each: keys, names of tensors, and what llama.cpp has no way to say.
//
// Keys          one list, gone through in two ways (gguf_key_list.h).
// Names         published tensors and llama.cpp's, with the form they are written in. A block of
//               GGUF is one residual layer of nemotron_h, and two of the others: mixer, feed-forward.
// Source        llama.cpp: src/models/{nemotron-h,llama,qwen3,qwen3moe,granite-hybrid}.cpp, src/llama-model.cpp,
//               conversion/{nemotron,llama,qwen,granite}.py.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "data/gguf_reader.h"
#include "data/gguf_writer.h"
#include "model/config.h"

namespace nestling {

// How a published tensor is written.
enum class GgufForm : uint8_t {
  kPlain,        // as it is: F32
  kProduct,      // as it is, in the type asked for
  kRotated,      // as kProduct, the rows of each head in pairs: i, i + h/2, i + 1, ...
  kConv,         // [C, 1, K] as [C, K]
  kNegativeExp,  // [H] as [H, 1], of x -exp(x)
  kColumn,       // [H] as [H, 1]
  kGroups,       // [I] as [groups, I / groups]
};

struct GgufName {
  const char* published;  // without the layer's beginning
  const char* gguf;
  GgufForm form;
  const char* part =
      nullptr;  // of the published tensor, where it is several of GGUF's: "gate", "up"
};

struct GgufArchitecture {
  const char* name;  // general.architecture
  Family family;
  LayerKind feeding;      // its feed-forward layers: kDense or kMoe
  const char* beginning;  // published, of a block's tensors, before its number
  std::span<const GgufName> model_names, layer_names;
  bool rope_factors = false;     // whether it may have kRopeFactors
  bool with_or_without = false;  // experts: the name says not
  // Throws kInput where llama.cpp does not run this one.
  void (*check)(const ModelConfig& config, const std::string& where);
  std::vector<GgufKey> (*write)(const ModelConfig& config);
  // Of the keys alone. Throws kInput where they ask for what is not done here.
  void (*read)(const GgufFile& file, ModelConfig& config);
};

extern const GgufArchitecture kGgufNemotron, kGgufNemotronMoe;        // gguf_nemotron.cpp
extern const GgufArchitecture kGgufLlama, kGgufQwen3, kGgufQwen3Moe;  // gguf_llama.cpp
extern const GgufArchitecture kGgufGranite, kGgufGraniteMoe;          // gguf_granite.cpp

// Of a model; kInput where llama.cpp has none.
const GgufArchitecture& gguf_architecture_of(const ModelConfig& config, const std::string& where);
// That of a file; kInput where it is none of these.
const GgufArchitecture& gguf_architecture_of(const GgufFile& file);

}  // namespace nestling
