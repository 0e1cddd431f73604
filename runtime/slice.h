// slice.h - one size of an elastic file, by name or by budget, as a Hugging Face directory of its own. No training, no data.
//
// Writes        weights and config.json in the published layout, the tokenizer's files, generation
//               config and chat template as the file holds them, and README.md, the model card.
// Precision     kBF16 (rounded to nearest even where the file holds f32) or kF32. Of a quantized file its codes and
//               scales as they are (model/huggingface_codes.h), the rest as the file holds it.
// Atomic        the directory is whole or absent: it is made aside and renamed. One that is there must
//               be empty.
// Errors        kInput: no such size, a directory that holds something, widths that differ between
//               layers of one kind (a published config has one number for all), a quantized file asked for numbers,
//               or any asked for codes it does not hold.
#pragma once
#include <filesystem>
#include <string>

#include "data/stored_type.h"
#include "model/quantization.h"

namespace nestling {

void write_slice(const std::filesystem::path& elastic, const std::string& size,
                 const std::filesystem::path& directory, StoredType type);
void write_quantized_slice(const std::filesystem::path& elastic, const std::string& size,
                           const std::filesystem::path& directory, WeightFormat format);

}  // namespace nestling
