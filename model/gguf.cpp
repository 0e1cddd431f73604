#include "model/gguf.h"

#include <cmath>
#include <map>

#include "model/gguf_names.h"
#include "model/gguf_rope.h"
#include "model/published_rows.h"

namespace nestling {

namespace {

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

// The parameters of one GGUF tensor, by rising row; of experts all of them.
struct Parts {
  const Weights* weights;
  GgufPlace place;
  std::vector<int64_t> list;
  const ParameterSpec& spec() const { return weights->specs()[static_cast<size_t>(list.front())]; }
  int64_t experts() const { return spec().stacked() ? spec().dims[0].extent : 1; }
  int64_t cols() const {
    int64_t n = 1;
    for (size_t d = 1; d < spec().published_shape.size(); ++d) n *= spec().published_shape[d];
    return n;
  }
  template <class Fn>
  void each_row(const Fn& fn) const {  // fn(expert, published row), as they are written
    for (int64_t e = 0; e < experts(); ++e)
      for (int64_t r = 0; r < place.rows; ++r) fn(e, place.published_row(r));
  }
};

void produce_numbers(const Parts& parts, GgmlType type, const ByteSink& sink) {
  const PublishedRows rows(*parts.weights, parts.list);
  std::vector<float> row(static_cast<size_t>(parts.cols()));
  std::vector<std::byte> bytes;
  parts.each_row([&](int64_t expert, int64_t r) {
    rows.read(expert, r, row);
    for (float& x : row) x = to_gguf_form(parts.place.form, x);
    if (type == GgmlType::kF16) check_f16(row, parts.place.name);
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

void add_scales(const Parts& parts, const std::string& name, std::vector<GgufTensor>& tensors) {
  const TensorScales& scales =
      *parts.weights->quantization()->parameters[static_cast<size_t>(parts.list.front())];
  const std::string bare = gguf_module(name);
  tensors.push_back(f32_vector(bare + ".scale", scales.weight));
  tensors.push_back(
      f32_vector(bare + ".input_scale", std::vector<float>(scales.weight.size(), scales.input)));
}

GgmlType type_of(const Parts& parts, GgufForm form, GgmlType asked) {
  if (!is_product(form)) return GgmlType::kF32;
  const bool codes = static_cast<bool>(parts.weights->codes(parts.list.front()));
  return asked == GgmlType::kNvfp4 && !codes ? GgmlType::kBF16 : asked;
}

// The tensor and what stands beside it.
void add_tensor(const ModelConfig& config, const Parts& parts, GgmlType asked,
                const std::string& where, std::vector<GgufTensor>& tensors) {
  const GgufPlace& place = parts.place;
  GgufTensor t{.name = place.name,
               .type = type_of(parts, place.form, asked),
               .shape = gguf_shape(config, parts.spec(), place),
               .produce = {}};
  check_rows(t, where);
  const bool codes = t.type == GgmlType::kNvfp4;
  if (codes)
    t.produce = [parts](const ByteSink& sink) { produce_codes(parts, sink); };
  else
    t.produce = [parts, type = t.type](const ByteSink& sink) {
      produce_numbers(parts, type, sink);
    };
  tensors.push_back(std::move(t));
  if (codes) add_scales(parts, place.name, tensors);
  if (place.form == GgufForm::kConv && !config.conv_bias)
    tensors.push_back(f32_vector(gguf_module(place.name) + ".bias",
                                 std::vector<float>(static_cast<size_t>(place.rows), 0.0f)));
}

// As the list goes.
std::vector<Parts> parts_of(const ModelConfig& config, const Weights& weights) {
  std::vector<Parts> all;
  std::map<std::string, size_t> index;
  for (int64_t i = 0; i < weights.count(); ++i) {
    GgufPlace place = place_in_gguf(config, weights.specs()[static_cast<size_t>(i)]);
    const auto [at, fresh] = index.emplace(place.name, all.size());
    if (fresh) all.push_back({.weights = &weights, .place = std::move(place), .list = {}});
    all[at->second].list.push_back(i);
  }
  return all;
}

}  // namespace

std::vector<GgufTensor> gguf_tensors(const ModelConfig& config, const Weights& weights,
                                     GgmlType type, const std::string& where) {
  std::vector<GgufTensor> tensors;
  if (config.rope_scaling.original_max_positions > 0)
    tensors.push_back(f32_vector(
        kRopeFactors, gguf_rope_factors(config.rotary, config.rope_theta, config.rope_scaling)));
  for (const Parts& parts : parts_of(config, weights))
    add_tensor(config, parts, type, where, tensors);
  return tensors;
}

}  // namespace nestling
