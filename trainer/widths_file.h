// widths_file.h - the sizes of a model that is elastic already, as someone wrote them down (`nestling import
// --widths`); built as config.h says.
//
// Widths        75% of the parent's, or 48; an axis that a size does not name is the parent's. One width an axis, the
//               same in every layer that has it. The first size is the whole model.
// Nested        every size is a prefix of the one before it, on every axis, and leaves out the layers that one leaves
//               out.
// Errors        kInput with file and key, or file and size: what is no width of this architecture, a size that is no
//               prefix of the one before, or costs no less.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "model/elastic_model.h"
#include "trainer/config_value.h"

namespace nestling {

struct WrittenSize {
  std::string name;
  std::string hidden, mamba_heads, mamba_channels, state, query_heads, ffn, experts, expert_ffn,
      shared_ffn;         // empty: the parent's
  Texts layers_left_out;  // counted from 0
};

struct WidthsFile {
  std::vector<WrittenSize> sizes;
};

WidthsFile read_widths_file(const std::filesystem::path& file);
std::string widths_file_reference();  // docs/config-import.md

// The same of an architecture, each with its share of the parent's active parameters as its budget; `where` is the
// file.
std::vector<Size> sizes_of(const WidthsFile& file, const ModelConfig& config,
                           const std::string& where);

}  // namespace nestling
