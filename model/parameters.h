// parameters.h - the one list of parameters. Checkpoints, import and export, the optimizer, the
// cost model and the tests walk it; nothing else names a tensor.
//
// Layout        Slot-major, so that every elastic axis is a prefix: Mamba heads (slot in group,
//               group), query heads (slot, KV head), SSM state (state, group). in_proj is five
//               tensors, the convolution three, experts are stacked. `Interleave` says how a
//               dimension maps to the published order, which is group first.
// Fields        A struct of fields a layer kind, templated over what a field is: an index, a view,
//               a gradient view. visit_parameters calls fn(field, spec) for every field, in one
//               fixed order, which is the order of the list.
#pragma once
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "model/config.h"
#include "model/weight.h"

namespace nestling {

// What can be narrowed (docs/concepts.md).
enum class Axis : uint8_t {
  kNone,
  kHidden,
  kMambaHeads,
  kMambaChannels,
  kState,
  kQueryHeads,
  kFfn,
  kExperts,
  kExpertFfn,
  kSharedFfn,
  kLayers,  // depth: no dimension of a tensor
};

struct Dim {
  int64_t extent = 0;
  Axis axis = Axis::kNone;
};

// A dimension of slots * groups blocks: in memory block (slot, group), published (group, slot).
struct Interleave {
  int64_t slots = 1;
  int64_t groups = 1;
  bool trivial() const { return slots == 1 || groups == 1; }
};

enum class Init : uint8_t {
  kNormal,          // N(0, 0.02)
  kNormalResidual,  // N(0, 0.02 / sqrt(layers)): what writes into the residual stream
  kOne,
  kZero,
  kConv,    // U(-1/sqrt(K), 1/sqrt(K)) with K the kernel width
  kALog,    // log U(1, 16)
  kDtBias,  // inverse softplus of exp U(log 0.001, log 0.1)
};

class SharedLayers;

struct ParameterSpec {
  std::string name;       // unique here
  std::string published;  // tensor of the Hugging Face directory; {e} stands for the expert
  std::vector<Dim> dims;
  int64_t layer = -1;  // -1: not of a layer
  Init init = Init::kNormal;
  bool product = false;  // operand of a matrix product: kept in the compute precision too
  bool gradient_by_product = false;  // every backward makes all of its gradient by products first
  bool trained = true;               // false: a buffer (the gate's selection bias)
  bool decay = false;                // weight decay applies

  // The published tensor, as rows x columns: this parameter is its rows [row_begin,
  // row_begin+rows).
  std::vector<int64_t> published_shape;
  int64_t row_begin = 0;
  bool one_tensor =
      false;        // the experts' matrices are published as one tensor [experts, rows, columns]
  Interleave rows;  // of the first dimension (after the expert)
  Interleave cols;  // of the second

  int64_t size() const;
  int64_t padded_size() const;  // elements that it takes in flat memory
  std::vector<int64_t> shape() const;
  View view_of(std::byte* data, DType dtype, Device device) const;  // dense, of its shape
  bool stacked() const { return one_tensor || published.find("{e}") != std::string::npos; }
  std::string published_of(int64_t expert) const;  // with {e} replaced
};

template <class T>
struct MambaParams {
  T norm;                      // [D]
  T z, x;                      // [H, P, D]
  T B, C;                      // [N, G, D]
  T dt;                        // [H, D]
  T conv_x;                    // [H, P, K]
  T conv_B, conv_C;            // [N, G, K]
  T conv_bias_x;               // [H, P]   absent without conv bias
  T conv_bias_B, conv_bias_C;  // [N, G]
  T A_log, D, dt_bias;         // [H]
  T gated_norm;                // [H, P]
  T out;                       // [D, H, P]
};

template <class T>
struct AttentionParams {
  T norm;            // [D]
  T q;               // [Q, h, D]
  T k, v;            // [K, h, D]
  T q_norm, k_norm;  // [h]      with head_norm
  T o;               // [D, Q, h]
};

template <class T>
struct FfnParams {
  T norm;     // [D]
  T up_gate;  // [F, D]   of a gated activation
  T up;       // [F, D]
  T down;     // [D, F]
};

template <class T>
struct MoeParams {
  T norm;       // [D]
  T gate;       // [E, D] f32 always: expert choice is made in full precision
  T gate_bias;  // [E]    of sigmoid gates: a buffer, moved by the balancing rule, not by a gradient
  T up_gate;    // [E, Fe, D]   of a gated activation
  T up;         // [E, Fe, D]
  T down;       // [E, D, Fe]
  T shared_up_gate;  // [Fs, D]      of a gated activation; the shared ones absent without a shared expert
  T shared_up;    // [Fs, D]
  T shared_down;  // [D, Fs]
};

template <class T>
using LayerParams = std::variant<MambaParams<T>, AttentionParams<T>, FfnParams<T>, MoeParams<T>>;

// A size may leave a layer out: its fields are absent, and the residual stream passes by.
template <class V>
bool is_kept(const LayerParams<V>& layer) {
  return std::visit([](const auto& p) { return static_cast<bool>(p.norm); }, layer);
}

template <class T>
struct ModelParams {
  T embeddings{};  // [V, D]
  std::vector<LayerParams<T>> layers;
  T final_norm{};         // [D]
  T head{};               // [V, D]; tied: the embeddings
  float logit_scale = 1;  // of what it makes
  SharedLayers* shared =
      nullptr;  // what brings a layer's matrices where these views look (Weights::params)
};

// The specs, in list order.
std::vector<ParameterSpec> parameter_list(const ModelConfig& config);

// Fills every field with at(i), i its place in the list; a tied head gets the embeddings'; fields
// the config does not use stay T{}.
template <class T>
ModelParams<T> bind_parameters(const ModelConfig& config, const std::function<T(int64_t)>& at);

}  // namespace nestling

#include "model/parameters_visit.h"
