// elastic_model.h - everything an elastic checkpoint holds but the weights. Plain data.
//
// Sizes         largest first; the widths of each are prefixes of the parent's (model/widths.h).
// Measured      of a size by itself: none in between, none of a file that no run evaluated or that was quantized since.
// Order         place i of the file's axis holds unit order[i] of the published parent; empty lists:
//               the axis was never sorted.
// Router        as model/router_record.h writes it.
// Provenance    key to text. Known keys are kParent...; any other may be there.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/cost.h"
#include "model/units.h"
#include "model/widths.h"

namespace nestling {

// What a run measured of a size once it was trained; of another precision it may be another.
struct MeasuredQuality {
  int64_t tokens = 0;        // of text that were scored; 0: no text was
  double kl = 0, nll = 0;    // to the parent, and of the text: nats a token
  int64_t problems = 0;      // held-out reasoning problems; 0: none were asked
  double accuracy = 0;       // share of them that was solved
  std::string compute = {};  // precision of the products: f32, bf16
  bool operator==(const MeasuredQuality&) const = default;
};

struct Size {
  std::string name;
  CostTarget target;
  double budget = 1;  // of the parent's cost
  Widths widths;
  bool trained = true;  // by itself; false: the router's answer to a budget in between
  std::optional<MeasuredQuality> measured = {};
};

struct RouterBlob {
  std::map<std::string, std::vector<float>> tensors;
  std::string json;  // empty: no router
};

struct ElasticModel {
  ModelConfig config;  // of the parent
  std::vector<Size> sizes;
  Order order;
  Scores scores;
  RouterBlob router;
  std::map<std::string, std::string> tokenizer;  // file name to bytes
  std::map<std::string, std::string> provenance;
};

// Keys of `provenance` that the model card and the file's /model group repeat.
namespace provenance {
inline constexpr const char* kParent = "parent";               // name
inline constexpr const char* kParentDigest = "parent_digest";  // of its weights
inline constexpr const char* kParentLicence =
    "parent_licence";  // as its card says, e.g. apache-2.0
}  // namespace provenance

const char* cost_kind_name(CostKind kind);  // active_params, total_params, memory, latency_ms
// The same with its terms: "latency_ms (context 512, batch 1, on a machine)".
std::string target_text(const CostTarget& target);
CostKind parse_cost_kind(const std::string& name, const std::string& where);

// Throws kInput: config, widths, names, or order that do not fit each other.
void check_elastic_model(const ElasticModel& model, const std::string& where);

}  // namespace nestling
