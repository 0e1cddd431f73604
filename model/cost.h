// cost.h - what a size costs: parameters in all, those one token touches, bytes of memory.
//
// Active        embedding, head, norms, gates, mixers, shared expert and top-k of the routed experts.
//               A tied head counts once. Buffers (the gate's selection bias) count as parameters, as in
//               the published totals.
// Memory        weights at `weight_bytes` a parameter, and for `batch` sequences of `context` tokens
//               keys and values at `cache_bytes` an element, scan states and convolution windows at
//               `state_bytes`. Left out: activations. The published model adds the largest buffer of a
//               prefill, as a soft maximum over MoE layers whose sharpness is not given, and how many
//               tokens are prefilled at once is the runtime's choice.
// One function  of widths, walking the list of parameters: exact for whole widths (doubles hold every
//               integer up to 2^53), smooth for expectations. It is linear in every single width, so
//               an expected cost of independent axes is the cost of the expected widths, except that
//               active parameters never depend on the number of experts but through the gate.
// Arithmetic    what a token's forward costs by the usual convention, so that a rate can be held against
//               others': 2 a parameter that it touches (of the embedding it reads a row: none), causal
//               attention 2 S a query channel for its two products over the S / 2 tokens before it, the
//               recurrence 5 an element of the scan's state. Training costs three times that. What the
//               operators count is what they do, which for the chunked scan is more.
#pragma once
#include "model/config.h"
#include "model/widths.h"

namespace nestling {

struct MemoryTerms {
  double weight_bytes = 2;
  int64_t context = 0, batch = 1;
  double cache_bytes = 2, state_bytes = 4;
  bool operator==(const MemoryTerms&) const = default;
};

enum class CostKind : uint8_t { kTotal, kActive, kMemory };

struct CostTarget {
  CostKind kind = CostKind::kActive;
  MemoryTerms memory;  // of kMemory
};

// A cost of one architecture as a sum of products of widths, gathered once.
class CostFunction {
 public:
  CostFunction(const ModelConfig& config, const CostTarget& target);
  // Parameters, or bytes. `gradient` is overwritten with the derivative by every width (kLayers too).
  double operator()(const ExpectedWidths& widths, ExpectedWidths* gradient = nullptr) const;

  struct Term {
    double constant = 1;
    int64_t layer = -1;
    std::vector<Axis> axes;
  };

 private:
  std::vector<Term> terms_;
};

struct ParameterCost {
  int64_t total = 0;
  int64_t active = 0;
};
ParameterCost parameter_cost(const ModelConfig& config, const Widths& widths);
ParameterCost parameter_cost(const ModelConfig& config);  // at full width
double forward_flops(const ModelConfig& config, const Widths& widths, int64_t seq_len);  // a token

}  // namespace nestling
