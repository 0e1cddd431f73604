#include "model/published_numbers.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "data/widen.h"
#include "kernels/core/tensor.h"
#include "model/huggingface.h"
#include "model/interleave.h"
#include "model/order.h"
#include "model/published_rows.h"

namespace nestling {

namespace {

// Rows of a stored matrix, each as f32.
ReadRow rows_of(const StoredTensor& tensor, int64_t cols) {
  return [&tensor, cols](int64_t row, std::span<float> out) {
    const int64_t length = cols * stored_bits(tensor.type) / 8;
    const auto bytes =
        tensor.bytes.subspan(static_cast<size_t>(row * length), static_cast<size_t>(length));
    if (tensor.type == StoredType::kF32)
      std::memcpy(out.data(), bytes.data(), bytes.size());
    else
      widen_to_float(tensor.type, bytes, out.data());
  };
}

}  // namespace

void read_numbers(PublishedTensors& tensors, const ParameterSpec& spec, float* out,
                  const std::function<void(const std::string&, StoredType)>& fn) {
  const PublishedMatrix m = published_matrix(spec);
  tensors.each_of(spec, [&](const StoredTensor& tensor, int64_t row, int64_t expert) {
    check_numbers(tensor);
    fill_matrix(spec, row, rows_of(tensor, m.cols), tensor.describe(),
                out + expert * m.rows * m.cols);
    if (fn) fn(spec.published_of(expert), tensor.type);
  });
}

ParameterSource published_parameters(PublishedTensors& tensors, const ModelConfig& config,
                                     const Order* order) {
  auto specs = std::make_shared<std::vector<ParameterSpec>>(parameter_list(config));
  int64_t largest = 0;
  for (const ParameterSpec& spec : *specs) largest = std::max(largest, spec.size());
  auto values =
      std::make_shared<Tensor>(Device::kCpu, DType::kF32, std::initializer_list<int64_t>{largest});
  return [&tensors, order, specs, values](int64_t i) -> ConstView {
    const ParameterSpec& spec = (*specs)[static_cast<size_t>(i)];
    read_numbers(tensors, spec, values->ptr<float>());
    const View whole = spec.view_of(values->view().data(), DType::kF32, Device::kCpu);
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
