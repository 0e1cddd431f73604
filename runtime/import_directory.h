// import_directory.h - a Hugging Face directory whose weights are in importance order already, as an elastic file with
// the sizes that someone knows of it. No training, no data.
//
// Order         the units of every axis stay in the order of the directory: place i of the published axis is place i of
//               the file's within its group (Mamba heads and SSM state of a B/C group, query heads of a KV head), so a
//               size has the first units of every group. /elastic/order is the identity; its depth has the layers that
//               more sizes keep first.
// Router        none, and no scores: sizes are asked for by name.
// Values        those of the directory, bit for bit; FP8 and NVFP4 codes as codes. Without `precision` a directory of
//               which a BF16 file would round a tensor is refused; with kBF16 it is rounded to nearest even.
// Memory        of numbers, one parameter in f32 at a time (the largest: the embedding, or a layer's experts stacked).
//               A directory of codes is read whole: its codes, and 4 bytes for every parameter that is none.
// Atomic        the file is whole or absent.
// Errors        kInput: what model/huggingface.h refuses, sizes that do not fit the architecture or cut a block of
//               NVFP4.
// Determinism   same directory, sizes and precision: the same bytes.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/stored_type.h"
#include "model/elastic_model.h"

namespace nestling {

struct ImportOptions {
  std::vector<Size> sizes;  // largest first
  // kBF16 or kF32; none: BF16, where that rounds nothing.
  std::optional<StoredType> precision = {};
  std::map<std::string, std::string> provenance = {};  // beside what the directory says of itself
  std::function<void(int64_t done, int64_t all)> progress = {};  // parameters written
};
// The names of tensors whose values were rounded.
std::vector<std::string> import_directory(const std::filesystem::path& directory,
                                          const std::filesystem::path& file,
                                          const ImportOptions& options);

}  // namespace nestling
