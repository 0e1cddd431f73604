// model_card.h - README.md of a size that was cut out: where it comes from and what it is.
#pragma once
#include <string>

#include "data/stored_type.h"
#include "model/elastic_model.h"

namespace nestling {

// `cut` is the config of the size alone, `stored_as` says in which types. What the file does not say is named as not
// stated.
std::string model_card(const ElasticModel& model, const Size& size, const ModelConfig& cut,
                       const std::string& stored_as);

// "hidden 96, mamba_heads 12, ...": the widths of a size, layers of a kind that differ as "16 to 32".
std::string widths_text(const ModelConfig& config, const Widths& widths);

}  // namespace nestling
