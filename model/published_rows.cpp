#include "model/published_rows.h"

#include <cmath>
#include <cstring>
#include <map>

#include "kernels/ops/dequantize.h"
#include "model/interleave.h"

namespace nestling {

namespace {

// The part that holds a row of the published tensor, and its row in memory.
struct Place {
  size_t part;
  int64_t row;
};
Place place_of(const Weights& weights, const std::vector<int64_t>& parts, int64_t row) {
  for (size_t p = 0; p < parts.size(); ++p) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(parts[p])];
    const int64_t rows = published_matrix(spec).rows;
    const int64_t inside = row - spec.row_begin;
    if (inside >= 0 && inside < rows) return {p, memory_index(spec.rows, rows, inside)};
  }
  throw Error(str("row ", row, " of a published tensor belongs to no parameter"));
}

// What the codes of parameter i stand for.
Tensor values_of(const Weights& weights, int64_t i) {
  const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
  const PublishedMatrix m = published_matrix(spec);
  const TensorScales& scales = *weights.quantization()->parameters[static_cast<size_t>(i)];
  Context ctx(Device::kCpu);
  Tensor values(Device::kCpu, DType::kF32, {m.count, m.rows, m.cols});
  const auto matrix = [&](auto v, int64_t e, int64_t cols) {
    return v ? v.reshape({m.count, m.rows, cols}).slice(0, e, 1).reshape({m.rows, cols}) : v;
  };
  const ConstView codes = weights.codes(i);
  const int64_t code_bytes = codes.size() / (m.count * m.rows);
  for (int64_t e = 0; e < m.count; ++e)
    dequantize(ctx, {.y = matrix(values.view(), e, m.cols),
                     .codes = matrix(codes, e, code_bytes),
                     .block_scales = matrix(weights.block_scales(i), e, m.cols / kNvfp4Block),
                     .scale = scales.weight[static_cast<size_t>(e)]});
  return values;
}

}  // namespace

std::vector<NamedPublished> published_tensors(const Weights& weights) {
  std::vector<NamedPublished> order;
  std::map<std::string, size_t> place;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
    const int64_t tensors = spec.one_tensor ? 1 : published_matrix(spec).count;
    for (int64_t e = 0; e < tensors; ++e) {
      const std::string name = spec.published_of(e);
      const auto [at, fresh] = place.emplace(name, order.size());
      if (fresh) order.push_back({name, {.parts = {}, .expert = e}});
      order[at->second].from.parts.push_back(i);
    }
  }
  return order;
}

PublishedRows::PublishedRows(const Weights& weights, const std::vector<int64_t>& parts)
    : weights_(weights), parts_(parts) {
  for (const int64_t i : parts) {
    if (weights.codes(i)) made_.push_back(values_of(weights, i));
    matrices_.push_back(weights.codes(i) ? made_.back().ptr<float>()
                                         : weights.master(i).ptr<float>());
  }
}

void PublishedRows::read(int64_t expert, int64_t row, std::span<float> out) const {
  const Place at = place_of(weights_, parts_, row);
  const ParameterSpec& spec = weights_.specs()[static_cast<size_t>(parts_[at.part])];
  const PublishedMatrix m = published_matrix(spec);
  const float* from = matrices_[at.part] + (expert * m.rows + at.row) * m.cols;
  for (int64_t c = 0; c < m.cols; ++c)
    out[static_cast<size_t>(published_index(spec.cols, m.cols, c))] = from[c];
}

void fill_matrix(const ParameterSpec& spec, int64_t first_row, const ReadRow& read,
                 const std::string& where, float* out) {
  const PublishedMatrix m = published_matrix(spec);
  std::vector<float> row(static_cast<size_t>(m.cols));
  for (int64_t r = 0; r < m.rows; ++r) {
    const int64_t from = first_row + published_index(spec.rows, m.rows, r);
    read(from, row);
    for (int64_t c = 0; c < m.cols; ++c) {
      const float value = row[static_cast<size_t>(published_index(spec.cols, m.cols, c))];
      NESTLING_CHECK_INPUT(std::isfinite(value), where, ": element ", from * m.cols + c, " is ",
                           value);
      out[r * m.cols + c] = value;
    }
  }
}

void gather_codes(const Weights& weights, const Published& p, const CodeArray& a, int64_t row,
                  std::span<std::byte> out) {
  const Place at = place_of(weights, p.parts, row);
  const int64_t index = p.parts[at.part];
  const ParameterSpec& spec = weights.specs()[static_cast<size_t>(index)];
  const PublishedMatrix m = published_matrix(spec);
  const ConstView memory = a.blocks ? weights.block_scales(index) : weights.codes(index);
  const int64_t units = m.cols / a.elements;
  const std::byte* from = memory.data() + (p.expert * m.rows + at.row) * a.row_bytes(m.cols);
  for (int64_t u = 0; u < units; ++u)
    std::memcpy(out.data() + published_index(spec.cols, units, u) * a.unit, from + u * a.unit,
                static_cast<size_t>(a.unit));
}

void scatter_codes(const ParameterSpec& spec, int64_t first_row, const CodeArray& a,
                   const ReadCodes& read, std::byte* out) {
  const PublishedMatrix m = published_matrix(spec);
  const int64_t units = m.cols / a.elements;
  const int64_t bytes = a.row_bytes(m.cols);
  for (int64_t r = 0; r < m.rows; ++r) {
    const auto from = read(first_row + published_index(spec.rows, m.rows, r));
    for (int64_t u = 0; u < units; ++u)
      std::memcpy(out + r * bytes + u * a.unit,
                  from.data() + published_index(spec.cols, units, u) * a.unit,
                  static_cast<size_t>(a.unit));
  }
}

}  // namespace nestling
