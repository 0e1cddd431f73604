// cost.h - what a size costs: parameters in all, those one token touches, memory, milliseconds.
//
// Active        embedding, head, norms, gates, mixers, shared expert and top-k of the routed experts.
//               A tied head counts once. Buffers (the gate's selection bias) count as parameters, as in
//               the published totals.
// Memory        weights at `weight_bytes` a parameter, and for `batch` sequences of `context` tokens
//               keys and values at `cache_bytes` an element, scan states and convolution windows at
//               `state_bytes`. Left out: activations. The published model adds the largest buffer of a
//               prefill, as a soft maximum over MoE layers whose sharpness is not given, and how many
//               tokens are prefilled at once is the runtime's choice.
// Latency       of a step that decodes one token of each of `batch` sequences with `context` tokens
//               in their caches, as `nestling profile` measured it (docs/profile.md). A layer of a
//               kind takes, in nanoseconds,
//                 layer + weight * (its parameters that one token touches)
//                       + expert * (elements of its routed experts' matrices, all of them)
//                       + state  * (elements that decoding keeps and reads again, all sequences)
//               where the state of a Mamba layer is its scan's and that of an attention layer counts
//               keys and values of `context` tokens once for every query head. The rest of a step
//               (embedding, final norm, head, the draw of a token) takes layer + weight * (elements
//               of the head). At one sequence top-k of the experts are read, so `expert` is nothing
//               much; of more sequences some meet the same ones, and what is read lies between top-k
//               and all, where the two rates together put it.
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
#include <array>
#include <string>

#include "model/config.h"
#include "model/widths.h"

namespace nestling {

struct MemoryTerms {
  double weight_bytes = 2;
  int64_t context = 0, batch = 1;
  double cache_bytes = 2, state_bytes = 4;
  bool operator==(const MemoryTerms&) const = default;
};

// The rows and columns of a latency's rates, and how files name them.
enum class LatencyPart : uint8_t { kMamba, kAttention, kDense, kMoe, kRest };
enum class LatencyRate : uint8_t { kLayer, kWeight, kExpert, kState };
inline constexpr std::array kLatencyParts = {"mamba", "attention", "dense", "moe", "rest"};
inline constexpr std::array kLatencyRates = {"layer", "weight", "expert", "state"};
LatencyPart latency_part(LayerKind kind);

struct LatencyTerms {
  std::string measured_on = {};  // the machine, and how it computed
  int64_t context = 1, batch = 1;
  // Nanoseconds of every part for each thing that is counted.
  std::array<std::array<double, kLatencyRates.size()>, kLatencyParts.size()> ns{};

  double& rate(LatencyPart part, LatencyRate rate) {
    return ns[static_cast<size_t>(part)][static_cast<size_t>(rate)];
  }
  double rate(LatencyPart part, LatencyRate of) const {
    return const_cast<LatencyTerms*>(this)->rate(part, of);
  }
  bool operator==(const LatencyTerms&) const = default;
};

enum class CostKind : uint8_t { kTotal, kActive, kMemory, kLatency };

// Of a budget that is a limit: what costs more does not fit. Parameters may miss theirs either way.
constexpr bool is_limit(CostKind kind) {
  return kind == CostKind::kMemory || kind == CostKind::kLatency;
}

struct CostTarget {
  CostKind kind = CostKind::kActive;
  MemoryTerms memory = {};    // of kMemory
  LatencyTerms latency = {};  // of kLatency
};

// A cost of one architecture as a sum of products of widths, gathered once.
class CostFunction {
 public:
  CostFunction(const ModelConfig& config, const CostTarget& target);
  // Parameters, bytes, or milliseconds. `gradient` is overwritten with the derivative by every width (kLayers too).
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
