#include "model/gguf_names.h"

#include <bit>
#include <cmath>

#include "model/interleave.h"
#include "model/published_names.h"

namespace nestling {

namespace {

std::string block_name(const ModelConfig& config, int64_t layer, const char* name) {
  return str("blk.", layer / layers_of_block(config.family), ".", name);
}

// Whether `spec`, published as `published`, is what a name stands for.
bool is_named(const ParameterSpec& spec, const std::string& published, const GgufName& n) {
  return spec.published == published &&
         (n.part == nullptr || spec.name == str(published, "/", n.part));
}

}  // namespace

GgufPlace place_in_gguf(const ModelConfig& config, const ParameterSpec& spec) {
  const GgufArchitecture& a = gguf_architecture_of(config, spec.published);
  if (spec.layer < 0) {
    for (const GgufName& n : a.model_names)
      if (is_named(spec, n.published, n))
        return {n.gguf, n.form, 0, spec.published_shape[0], config.head_dim};
  } else {
    const std::string beginning =
        str(a.beginning, spec.layer / layers_of_block(config.family), ".");
    for (const GgufName& n : a.layer_names)
      if (is_named(spec, beginning + n.published, n))
        return {block_name(config, spec.layer, n.gguf), n.form, n.part ? spec.row_begin : 0,
                n.part ? published_matrix(spec).rows : spec.published_shape[0], config.head_dim};
  }
  throw Error(str(spec.name, ": has no name in GGUF"));
}

std::string gguf_conv_bias(const ModelConfig& config, int64_t layer) {
  return block_name(config, layer, "ssm_conv1d.bias");
}

int64_t GgufPlace::published_row(int64_t row) const {
  if (form != GgufForm::kRotated) return first_row + row;
  const int64_t half = head_dim / 2, in_head = row % head_dim;
  return first_row + row - in_head + in_head % 2 * half + in_head / 2;
}

int64_t GgufPlace::row_of(int64_t published) const {
  const int64_t row = published - first_row;
  if (form != GgufForm::kRotated) return row;
  const int64_t half = head_dim / 2, in_head = row % head_dim;
  return row - in_head + in_head % half * 2 + in_head / half;
}

std::vector<int64_t> gguf_shape(const ModelConfig& config, const ParameterSpec& spec,
                                const GgufPlace& place) {
  const std::vector<int64_t>& shape = spec.published_shape;
  switch (place.form) {
    case GgufForm::kConv:
      return {shape[0], shape[2]};
    case GgufForm::kNegativeExp:
    case GgufForm::kColumn:
      return {shape[0], 1};
    case GgufForm::kGroups:
      return {config.groups, shape[0] / config.groups};
    case GgufForm::kPlain:
    case GgufForm::kProduct:
    case GgufForm::kRotated:
      break;
  }
  std::vector<int64_t> whole = shape;
  whole[0] = place.rows;
  if (spec.stacked()) whole.insert(whole.begin(), spec.dims[0].extent);
  return whole;
}

std::string gguf_module(const std::string& name) {
  constexpr std::string_view kWeight = ".weight";
  return name.substr(0, name.size() - kWeight.size());
}

float to_gguf_form(GgufForm form, float x) {
  return form == GgufForm::kNegativeExp ? -std::exp(x) : x;
}

float from_gguf_form(GgufForm form, float x) {
  if (form != GgufForm::kNegativeExp) return x;
  const auto nearest = static_cast<float>(std::log(-static_cast<double>(x)));
  constexpr uint32_t kLowerHalf = 0xffff;
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  const auto bf16 = std::bit_cast<float>((bits + kLowerHalf / 2 + 1) & ~kLowerHalf);
  const float step = std::nextafter(nearest, INFINITY), back = std::nextafter(nearest, -INFINITY);
  for (const float candidate : {bf16, nearest, step, back})
    if (-std::exp(candidate) == x) return candidate;
  return nearest;  // of a file whose writer has another exponential
}

}  // namespace nestling
