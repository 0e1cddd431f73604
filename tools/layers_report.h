// layers_report.h - the steps that `bench layers` timed, as figures.
//
// Model FLOPs   forward_flops of model/cost.h a token: three times that of what is trained, once that of
//               a teacher. Recomputation and the chunked scan's extra work are not counted, so that
//               shares of a ceiling can be held against published ones.
// Parts         the spans of a step: median, least and most of the steps; `rest` is what no span holds.
// Projection    to the 52 layers of the published model, step by step: time of a layer type times how
//               often the published pattern has it over how often this one has, what goes through all
//               parameters by their number, the rest as it is. The error bar is the least and the most
//               of the steps. One device is taken to hold it all: nothing is communicated. Of models
//               with all three layer types only.
// Slices        time over the share of FLOPs, both of slice/full: of the step, and without the optimizer, the norm and
//               the zeroing of gradients, which go through all parameters whatever the size.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/core/memory_table.h"
#include "model/config.h"
#include "model/widths.h"
#include "tools/span_timer.h"

namespace nestling {

struct TimedStep {
  double seconds = 0;  // from the host's call until the device has done all of it
  SpanCosts parts;
  Work work;  // of all operators
  double loss = 0;
  double imbalance = 0;  // largest load of an expert over the mean load, worst layer
};

struct LayersVariant {
  std::string name;
  Widths widths;                       // of what is trained
  bool teacher = false;                // a forward of the whole model beside it
  std::vector<MemoryPool> pools = {};  // as allocated
  std::vector<TimedStep> steps = {};
};

// What shares are of, FLOP/s; 0: not known.
struct Ceilings {
  double measured = 0, published = 0;
};

nlohmann::ordered_json pools_json(const std::vector<MemoryPool>& pools);
// Appends a variant to those measured before it. A slice after slice/full is held against that.
void add_variant(nlohmann::ordered_json& all, const ModelConfig& model, int64_t tokens,
                 int64_t seq_len, const Ceilings& ceilings, const LayersVariant& variant);
std::string variant_text(const nlohmann::ordered_json& variant);  // one of them

}  // namespace nestling
