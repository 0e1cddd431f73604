#include "model/published_numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "data/widen.h"
#include "kernels/core/tensor.h"
#include "model/huggingface.h"
#include "model/interleave.h"
#include "model/order.h"

namespace nestling {

namespace {

// Rows [first_row, first_row + spec rows) of one published matrix into memory order.
void read_matrix(const StoredTensor& tensor, int64_t first_row, const ParameterSpec& spec,
                 const PublishedMatrix& m, float* out) {
  const int64_t item = stored_bits(tensor.type) / 8;
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    const int64_t from = first_row + published_index(spec.rows, m.rows, r);
    const auto bytes = tensor.bytes.subspan(static_cast<size_t>(from * m.cols * item),
                                            static_cast<size_t>(m.cols * item));
    if (tensor.type == StoredType::kF32)
      std::memcpy(row.data(), bytes.data(), bytes.size());
    else
      widen_to_float(tensor.type, bytes, row.data());
    for (int64_t c = 0; c < m.cols; ++c) {
      const float value = row[static_cast<size_t>(published_index(spec.cols, m.cols, c))];
      NESTLING_CHECK_INPUT(std::isfinite(value), tensor.describe(), ": element ", from * m.cols + c,
                           " is ", value);
      out[r * m.cols + c] = value;
    }
  }
}

}  // namespace

void read_numbers(PublishedTensors& tensors, const ParameterSpec& spec, float* out,
                  const std::function<void(const std::string&, StoredType)>& fn) {
  const PublishedMatrix m = published_matrix(spec);
  tensors.each_of(spec, [&](const StoredTensor& tensor, int64_t row, int64_t expert) {
    check_numbers(tensor);
    read_matrix(tensor, row, spec, m, out + expert * m.rows * m.cols);
    if (fn) fn(spec.published_of(expert), tensor.type);
  });
}

ParameterSource published_parameters(PublishedTensors& tensors, const ModelConfig& config,
                                     const Order* order) {
  auto specs = std::make_shared<std::vector<ParameterSpec>>(parameter_list(config));
  int64_t largest = 0;
  for (const ParameterSpec& spec : *specs) largest = std::max(largest, spec.size());
  auto values = std::make_shared<Tensor>(Device::kCpu, DType::kF32, std::initializer_list{largest});
  return [&tensors, order, specs, values](int64_t i) -> ConstView {
    const ParameterSpec& spec = (*specs)[static_cast<size_t>(i)];
    read_numbers(tensors, spec, values->ptr<float>());
    Extents shape{};
    for (size_t d = 0; d < spec.dims.size(); ++d) shape[d] = spec.dims[d].extent;
    const View whole(values->view().data(), DType::kF32, Device::kCpu, shape,
                     static_cast<int>(spec.dims.size()));
    if (order != nullptr) permute(spec, *order, whole);
    return whole;
  };
}

std::vector<const StoredTensor*> rounded_tensors(PublishedTensors& tensors,
                                                 const ModelConfig& config,
                                                 const std::optional<Quantization>& q,
                                                 StoredType type) {
  std::vector<const StoredTensor*> all;
  size_t next = 0;
  for (const ParameterSpec& spec : parameter_list(config)) {
    const size_t i = next++;
    const StoredType kept = published_type(spec, type);
    if (kept == StoredType::kF32 || (q && q->parameters[i])) continue;
    tensors.each_of(spec, [&](const StoredTensor& tensor, int64_t, int64_t) {
      const bool seen = !all.empty() && all.back() == &tensor;  // of another part, or expert
      if (tensor.type != kept && !seen) all.push_back(&tensor);
    });
  }
  return all;
}

}  // namespace nestling
