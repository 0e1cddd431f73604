#include "model/parameters.h"

namespace nestling {

namespace {
constexpr int64_t kAlignElements = 128;  // 256 bytes of bf16, 512 of f32
}

int64_t ParameterSpec::size() const {
  int64_t n = 1;
  for (const Dim& d : dims) n *= d.extent;
  return n;
}

int64_t ParameterSpec::padded_size() const {
  return (size() + kAlignElements - 1) / kAlignElements * kAlignElements;
}

std::vector<int64_t> ParameterSpec::shape() const {
  std::vector<int64_t> extents;
  for (const Dim& d : dims) extents.push_back(d.extent);
  return extents;
}

View ParameterSpec::view_of(std::byte* data, DType dtype, Device device) const {
  Extents extents{};
  for (size_t d = 0; d < dims.size(); ++d) extents[d] = dims[d].extent;
  return {data, dtype, device, extents, static_cast<int>(dims.size())};
}

std::string ParameterSpec::published_of(int64_t expert) const {
  const size_t at = published.find("{e}");
  if (at == std::string::npos) return published;
  return published.substr(0, at) + std::to_string(expert) + published.substr(at + 3);
}

std::vector<ParameterSpec> parameter_list(const ModelConfig& config) {
  struct Nothing {};
  std::vector<ParameterSpec> list;
  ModelParams<Nothing> fields;
  visit_parameters(config, fields,
                   [&](Nothing&, const ParameterSpec& spec) { list.push_back(spec); });
  return list;
}

}  // namespace nestling
