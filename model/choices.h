// choices.h - the widths each axis may take, and what a choice on every axis makes of the model.
//
// Order         widths fall; index 0 is the parent's. A list for the whole model holds in every layer
//               that has the axis; a list of one layer holds there alone.
// Depth         a width of kLayers is how many layers stay: the first of `layer_order`, which lists the
//               most important first.
// Errors        make_space throws kInput naming axis, width and the nearest good one.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "model/widths.h"

namespace nestling {

struct AxisChoices {
  Axis axis;
  int64_t layer = -1;           // -1: every layer that has the axis
  std::vector<int64_t> widths;  // falling; widths[0] is the parent's
};

struct ElasticSpace {
  ModelConfig config;
  std::vector<AxisChoices> axes;     // those with more than one choice
  std::vector<int64_t> layer_order;  // every layer, most important first; needed with kLayers
};

// One width as written in a config: "75%" of the parent, or "48".
struct WrittenWidth {
  double value = 0;
  bool percent = false;
};
std::optional<WrittenWidth> read_width(const std::string& text);
WrittenWidth parse_width(const std::string& text, const std::string& where);  // throws kInput

// The width that is written of an axis; kInput, beginning with `where`, where that does not fit the parent or no layer
// has the axis. Steps as in make_space with multiple_of kBlock.
int64_t resolve_width(const ModelConfig& config, Axis axis, const WrittenWidth& written,
                      const std::string& where);

struct WrittenChoices {
  Axis axis;
  int64_t layer = -1;
  std::vector<WrittenWidth> widths;
};

// Checks the lists against the architecture. `multiple_of` holds for the axes products contract
// (hidden, mamba_channels, state, ffn, expert_ffn, shared_ffn) and is kBlock or a multiple of it. A
// parent's width that is no multiple of kBlock may be cut anywhere; there, and in one that is less than
// `multiple_of`, more than kBlock is refused.
ElasticSpace make_space(const ModelConfig& config, const std::vector<WrittenChoices>& written,
                        int64_t multiple_of, const std::vector<int64_t>& layer_order);

// A choice on every axis of the space, as indices into their lists.
using Selection = std::vector<int64_t>;
Widths widths_of(const ElasticSpace& space, const Selection& selection);

// Why a size could not be cut out as a published directory (published_names.h), of the first combination of
// widths, alike in all layers, of which that is so; empty: of none.
std::string unpublished_widths(const ElasticSpace& space);

// Probabilities of the choices, one vector an axis, each summing to 1: the expected widths, and the
// gradient of the probabilities from that of the widths (accumulated).
using Probabilities = std::vector<std::vector<double>>;
ExpectedWidths expected_widths(const ElasticSpace& space, const Probabilities& p);
void expected_widths_backward(const ElasticSpace& space, const ExpectedWidths& gradient,
                              Probabilities& dp);
Probabilities one_hot(const ElasticSpace& space, const Selection& selection);

}  // namespace nestling
