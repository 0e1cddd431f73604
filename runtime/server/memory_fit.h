// memory_fit.h - which size, precision and context of a model a server takes for a memory, and what that costs in
// quality (`serve --fit`). No weights are read.
//
// Order         the largest size first, then the more exact precision, then the longest context: the first way whose
//               shortest context fits, with the longest that does. Size and precision are never given up for context.
// Bytes         counted (runtime/counted_model.h): weights, or while they are opened those and what lies beside them; else
//               weights, caches of all sequences, the newest hidden states and logits, and the largest of a forward over a
//               context's tokens and a step. What it does not count is on top of it.
// Quality       as the file says it was measured (docs/elastic-file.md); nothing is measured here.
// Errors        kInput: no memory is read from a text; nothing fits, naming what takes least.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/counted_model.h"

namespace nestling {

// "16GiB", "512MiB", "8e9": bytes. KiB, MiB, GiB, TiB are powers of 1024, kB, MB, GB, TB of 1000.
int64_t parse_memory(const std::string& text);

struct ServingBytes {
  int64_t weights = 0, caches = 0;  // caches: hidden states and logits with them
  int64_t working = 0;              // activations and scratch at the most
  int64_t opening = 0;              // beside weights while they are read
  int64_t total() const { return weights + std::max(caches + working, opening); }
};

// A size in a precision.
struct ServingWay {
  std::string name;  // "medium in bf16"
  std::function<ServingBytes(int64_t context)> bytes;
};
struct ContextRange {
  int64_t least = 0, longest = 0;
};
struct ChosenWay {
  size_t way = 0;
  int64_t context = 0;
};
// Of ways, best first. None: no way fits.
std::optional<ChosenWay> choose_way(std::span<const ServingWay> ways, ContextRange context,
                                    int64_t memory);

struct MemoryFitOptions {
  int64_t memory = 0;
  std::string size = {};              // alone, by name or budget; empty: any
  std::vector<Precision> precisions;  // most exact first
  ContextRange context;               // equal: held to
  int64_t parallel = 1;
  Device device = Device::kCpu;
  Context* real = nullptr;  // on that device
};

struct MemoryFit {
  std::string size;
  Precision precision = DType::kF32;
  int64_t context = 0;
  ServingBytes bytes;
  std::string text;  // what was chosen, passed over, and lost; lines
};
MemoryFit fit_memory(const std::filesystem::path& path, const MemoryFitOptions& options);

}  // namespace nestling
