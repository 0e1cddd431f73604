// parameters_visit.h - the walk over all fields with their specs; included by parameters.h.
#pragma once
#include <cmath>

#include "model/parameters.h"
#include "model/published_names.h"

namespace nestling {

namespace detail {

// Builds the specs of one layer. Every helper returns a spec; the visit functions pair it with a
// field.
struct SpecMaker {
  const ModelConfig& c;
  int64_t layer = -1;

  // `suffix` is the tensor's name in the family that all are named after, Nemotron-H.
  ParameterSpec whole(const std::string& suffix, std::vector<Dim> dims, Init init) const {
    ParameterSpec s;
    s.published = published_name(c, layer, suffix);
    s.name = s.published;
    s.dims = std::move(dims);
    for (const Dim& d : s.dims) s.published_shape.push_back(d.extent);
    s.layer = layer;
    s.init = init;
    return s;
  }
  ParameterSpec vector(const std::string& suffix, std::vector<Dim> dims, Init init) const {
    ParameterSpec s = whole(suffix, std::move(dims), init);
    s.published_shape = {s.size()};
    return s;
  }
  // A matrix whose dims are merged to `shape` when published.
  ParameterSpec matrix(const std::string& suffix, std::vector<Dim> dims, std::vector<int64_t> shape,
                       Init init) const {
    ParameterSpec s = whole(suffix, std::move(dims), init);
    s.published_shape = std::move(shape);
    s.product = true;
    s.gradient_by_product = true;
    s.decay = true;
    return s;
  }
  ParameterSpec norm() const {
    return vector("norm.weight", {{c.hidden, Axis::kHidden}}, Init::kOne);
  }

  // What enters a feed-forward activation, `up` or what gates it, of `rows` rows. Published side by side in one
  // tensor, the gate's rows come first.
  ParameterSpec ffn_in(const std::string& suffix, std::vector<Dim> dims, bool gate) const {
    const int64_t rows = dims[dims.size() - 2].extent;
    const bool both = c.activation == Activation::kGatedSilu && publishes_up_with_gate(c.family);
    ParameterSpec s =
        matrix(suffix, std::move(dims), {both ? 2 * rows : rows, c.hidden}, Init::kNormal);
    if (!both) return s;
    s.name += gate ? "/gate" : "/up";
    s.row_begin = gate ? 0 : rows;
    return s;
  }
  ParameterSpec of_experts(ParameterSpec s) const {
    s.one_tensor = publishes_experts_stacked(c.family);
    return s;
  }

  Interleave head_order() const { return {c.mamba_heads / c.groups, c.groups}; }
  Interleave state_order() const { return {c.state, c.groups}; }
  Interleave query_order() const { return {c.query_heads / c.kv_heads, c.kv_heads}; }

  // Part `part` of in_proj: z, x, B, C, dt.
  ParameterSpec in_proj(const char* part, std::vector<Dim> dims, int64_t row_begin,
                        Interleave rows) const {
    const int64_t total = 2 * c.inner() + 2 * c.groups * c.state + c.mamba_heads;
    dims.push_back({c.hidden, Axis::kHidden});
    ParameterSpec s =
        matrix("mixer.in_proj.weight", std::move(dims), {total, c.hidden}, Init::kNormal);
    s.name += std::string("/") + part;
    s.row_begin = row_begin;
    s.rows = rows;
    return s;
  }
  ParameterSpec conv(const char* part, std::vector<Dim> dims, int64_t row_begin, Interleave rows,
                     bool bias) const {
    const int64_t total = c.inner() + 2 * c.groups * c.state;
    if (!bias) dims.push_back({c.conv_kernel});
    ParameterSpec s =
        whole(bias ? "mixer.conv1d.bias" : "mixer.conv1d.weight", std::move(dims), Init::kConv);
    s.published_shape =
        bias ? std::vector<int64_t>{total} : std::vector<int64_t>{total, 1, c.conv_kernel};
    s.name += std::string("/") + part;
    s.row_begin = row_begin;
    s.rows = rows;
    return s;
  }
  ParameterSpec head_vector(const char* suffix, Init init) const {
    ParameterSpec s = vector(suffix, {{c.mamba_heads, Axis::kMambaHeads}}, init);
    s.rows = head_order();
    return s;
  }
};

inline ParameterSpec with_rows(ParameterSpec s, Interleave rows) {
  s.rows = rows;
  return s;
}
inline ParameterSpec with_cols(ParameterSpec s, Interleave cols) {
  s.cols = cols;
  return s;
}

template <class T, class Fn>
void visit_layer(const SpecMaker& m, MambaParams<T>& p, Fn& fn) {
  const ModelConfig& c = m.c;
  const int64_t inner = c.inner();
  const int64_t bc = c.groups * c.state;
  const std::vector<Dim> heads = {{c.mamba_heads, Axis::kMambaHeads},
                                  {c.mamba_head_dim, Axis::kMambaChannels}};
  const std::vector<Dim> states = {{c.state, Axis::kState}, {c.groups}};
  fn(p.norm, m.norm());
  fn(p.z, m.in_proj("z", heads, 0, m.head_order()));
  fn(p.x, m.in_proj("x", heads, inner, m.head_order()));
  fn(p.B, m.in_proj("B", states, 2 * inner, m.state_order()));
  fn(p.C, m.in_proj("C", states, 2 * inner + bc, m.state_order()));
  fn(p.dt, m.in_proj("dt", {heads[0]}, 2 * inner + 2 * bc, m.head_order()));
  fn(p.conv_x, m.conv("x", heads, 0, m.head_order(), false));
  fn(p.conv_B, m.conv("B", states, inner, m.state_order(), false));
  fn(p.conv_C, m.conv("C", states, inner + bc, m.state_order(), false));
  if (c.conv_bias) {
    fn(p.conv_bias_x, m.conv("x", heads, 0, m.head_order(), true));
    fn(p.conv_bias_B, m.conv("B", states, inner, m.state_order(), true));
    fn(p.conv_bias_C, m.conv("C", states, inner + bc, m.state_order(), true));
  }
  fn(p.A_log, m.head_vector("mixer.A_log", Init::kALog));
  fn(p.D, m.head_vector("mixer.D", Init::kOne));
  fn(p.dt_bias, m.head_vector("mixer.dt_bias", Init::kDtBias));
  fn(p.gated_norm, with_rows(m.vector("mixer.norm.weight", heads, Init::kOne), m.head_order()));
  fn(p.out,
     with_cols(m.matrix("mixer.out_proj.weight", {{c.hidden, Axis::kHidden}, heads[0], heads[1]},
                        {c.hidden, inner}, Init::kNormalResidual),
               m.head_order()));
}

template <class T, class Fn>
void visit_layer(const SpecMaker& m, AttentionParams<T>& p, Fn& fn) {
  const ModelConfig& c = m.c;
  const Dim hidden{c.hidden, Axis::kHidden};
  const Dim heads{c.query_heads, Axis::kQueryHeads};
  const int64_t q = c.query_heads * c.head_dim;
  const int64_t kv = c.kv_heads * c.head_dim;
  fn(p.norm, m.norm());
  fn(p.q, with_rows(m.matrix("mixer.q_proj.weight", {heads, {c.head_dim}, hidden}, {q, c.hidden},
                             Init::kNormal),
                    m.query_order()));
  fn(p.k, m.matrix("mixer.k_proj.weight", {{c.kv_heads}, {c.head_dim}, hidden}, {kv, c.hidden},
                   Init::kNormal));
  fn(p.v, m.matrix("mixer.v_proj.weight", {{c.kv_heads}, {c.head_dim}, hidden}, {kv, c.hidden},
                   Init::kNormal));
  if (c.head_norm) {
    fn(p.q_norm, m.vector("mixer.q_norm.weight", {{c.head_dim}}, Init::kOne));
    fn(p.k_norm, m.vector("mixer.k_norm.weight", {{c.head_dim}}, Init::kOne));
  }
  fn(p.o, with_cols(m.matrix("mixer.o_proj.weight", {hidden, heads, {c.head_dim}}, {c.hidden, q},
                             Init::kNormalResidual),
                    m.query_order()));
}

template <class T, class Fn>
void visit_layer(const SpecMaker& m, FfnParams<T>& p, Fn& fn) {
  const ModelConfig& c = m.c;
  const Dim hidden{c.hidden, Axis::kHidden};
  const Dim ffn{c.ffn, Axis::kFfn};
  fn(p.norm, m.norm());
  if (c.activation == Activation::kGatedSilu)
    fn(p.up_gate, m.ffn_in("mixer.gate_proj.weight", {ffn, hidden}, true));
  fn(p.up, m.ffn_in("mixer.up_proj.weight", {ffn, hidden}, false));
  fn(p.down,
     m.matrix("mixer.down_proj.weight", {hidden, ffn}, {c.hidden, c.ffn}, Init::kNormalResidual));
}

template <class T, class Fn>
void visit_layer(const SpecMaker& m, MoeParams<T>& p, Fn& fn) {
  const ModelConfig& c = m.c;
  const Dim hidden{c.hidden, Axis::kHidden};
  const Dim experts{c.experts, Axis::kExperts};
  const Dim ffn{c.expert_ffn, Axis::kExpertFfn};
  const Dim shared{c.shared_ffn, Axis::kSharedFfn};
  fn(p.norm, m.norm());
  ParameterSpec gate =
      m.matrix("mixer.gate.weight", {experts, hidden}, {c.experts, c.hidden}, Init::kNormal);
  gate.product = false;
  gate.gradient_by_product = false;
  fn(p.gate, gate);
  if (c.gate.kind == GateKind::kSigmoid) {
    ParameterSpec bias = m.vector("mixer.gate.e_score_correction_bias", {experts}, Init::kZero);
    bias.trained = false;
    fn(p.gate_bias, bias);
  }
  const bool gated = c.activation == Activation::kGatedSilu;
  if (gated)
    fn(p.up_gate,
       m.of_experts(m.ffn_in("mixer.experts.{e}.gate_proj.weight", {experts, ffn, hidden}, true)));
  fn(p.up,
     m.of_experts(m.ffn_in("mixer.experts.{e}.up_proj.weight", {experts, ffn, hidden}, false)));
  fn(p.down, m.of_experts(m.matrix("mixer.experts.{e}.down_proj.weight", {experts, hidden, ffn},
                                   {c.hidden, c.expert_ffn}, Init::kNormalResidual)));
  if (c.shared_ffn > 0) {
    if (gated)
      fn(p.shared_up_gate,
         m.ffn_in("mixer.shared_experts.gate_proj.weight", {shared, hidden}, true));
    fn(p.shared_up, m.ffn_in("mixer.shared_experts.up_proj.weight", {shared, hidden}, false));
    fn(p.shared_down, m.matrix("mixer.shared_experts.down_proj.weight", {hidden, shared},
                               {c.hidden, c.shared_ffn}, Init::kNormalResidual));
  }
}

template <class T>
LayerParams<T> empty_layer(LayerKind kind) {
  switch (kind) {
    case LayerKind::kMamba:
      return MambaParams<T>{};
    case LayerKind::kAttention:
      return AttentionParams<T>{};
    case LayerKind::kDense:
      return FfnParams<T>{};
    case LayerKind::kMoe:
      return MoeParams<T>{};
  }
  throw Error(str("unknown layer kind '", static_cast<char>(kind), "'"));
}

}  // namespace detail

// Calls fn(field, spec) for every parameter of the model, in list order. p.layers is made to fit;
// fields that are there already keep what they hold.
template <class T, class Fn>
void visit_parameters(const ModelConfig& c, ModelParams<T>& p, Fn fn) {
  detail::SpecMaker model{c};
  const std::vector<Dim> table = {{c.vocab}, {c.hidden, Axis::kHidden}};
  ParameterSpec embeddings =
      model.matrix("backbone.embeddings.weight", table, {c.vocab, c.hidden}, Init::kNormal);
  embeddings.gradient_by_product = c.tied;  // of the head; the tokens' rows are added to it
  fn(p.embeddings, embeddings);
  p.layers.resize(static_cast<size_t>(c.layers()));
  for (int64_t l = 0; l < c.layers(); ++l) {
    auto& layer = p.layers[static_cast<size_t>(l)];
    if (auto fresh = detail::empty_layer<T>(c.kind(l)); layer.index() != fresh.index())
      layer = std::move(fresh);
    const detail::SpecMaker maker{c, l};
    std::visit([&](auto& fields) { detail::visit_layer(maker, fields, fn); }, layer);
  }
  fn(p.final_norm, model.vector("backbone.norm_f.weight", {{c.hidden, Axis::kHidden}}, Init::kOne));
  if (!c.tied)
    fn(p.head, model.matrix("lm_head.weight", table, {c.vocab, c.hidden}, Init::kNormal));
}

template <class T>
ModelParams<T> bind_parameters(const ModelConfig& config, const std::function<T(int64_t)>& at) {
  ModelParams<T> p;
  int64_t next = 0;
  visit_parameters(config, p, [&](T& field, const ParameterSpec&) { field = at(next++); });
  if (config.tied) p.head = p.embeddings;
  p.logit_scale = 1 / config.logit_divisor;
  return p;
}

}  // namespace nestling
