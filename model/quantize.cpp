#include "model/quantize.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/ops/fp8_linear.h"
#include "kernels/ops/nvfp4_linear.h"
#include "model/interleave.h"

namespace nestling {

namespace {

float largest_size(ConstView x, const std::string& name) {
  const float* values = x.ptr<float>();
  float most = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    NESTLING_CHECK_INPUT(std::isfinite(values[i]), name, ": a weight is ", values[i]);
    most = std::max(most, std::abs(values[i]));
  }
  return most;
}

float scale_of(WeightFormat format, float largest) {
  return largest > 0 ? largest / weight_format_largest(format) : 1.0f;
}

// fn(of, scale) of every tensor that has a scale: all of a parameter, or each of its experts.
template <class Fn>
void each_tensor(const ParameterSpec& spec, int64_t scales, const Fn& fn) {
  const auto matrix = [](auto v) { return v.reshape({v.rows(), v.dim(v.rank() - 1)}); };
  if (!spec.stacked()) return fn(matrix, int64_t{0});
  for (int64_t e = 0; e < scales; ++e) fn([&](auto v) { return matrix(v.slice(0, e, 1)); }, e);
}

// Tensors of one name have one scale: parts of a published tensor, and what gates an activation with what it gates,
// which programs that serve join to one product.
std::string scaled_as(const ParameterSpec& spec) {
  std::string name = spec.published;
  constexpr std::string_view kGate = "gate_proj";
  if (const size_t at = name.find(kGate); at != std::string::npos)
    name.replace(at, kGate.size(), "up_proj");
  return name;
}

}  // namespace

Quantization weight_scales(const ModelConfig& config, WeightFormat format, const Weights& from) {
  const std::vector<bool> quantized = quantized_parameters(config);
  Quantization q{.format = format, .parameters = {}};
  q.parameters.resize(quantized.size());
  std::map<std::string, std::vector<float>> largest;  // by expert
  for (int64_t i = 0; i < from.count(); ++i) {
    if (!quantized[static_cast<size_t>(i)]) continue;
    const ParameterSpec& spec = from.specs()[static_cast<size_t>(i)];
    std::vector<float>& most = largest[scaled_as(spec)];
    most.resize(static_cast<size_t>(published_matrix(spec).count));
    each_tensor(spec, std::ssize(most), [&](const auto& of, int64_t e) {
      float& mine = most[static_cast<size_t>(e)];
      mine = std::max(mine, largest_size(of(from.master(i)), spec.name));
    });
  }
  for (int64_t i = 0; i < from.count(); ++i) {
    if (!quantized[static_cast<size_t>(i)]) continue;
    TensorScales scales;
    for (const float most : largest.at(scaled_as(from.specs()[static_cast<size_t>(i)])))
      scales.weight.push_back(scale_of(format, most));
    q.parameters[static_cast<size_t>(i)] = std::move(scales);
  }
  return q;
}

void set_input_scales(Quantization& q, const ModelConfig& config, std::span<const float> largest) {
  const std::vector<ParameterSpec> specs = parameter_list(config);
  NESTLING_CHECK(largest.size() == specs.size() && q.parameters.size() == specs.size(),
                 "ranges of ", largest.size(), " parameters for ", specs.size());
  std::map<std::string, float> of_published;
  for (size_t i = 0; i < specs.size(); ++i) {
    float& most = of_published[scaled_as(specs[i])];
    most = std::max(most, largest[i]);
  }
  for (size_t i = 0; i < specs.size(); ++i)
    if (auto& scales = q.parameters[i])
      scales->input = scale_of(q.format, of_published[scaled_as(specs[i])]);
}

Quantization unit_scales(const ModelConfig& config, WeightFormat format) {
  const std::vector<ParameterSpec> specs = parameter_list(config);
  const std::vector<bool> quantized = quantized_parameters(config);
  Quantization q{.format = format, .parameters = {}};
  q.parameters.resize(specs.size());
  for (size_t i = 0; i < specs.size(); ++i)
    if (quantized[i])
      q.parameters[i] = TensorScales{
          .weight = std::vector<float>(static_cast<size_t>(published_matrix(specs[i]).count), 1.0f),
          .input = 1.0f};
  return q;
}

void make_codes(Context& ctx, const MakeCodes& a) {
  each_tensor(a.spec, std::ssize(a.scales), [&](const auto& of, int64_t e) {
    const float scale = a.scales[static_cast<size_t>(e)];
    if (a.block_scales)
      nvfp4_quantize(
          ctx,
          {.codes = of(a.codes), .scales = of(a.block_scales), .x = of(a.values), .scale = scale});
    else
      fp8_quantize(ctx, {.codes = of(a.codes), .x = of(a.values), .scale = scale});
  });
}

Weights quantize_weights(Context& ctx, const ModelConfig& config, const Weights& from,
                         Quantization q, DType compute) {
  Weights to(config, Device::kCpu, {.compute = compute, .quantization = std::move(q)});
  for (int64_t i = 0; i < to.count(); ++i) {
    const View codes = to.codes(i);
    if (!codes) {
      copy(to.master(i), from.master(i));
      continue;
    }
    make_codes(ctx, {.spec = to.specs()[static_cast<size_t>(i)],
                     .codes = codes,
                     .block_scales = to.block_scales(i),
                     .values = from.master(i),
                     .scales = to.quantization()->parameters[static_cast<size_t>(i)]->weight});
  }
  to.refresh_low(ctx);
  return to;
}

}  // namespace nestling
