#include "model/quantization.h"

#include <cmath>
#include <map>

namespace nestling {

namespace {

struct FormatName {
  WeightFormat format;
  const char* name;
  const char* label;
  float largest;
};
constexpr FormatName kFormats[] = {
    {WeightFormat::kFp8, "fp8", "FP8", f8e4m3::kLargest},
    {WeightFormat::kNvfp4, "nvfp4", "NVFP4", 6 * f8e4m3::kLargest},
};

const FormatName& entry(WeightFormat format) {
  for (const FormatName& f : kFormats)
    if (f.format == format) return f;
  throw Error("a weight format that has no name");
}

// The Mamba layer right before attention.
bool feeds_attention(const ModelConfig& config, int64_t layer) {
  return config.kind(layer) == LayerKind::kMamba && layer + 1 < config.layers() &&
         config.kind(layer + 1) == LayerKind::kAttention;
}

void check_scale(float scale, WeightFormat format, const std::string& where) {
  NESTLING_CHECK_INPUT(std::isfinite(scale) && scale > 0, where, ": a scale is ", scale,
                       ", needs to be finite and above zero");
  if (format != WeightFormat::kNvfp4) return;
  NESTLING_CHECK_INPUT(
      std::isnormal(scale * 0x1.0p-9f) && std::isfinite(scale * weight_format_largest(format)),
      where, ": a scale is ", scale,
      ", needs its 512th part to be a normal f32 and 2688 times it to be finite");
}

}  // namespace

const char* weight_format_name(WeightFormat format) {
  return entry(format).name;
}

WeightFormat parse_weight_format(const std::string& name, const std::string& where) {
  for (const FormatName& f : kFormats)
    if (name == f.name) return f.format;
  throw Error(str(where, ": format '", name, "', needs fp8 or nvfp4"), ErrorKind::kInput);
}

const char* weight_format_label(WeightFormat format) {
  return entry(format).label;
}

float weight_format_largest(WeightFormat format) {
  return entry(format).largest;
}

void check_scales(const TensorScales& scales, WeightFormat format, const std::string& where) {
  check_scale(scales.input, format, where + "/input_scale");
  for (const float weight : scales.weight) {
    check_scale(weight, format, where + "/weight_scale");
    NESTLING_CHECK_INPUT(std::isnormal(static_cast<float>(double{weight} * double{scales.input})),
                         where, "/weight_scale: ", weight, " times the input scale ", scales.input,
                         " is no normal f32");
  }
}

void check_codes(std::span<const std::byte> codes, bool of_blocks, const std::string& where) {
  for (const std::byte code : codes) {
    const auto bits = std::to_integer<unsigned>(code);
    NESTLING_CHECK_INPUT((bits & 0x7fu) != 0x7fu, where, ": holds a NaN");
    NESTLING_CHECK_INPUT(!of_blocks || bits < 0x80u, where, ": a scale of a block is below zero");
  }
}

void check_not_quantized(const std::optional<Quantization>& q, const std::string& where,
                         const std::string& what) {
  NESTLING_CHECK_INPUT(!q, where, ": its weights are ", weight_format_name(q->format), " codes; ",
                       what, " needs the file they were quantized from");
}

void check_whole_tensors(const ModelConfig& config, const Quantization& q,
                         const std::string& where) {
  std::map<std::string, const std::optional<TensorScales>*> first;
  const std::vector<ParameterSpec> specs = parameter_list(config);
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::optional<TensorScales>& mine = q.parameters.at(i);
    const auto [at, fresh] = first.emplace(specs[i].published, &mine);
    NESTLING_CHECK_INPUT(fresh || *at->second == mine, where, ": ", specs[i].name,
                         ": is quantized by other scales than the rest of ", specs[i].published,
                         ", or alone");
  }
}

bool takes_codes(const ModelConfig& config, const ParameterSpec& spec) {
  return spec.product && spec.layer >= 0 && config.kind(spec.layer) != LayerKind::kAttention;
}

std::vector<bool> quantized_parameters(const ModelConfig& config) {
  std::vector<bool> quantized;
  for (const ParameterSpec& spec : parameter_list(config))
    quantized.push_back(takes_codes(config, spec) && !feeds_attention(config, spec.layer));
  return quantized;
}

void check_quantizable(const ModelConfig& config, WeightFormat format, const Widths& widths,
                       const std::string& where) {
  if (format != WeightFormat::kNvfp4) return;
  const std::vector<bool> quantized = quantized_parameters(config);
  const std::vector<ParameterSpec> specs = parameter_list(config);
  for (const SizedParameter& p : sized_parameters(specs, widths)) {
    const auto i = static_cast<size_t>(p.index);
    NESTLING_CHECK_INPUT(!quantized[i] || p.extents.back() % kNvfp4Block == 0, where, ": ",
                         specs[i].name, " has ", p.extents.back(), " columns, no whole blocks of ",
                         kNvfp4Block, ", which NVFP4 needs");
  }
}

Quantization sized_quantization(const std::vector<SizedParameter>& parameters,
                                const Quantization& parent) {
  Quantization sized{.format = parent.format, .parameters = {}};
  for (const SizedParameter& p : parameters) {
    sized.parameters.push_back(parent.parameters.at(static_cast<size_t>(p.index)));
    if (auto& scales = sized.parameters.back(); scales && scales->weight.size() > 1)
      scales->weight.resize(static_cast<size_t>(p.extents.front()));
  }
  return sized;
}

}  // namespace nestling
