#include "model/gguf.h"

#include <cmath>

#include "model/published_rows.h"

namespace nestling {

namespace {

// How a published tensor is written.
enum class GgufForm : uint8_t {
  kPlain,        // as it is: F32
  kProduct,      // as it is, in the type asked for
  kConv,         // [C, 1, K] as [C, K]
  kNegativeExp,  // [H] as [H, 1], of x -exp(x)
  kColumn,       // [H] as [H, 1]
  kGroups,       // [I] as [groups, I / groups]
};
struct GgufName {
  const char* published;  // without the layer's beginning
  const char* gguf;
  GgufForm form;
};
constexpr GgufName kModelNames[] = {
    {"backbone.embeddings.weight", "token_embd.weight", GgufForm::kProduct},
    {"backbone.norm_f.weight", "output_norm.weight", GgufForm::kPlain},
    {"lm_head.weight", "output.weight", GgufForm::kProduct},
};
constexpr GgufName kLayerNames[] = {
    {"norm.weight", "attn_norm.weight", GgufForm::kPlain},
    {"mixer.in_proj.weight", "ssm_in.weight", GgufForm::kProduct},
    {"mixer.conv1d.weight", "ssm_conv1d.weight", GgufForm::kConv},
    {"mixer.conv1d.bias", "ssm_conv1d.bias", GgufForm::kPlain},
    {"mixer.dt_bias", "ssm_dt.bias", GgufForm::kPlain},
    {"mixer.A_log", "ssm_a", GgufForm::kNegativeExp},
    {"mixer.D", "ssm_d", GgufForm::kColumn},
    {"mixer.norm.weight", "ssm_norm.weight", GgufForm::kGroups},
    {"mixer.out_proj.weight", "ssm_out.weight", GgufForm::kProduct},
    {"mixer.q_proj.weight", "attn_q.weight", GgufForm::kProduct},
    {"mixer.k_proj.weight", "attn_k.weight", GgufForm::kProduct},
    {"mixer.v_proj.weight", "attn_v.weight", GgufForm::kProduct},
    {"mixer.o_proj.weight", "attn_output.weight", GgufForm::kProduct},
    {"mixer.up_proj.weight", "ffn_up.weight", GgufForm::kProduct},
    {"mixer.down_proj.weight", "ffn_down.weight", GgufForm::kProduct},
    {"mixer.gate.weight", "ffn_gate_inp.weight", GgufForm::kPlain},
    {"mixer.gate.e_score_correction_bias", "exp_probs_b.bias", GgufForm::kPlain},
    {"mixer.experts.{e}.up_proj.weight", "ffn_up_exps.weight", GgufForm::kProduct},
    {"mixer.experts.{e}.down_proj.weight", "ffn_down_exps.weight", GgufForm::kProduct},
    {"mixer.shared_experts.up_proj.weight", "ffn_up_shexp.weight", GgufForm::kProduct},
    {"mixer.shared_experts.down_proj.weight", "ffn_down_shexp.weight", GgufForm::kProduct},
};

struct GgufPlace {
  std::string name;
  GgufForm form;
};
GgufPlace place_in_gguf(const ParameterSpec& spec) {
  for (const GgufName& n : kModelNames)
    if (spec.layer < 0 && spec.published == n.published) return {n.gguf, n.form};
  const std::string beginning = str("backbone.layers.", spec.layer, ".");
  for (const GgufName& n : kLayerNames)
    if (spec.layer >= 0 && spec.published == beginning + n.published)
      return {str("blk.", spec.layer, ".", n.gguf), n.form};
  throw Error(str(spec.published, ": has no name in GGUF"));
}

std::vector<int64_t> gguf_shape(const ModelConfig& config, const ParameterSpec& spec,
                                GgufForm form) {
  const std::vector<int64_t>& shape = spec.published_shape;
  switch (form) {
    case GgufForm::kConv:
      return {shape[0], shape[2]};
    case GgufForm::kNegativeExp:
    case GgufForm::kColumn:
      return {shape[0], 1};
    case GgufForm::kGroups:
      return {config.groups, shape[0] / config.groups};
    case GgufForm::kPlain:
    case GgufForm::kProduct:
      break;
  }
  std::vector<int64_t> whole = shape;
  if (spec.stacked()) whole.insert(whole.begin(), spec.dims[0].extent);
  return whole;
}

// Throws kInput where the type cannot hold the tensor.
void check_rows(const GgufTensor& t, const std::string& where) {
  const GgmlBlock block = ggml_block(t.type);
  NESTLING_CHECK_INPUT(t.shape.back() % block.elements == 0, where, ": tensor ", t.name,
                       " has rows of ", t.shape.back(), "; GGUF's ", ggml_type_name(t.type),
                       " needs multiples of ", block.elements, ". --precision bf16 holds any");
}
void check_f16(const std::vector<float>& row, const std::string& name) {
  constexpr float kLargestF16 = 65504;
  for (const float x : row)
    NESTLING_CHECK_INPUT(std::fabs(x) <= kLargestF16, "tensor ", name, ": ", x,
                         " is beyond F16; --precision bf16 holds it");
}

// The parameters of one GGUF tensor: those of a published one, of experts of all of them.
struct Parts {
  const Weights* weights;
  std::vector<int64_t> list;
  const ParameterSpec& spec() const { return weights->specs()[static_cast<size_t>(list.front())]; }
  int64_t experts() const { return spec().stacked() ? spec().dims[0].extent : 1; }
  int64_t rows() const { return spec().published_shape[0]; }
  int64_t cols() const {
    int64_t n = 1;
    for (size_t d = 1; d < spec().published_shape.size(); ++d) n *= spec().published_shape[d];
    return n;
  }
  template <class Fn>
  void each_row(const Fn& fn) const {  // fn(expert, row), as they are written
    for (int64_t e = 0; e < experts(); ++e)
      for (int64_t r = 0; r < rows(); ++r) fn(e, r);
  }
};

void produce_numbers(const Parts& parts, const GgufPlace& place, GgmlType type,
                     const ByteSink& sink) {
  const PublishedRows rows(*parts.weights, parts.list);
  std::vector<float> row(static_cast<size_t>(parts.cols()));
  std::vector<std::byte> bytes;
  parts.each_row([&](int64_t expert, int64_t r) {
    rows.read(expert, r, row);
    if (place.form == GgufForm::kNegativeExp) row[0] = -std::exp(row[0]);
    if (type == GgmlType::kF16) check_f16(row, place.name);
    encode_ggml_row(type, row, bytes);
    sink(bytes);
  });
}

void produce_codes(const Parts& parts, const ByteSink& sink) {
  std::vector<std::byte> codes(static_cast<size_t>(kNvfp4Codes.row_bytes(parts.cols())));
  std::vector<std::byte> scales(static_cast<size_t>(kBlockScales.row_bytes(parts.cols())));
  std::vector<std::byte> bytes;
  parts.each_row([&](int64_t expert, int64_t r) {
    const Published from{.parts = parts.list, .expert = expert};
    gather_codes(*parts.weights, from, kNvfp4Codes, r, codes);
    gather_codes(*parts.weights, from, kBlockScales, r, scales);
    repack_nvfp4_row(codes, scales, bytes);
    sink(bytes);
  });
}

GgufTensor f32_vector(std::string name, std::vector<float> values) {
  const auto count = static_cast<int64_t>(values.size());
  return {.name = std::move(name),
          .type = GgmlType::kF32,
          .shape = {count},
          .produce = [values = std::move(values)](const ByteSink& sink) {
            sink(std::as_bytes(std::span(values)));
          }};
}

// "blk.0.ssm_in" of "blk.0.ssm_in.weight"
std::string without_weight(const std::string& name) {
  constexpr std::string_view kWeight = ".weight";
  return name.substr(0, name.size() - kWeight.size());
}

void add_scales(const Parts& parts, const std::string& name, std::vector<GgufTensor>& tensors) {
  const TensorScales& scales =
      *parts.weights->quantization()->parameters[static_cast<size_t>(parts.list.front())];
  const std::string bare = without_weight(name);
  tensors.push_back(f32_vector(bare + ".scale", scales.weight));
  tensors.push_back(
      f32_vector(bare + ".input_scale", std::vector<float>(scales.weight.size(), scales.input)));
}

GgmlType type_of(const Parts& parts, GgufForm form, GgmlType asked) {
  if (form != GgufForm::kProduct) return GgmlType::kF32;
  const bool codes = static_cast<bool>(parts.weights->codes(parts.list.front()));
  return asked == GgmlType::kNvfp4 && !codes ? GgmlType::kBF16 : asked;
}

// The tensor and what stands beside it.
void add_tensor(const ModelConfig& config, const Parts& parts, GgmlType asked,
                const std::string& where, std::vector<GgufTensor>& tensors) {
  const GgufPlace place = place_in_gguf(parts.spec());
  GgufTensor t{.name = place.name,
               .type = type_of(parts, place.form, asked),
               .shape = gguf_shape(config, parts.spec(), place.form),
               .produce = {}};
  check_rows(t, where);
  const bool codes = t.type == GgmlType::kNvfp4;
  if (codes)
    t.produce = [parts](const ByteSink& sink) { produce_codes(parts, sink); };
  else
    t.produce = [parts, place, type = t.type](const ByteSink& sink) {
      produce_numbers(parts, place, type, sink);
    };
  tensors.push_back(std::move(t));
  if (codes) add_scales(parts, place.name, tensors);
  if (place.form == GgufForm::kConv && !config.conv_bias)
    tensors.push_back(f32_vector(without_weight(place.name) + ".bias",
                                 std::vector<float>(static_cast<size_t>(parts.rows()), 0.0f)));
}

}  // namespace

std::vector<GgufTensor> gguf_tensors(const ModelConfig& config, const Weights& weights,
                                     GgmlType type, const std::string& where) {
  std::vector<GgufTensor> tensors;
  for (const NamedPublished& published : published_tensors(weights)) {
    if (published.from.expert > 0) continue;  // of experts the first stands for all
    const Parts parts{.weights = &weights, .list = published.from.parts};
    add_tensor(config, parts, type, where, tensors);
  }
  return tensors;
}

}  // namespace nestling
