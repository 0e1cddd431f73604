#include "model/gguf_import.h"

#include <algorithm>
#include <memory>
#include <set>

#include "model/gguf_names.h"
#include "model/gguf_rope.h"
#include "model/interleave.h"
#include "model/published_rows.h"

namespace nestling {

namespace {

std::string extents(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t d = 0; d < shape.size(); ++d) s += (d ? "," : "") + std::to_string(shape[d]);
  return s + "]";
}

// The tensors of a file by the parameters they hold, and which of them were used.
class GgufTensors {
 public:
  GgufTensors(const GgufFile& file, const ModelConfig& config) : file_(file), config_(config) {}

  const GgufStored& need(const std::string& name, const std::vector<int64_t>& shape) {
    const GgufStored* t = file_.find(name);
    NESTLING_CHECK_INPUT(t != nullptr, file_.name(), ": tensor ", name, " is missing");
    NESTLING_CHECK_INPUT(t->shape == shape, t->describe(), ": the keys ask for ", extents(shape));
    used_.insert(name);
    return *t;
  }
  const GgufStored& of(const ParameterSpec& spec, const GgufPlace& place) {
    return need(place.name, gguf_shape(config_, spec, place));
  }
  // The numbers beside a tensor of codes: one, or one an expert.
  std::vector<float> scales(const std::string& name, int64_t count) {
    const GgufStored& t = need(name, {count});
    NESTLING_CHECK_INPUT(t.type == GgmlType::kF32, t.describe(), ": needs F32");
    std::vector<float> out(static_cast<size_t>(count));
    decode_ggml_row(t.type, t.bytes, out);
    return out;
  }
  void pass_over(const std::string& name) { used_.insert(name); }
  void check_all_used() const {
    for (const GgufStored& t : file_.tensors())
      NESTLING_CHECK_INPUT(used_.contains(t.name), t.describe(),
                           ": belongs to no layer of the model");
  }

 private:
  const GgufFile& file_;
  const ModelConfig& config_;
  std::set<std::string> used_;
};

std::vector<float> numbers_of(const GgufStored& t) {
  int64_t count = 1;
  for (const int64_t n : t.shape) count *= n;
  std::vector<float> out(static_cast<size_t>(count));
  decode_ggml_row(t.type, t.bytes, out);  // whole blocks stand one after another
  return out;
}

// Whether any layer's convolution has a bias that is not zero.
bool has_conv_bias(const GgufFile& file, const ModelConfig& config) {
  for (int64_t l = 0; l < config.layers(); ++l) {
    const GgufStored* t = file.find(gguf_conv_bias(config, l));
    if (t == nullptr) continue;
    NESTLING_CHECK_INPUT(t->type != GgmlType::kNvfp4, t->describe(), ": a bias in codes");
    const std::vector<float> bias = numbers_of(*t);
    if (std::ranges::any_of(bias, [](float x) { return x != 0; })) return true;
  }
  return false;
}

bool is_codes(const GgufStored& t) {
  return t.type == GgmlType::kNvfp4;
}

// Every tensor of the config is there, of its shape, and no other.
void check_tensors(const GgufFile& file, const ModelConfig& config) {
  GgufTensors tensors(file, config);
  for (const ParameterSpec& spec : parameter_list(config)) {
    const GgufPlace place = place_in_gguf(config, spec);
    const GgufStored& t = tensors.of(spec, place);
    if (!is_codes(t)) continue;
    NESTLING_CHECK_INPUT(takes_codes(config, spec), t.describe(),
                         ": no product here takes codes of it; needs another type");
    NESTLING_CHECK_INPUT(spec.dims.back().extent % kNvfp4Block == 0, t.describe(), ": runs of ",
                         spec.dims.back().extent, " columns are no whole blocks of ", kNvfp4Block);
    const std::string module = gguf_module(place.name);
    tensors.scales(module + ".scale", published_matrix(spec).count);
    tensors.scales(module + ".input_scale", published_matrix(spec).count);
  }
  for (int64_t l = 0; l < config.layers() && !config.conv_bias; ++l)
    tensors.pass_over(gguf_conv_bias(config, l));  // zeros
  if (gguf_architecture_of(config, file.name()).rope_factors) tensors.pass_over(kRopeFactors);
  tensors.check_all_used();
}

// Llama 3's scaling of positions; of a file without factors none.
RopeScaling read_rope_scaling(const GgufFile& file, const ModelConfig& config) {
  const GgufStored* t = file.find(kRopeFactors);
  if (t == nullptr || !gguf_architecture_of(file).rope_factors) return {};
  NESTLING_CHECK_INPUT(t->type == GgmlType::kF32 && t->shape == std::vector{config.rotary / 2},
                       t->describe(), ": needs F32 [", config.rotary / 2, "]");
  const auto scaling = rope_scaling_of(numbers_of(*t), config.rope_theta);
  NESTLING_CHECK_INPUT(scaling.has_value(), t->describe(),
                       ": no scaling of positions as Llama 3's gives these factors");
  return *scaling;
}

// Rows of a tensor as published ones.
class StoredRows {
 public:
  StoredRows(const GgufStored& tensor, const GgufPlace& place, const PublishedMatrix& m)
      : tensor_(tensor), place_(place), cols_(m.cols) {
    if (m.cols == 1) vector_ = numbers_of(tensor);
  }
  // Row `published` of expert `expert`, or of the only one.
  void read(int64_t expert, int64_t published, std::span<float> out) const {
    const int64_t row = expert * place_.rows + place_.row_of(published);
    if (cols_ == 1)
      out[0] = vector_[static_cast<size_t>(row)];
    else
      decode_ggml_row(tensor_.type, tensor_.row(row), out);
    for (float& x : out) x = from_gguf_form(place_.form, x);
  }

 private:
  const GgufStored& tensor_;
  const GgufPlace& place_;
  int64_t cols_;
  std::vector<float> vector_;  // of one column: all of it
};

void import_numbers(const GgufStored& t, const GgufPlace& place, const ParameterSpec& spec,
                    View values) {
  const PublishedMatrix m = published_matrix(spec);
  const StoredRows rows(t, place, m);
  const std::string where = t.describe();
  for (int64_t e = 0; e < m.count; ++e)
    fill_matrix(
        spec, spec.row_begin, [&](int64_t row, std::span<float> out) { rows.read(e, row, out); },
        where, values.ptr<float>() + e * m.rows * m.cols);
}

void read_parameter(GgufTensors& tensors, const ModelConfig& config, const ParameterSpec& spec,
                    View values) {
  const GgufPlace place = place_in_gguf(config, spec);
  const GgufStored& t = tensors.of(spec, place);
  NESTLING_CHECK_INPUT(!is_codes(t), t.describe(),
                       ": its weights are codes, which run but are neither trained nor trained "
                       "from; needs another type");
  import_numbers(t, place, spec, values);
}

void import_nvfp4(const GgufStored& t, const GgufPlace& place, const ParameterSpec& spec,
                  View codes, View block_scales) {
  const PublishedMatrix m = published_matrix(spec);
  std::vector<std::byte> row_codes(static_cast<size_t>(kNvfp4Codes.row_bytes(m.cols)));
  std::vector<std::byte> row_scales(static_cast<size_t>(kBlockScales.row_bytes(m.cols)));
  const auto fill = [&](const CodeArray& a, View to, int64_t e) {
    scatter_codes(
        spec, spec.row_begin, a,
        [&](int64_t row) -> std::span<const std::byte> {
          unpack_nvfp4_row(t.row(e * place.rows + place.row_of(row)), row_codes, row_scales);
          return a.blocks ? row_scales : row_codes;
        },
        to.data() + e * m.rows * a.row_bytes(m.cols));
  };
  for (int64_t e = 0; e < m.count; ++e) {
    fill(kNvfp4Codes, codes, e);
    fill(kBlockScales, block_scales, e);
  }
  check_codes({block_scales.data(), static_cast<size_t>(block_scales.bytes())}, true, t.describe());
}

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  ModelConfig config = gguf_keys_config(file);
  config.tied = file.find("output.weight") == nullptr;
  config.conv_bias = has_conv_bias(file, config);
  config.rope_scaling = read_rope_scaling(file, config);
  config.validate(file.name());
  check_tensors(file, config);
  return config;
}

std::optional<Quantization> read_gguf_quantization(const GgufFile& file,
                                                   const ModelConfig& config) {
  const std::vector<ParameterSpec> specs = parameter_list(config);
  Quantization q{.format = WeightFormat::kNvfp4, .parameters = {}};
  q.parameters.resize(specs.size());
  bool any = false;
  GgufTensors tensors(file, config);
  for (size_t i = 0; i < specs.size(); ++i) {
    const GgufPlace place = place_in_gguf(config, specs[i]);
    if (!is_codes(tensors.of(specs[i], place))) continue;
    const std::string module = gguf_module(place.name);
    const int64_t count = published_matrix(specs[i]).count;
    const std::vector<float> inputs = tensors.scales(module + ".input_scale", count);
    TensorScales scales{.weight = tensors.scales(module + ".scale", count),
                        .input = *std::ranges::max_element(inputs)};
    check_scales(scales, q.format, file.name() + ": tensor " + place.name);
    q.parameters[i] = std::move(scales);
    any = true;
  }
  return any ? std::optional(std::move(q)) : std::nullopt;
}

void import_gguf_weights(const GgufFile& file, const ModelConfig& config, Weights& weights,
                         const Order* order) {
  NESTLING_CHECK(!weights.quantization() || weights.device() == Device::kCpu,
                 "codes are read on the CPU");
  NESTLING_CHECK(order == nullptr || !weights.quantization(), "codes are not put in another order");
  if (order != nullptr) check_order(config, *order);
  GgufTensors tensors(file, config);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    if (weights.codes(i)) {
      const GgufPlace place = place_in_gguf(config, spec);
      import_nvfp4(tensors.of(spec, place), place, spec, weights.codes(i), weights.block_scales(i));
      continue;
    }
    weights.fill(i, [&](View values) {
      read_parameter(tensors, config, spec, values);
      if (order != nullptr) permute(spec, *order, values);
    });
  }
  Context ctx(weights.device());
  weights.refresh_low(ctx);
  ctx.synchronize();
}

ParameterSource gguf_parameters(const GgufFile& file, const ModelConfig& config,
                                const Order* order) {
  auto specs = std::make_shared<std::vector<ParameterSpec>>(parameter_list(config));
  int64_t largest = 0;
  for (const ParameterSpec& spec : *specs) largest = std::max(largest, spec.size());
  auto memory =
      std::make_shared<Tensor>(Device::kCpu, DType::kF32, std::initializer_list<int64_t>{largest});
  return [&file, &config, order, specs, memory](int64_t i) -> ConstView {
    const ParameterSpec& spec = (*specs)[static_cast<size_t>(i)];
    GgufTensors tensors(file, config);
    const View values = spec.view_of(memory->view().data(), DType::kF32, Device::kCpu);
    read_parameter(tensors, config, spec, values);
    if (order != nullptr) permute(spec, *order, values);
    return values;
  };
}

}  // namespace nestling
