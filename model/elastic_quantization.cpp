#include "model/elastic_quantization.h"

#include <algorithm>

#include "kernels/core/host_view.h"
#include "kernels/core/nvfp4.h"
#include "model/huggingface.h"
#include "model/interleave.h"
#include "model/router_record.h"

namespace nestling {

namespace {

constexpr const char* kGroup = "/quantization";

// "/quantization/backbone.layers.1.mixer.experts.up_proj.weight"
std::string quantized_group(const ParameterSpec& spec) {
  constexpr std::string_view kWeights = "/weights";
  return kGroup + weight_dataset(spec).substr(kWeights.size());
}

void check_blocks(int64_t columns, WeightFormat format, const std::string& where) {
  NESTLING_CHECK_INPUT(format != WeightFormat::kNvfp4 || columns % kNvfp4Block == 0, where, ": ",
                       columns, " columns are no whole blocks of ", kNvfp4Block,
                       ", which NVFP4 needs");
}

void write_scales(Hdf5Writer& out, const std::string& name, const std::vector<float>& scales) {
  out.dataset(name, DType::kF32, host_view(scales), {std::ssize(scales)});
}

std::vector<float> read_scales(Hdf5File& in, const std::string& name, int64_t count) {
  const Hdf5Dataset data = in.dataset(name);
  if (data.dtype() != DType::kF32 || data.shape() != Shape{count})
    in.fail(name, str("needs f32 [", count, "]"));
  std::vector<float> scales(static_cast<size_t>(count));
  data.read(host_view(scales));
  return scales;
}

TensorScales read_tensor_scales(Hdf5File& in, const ModelConfig& config, const ParameterSpec& spec,
                                WeightFormat format) {
  const std::string group = quantized_group(spec);
  if (!takes_codes(config, spec)) in.fail(group, "codes of a parameter that is never quantized");
  if (in.has(weight_dataset(spec))) in.fail(group, "is in /weights too");
  TensorScales scales{
      .weight = read_scales(in, group + "/weight_scale", published_matrix(spec).count),
      .input = read_scales(in, group + "/input_scale", 1).front()};
  check_scales(scales, format, in.path().string() + ": " + group);
  return scales;
}

}  // namespace

std::vector<WeightPart> weight_parts(const ParameterSpec& spec, StoredType precision,
                                     std::optional<WeightFormat> format) {
  if (!format)
    return {
        {.dataset = weight_dataset(spec), .type = *kernel_type(published_type(spec, precision))}};
  const std::string group = quantized_group(spec);
  if (format == WeightFormat::kFp8) return {{.dataset = group + "/codes", .type = DType::kU8}};
  return {{.dataset = group + "/codes", .type = DType::kU8, .packed = 2},
          {.dataset = group + "/block_scales", .type = DType::kU8, .packed = kNvfp4Block}};
}

std::optional<WeightFormat> format_of(const std::optional<Quantization>& q, int64_t i) {
  if (!q || !q->parameters.at(static_cast<size_t>(i))) return std::nullopt;
  return q->format;
}

void check_quantizable(const ElasticModel& model, WeightFormat format, const std::string& where) {
  for (const Size& s : model.sizes)
    check_quantizable(model.config, format, s.widths, where + ": size " + s.name);
  for (const Widths& edge :
       choice_edges(model.config, std::ssize(model.sizes), model.router, where))
    check_quantizable(model.config, format, edge, where + ": a choice of the router");
}

void check_elastic_quantization(const ElasticModel& model, const Quantization& q,
                                const std::string& where) {
  const std::vector<ParameterSpec> specs = parameter_list(model.config);
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!q.parameters.at(i)) continue;
    NESTLING_CHECK(takes_codes(model.config, specs[i]), where, ": codes of ", specs[i].name,
                   ", which is never quantized");
    check_scales(*q.parameters[i], q.format, where + ": " + quantized_group(specs[i]));
  }
  NESTLING_CHECK(std::ranges::any_of(q.parameters, [](const auto& s) { return s.has_value(); }),
                 where, ": no weight is quantized");
  check_whole_tensors(model.config, q, where);
  check_quantizable(model, q.format, where);
}

void write_elastic_quantization(Hdf5Writer& out, const std::vector<ParameterSpec>& specs,
                                const Quantization& q) {
  out.group(kGroup);
  out.attribute(kGroup, "format", weight_format_name(q.format));
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!q.parameters[i]) continue;
    const std::string group = quantized_group(specs[i]);
    write_scales(out, group + "/weight_scale", q.parameters[i]->weight);
    write_scales(out, group + "/input_scale", {q.parameters[i]->input});
  }
}

std::optional<Quantization> read_elastic_quantization(Hdf5File& in, const ModelConfig& config,
                                                      const std::vector<SizedParameter>& sized) {
  if (!in.has(kGroup)) return std::nullopt;
  const std::vector<ParameterSpec> specs = parameter_list(config);
  Quantization q{.format = parse_weight_format(in.text_attribute(kGroup, "format"),
                                               in.path().string() + ": " + kGroup),
                 .parameters = {}};
  q.parameters.resize(specs.size());
  for (const SizedParameter& p : sized) {
    const auto i = static_cast<size_t>(p.index);
    const std::string group = quantized_group(specs[i]);
    if (!in.has(group)) continue;
    check_blocks(p.extents.back(), q.format, in.path().string() + ": " + group);
    q.parameters[i] = read_tensor_scales(in, config, specs[i], q.format);
  }
  if (in.names(kGroup).empty()) in.fail(kGroup, "holds no weight");
  check_whole_tensors(config, q, in.path().string() + ": " + kGroup);
  return q;
}

}  // namespace nestling
