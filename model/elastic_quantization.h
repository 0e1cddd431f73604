// elastic_quantization.h - what an elastic file holds of quantized parameters, and of every parameter which datasets;
// used by elastic_file alone.
//
// Format        docs/elastic-file.md: group /quantization, in which each quantized parameter is a group of its own.
// Errors        of a file: kInput naming it and the dataset.
#pragma once
#include "data/hdf5_file.h"
#include "data/hdf5_writer.h"
#include "model/elastic_layout.h"
#include "model/elastic_model.h"
#include "model/quantization.h"

namespace nestling {

// A dataset of a parameter that every size is a prefix of: its values, its codes, or the scales of its blocks.
struct WeightPart {
  std::string dataset;
  DType type;          // as stored
  int64_t packed = 1;  // values along the last dimension to an element

  // Of a parameter of these extents.
  Shape shape(Shape extents) const {
    extents.back() /= packed;
    return extents;
  }
};
// Without a format the values; else the codes, and of NVFP4 the scales of the blocks.
std::vector<WeightPart> weight_parts(const ParameterSpec& spec, StoredType precision,
                                     std::optional<WeightFormat> format);

// That of a parameter of the list; none where it stays as it is.
std::optional<WeightFormat> format_of(const std::optional<Quantization>& q, int64_t i);

// Whether what is to be written can be read again, in every size.
void check_elastic_quantization(const ElasticModel& model, const Quantization& q,
                                const std::string& where);
// Throws kInput where a size or a choice of the router cuts a block of NVFP4.
void check_quantizable(const ElasticModel& model, WeightFormat format, const std::string& where);

// The format and all scales of tensors: not codes, nor scales of blocks.
void write_elastic_quantization(Hdf5Writer& out, const std::vector<ParameterSpec>& specs,
                                const Quantization& q);
// Of the parameters of a size: the parent's scales, of every expert. None where nothing of the file is quantized.
std::optional<Quantization> read_elastic_quantization(Hdf5File& in, const ModelConfig& config,
                                                      const std::vector<SizedParameter>& sized);

}  // namespace nestling
