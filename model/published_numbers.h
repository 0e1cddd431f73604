// published_numbers.h - parameters read out of the tensors of a Hugging Face directory, one at a time.
//
// Values        BF16, F16 or F32 as f32, in memory order (slot-major). Codes are not read here
//               (model/huggingface_codes.h).
// Memory        rows are converted one by one: nothing larger than a row is held beside `out`.
// Errors        kInput naming file and tensor: missing, of another shape or type, or not finite.
// Threads       one at a time on one PublishedTensors.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/stored_type.h"
#include "model/elastic_file.h"
#include "model/published_tensors.h"
#include "model/quantization.h"

namespace nestling {

// Fills out [spec.size()]. fn(published name, its type) of every tensor read.
void read_numbers(PublishedTensors& tensors, const ParameterSpec& spec, float* out,
                  const std::function<void(const std::string&, StoredType)>& fn = {});

// The parameters of the list one after another, for write_elastic(): with `order` their units in that order. Borrows all
// that it is given; the memory of one parameter is used for the next.
ParameterSource published_parameters(PublishedTensors& tensors, const ModelConfig& config,
                                     const Order* order = nullptr);

// The tensors of numbers whose values an elastic file of `type` may have to round, as they are stored: all others it
// keeps bit for bit. `q`: of the directory.
std::vector<const StoredTensor*> rounded_tensors(PublishedTensors& tensors,
                                                 const ModelConfig& config,
                                                 const std::optional<Quantization>& q,
                                                 StoredType type);

}  // namespace nestling
