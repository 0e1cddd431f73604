#include "model/elastic_layout.h"

#include <numeric>

namespace nestling {

namespace {

int64_t width_in(const Widths& widths, const ParameterSpec& spec, size_t d) {
  const Dim& dim = spec.dims[d];
  if (dim.axis == Axis::kNone) return dim.extent;
  return width_of(widths, std::max<int64_t>(spec.layer, 0), dim.axis);
}

bool is_kept(const Widths& widths, const ParameterSpec& spec) {
  return spec.layer < 0 || widths.layers[static_cast<size_t>(spec.layer)].kept != 0;
}

int64_t smallest_factor(int64_t n) {
  for (int64_t p = 2; p * p <= n; ++p)
    if (n % p == 0) return p;
  return n;
}

int64_t product(const std::vector<int64_t>& extents, int64_t n) {
  for (const int64_t e : extents) n *= e;
  return n;
}

}  // namespace

std::string weight_dataset(const ParameterSpec& spec) {
  std::string name = spec.name;
  if (const size_t at = name.find("{e}."); at != std::string::npos) name.erase(at, 4);
  return "/weights/" + name;
}

std::vector<SizedParameter> sized_parameters(const std::vector<ParameterSpec>& specs,
                                             const Widths& widths) {
  std::vector<SizedParameter> sized;
  for (int64_t i = 0; i < std::ssize(specs); ++i) {
    const ParameterSpec& spec = specs[static_cast<size_t>(i)];
    if (!is_kept(widths, spec)) continue;
    SizedParameter p{.index = i, .extents = {}};
    for (size_t d = 0; d < spec.dims.size(); ++d) p.extents.push_back(width_in(widths, spec, d));
    sized.push_back(std::move(p));
  }
  return sized;
}

std::vector<int64_t> weight_chunk(const ParameterSpec& spec, const std::vector<Widths>& sizes,
                                  int64_t element_bytes, int64_t packed) {
  std::vector<int64_t> chunk;
  for (const Dim& d : spec.dims) chunk.push_back(d.extent);
  chunk.back() /= packed;
  const int64_t whole = product(chunk, element_bytes);
  if (whole < kLeastChunkBytes) return chunk;
  for (const Widths& widths : sizes)
    for (size_t d = 0; d < chunk.size(); ++d)
      if (is_kept(widths, spec))
        chunk[d] =
            std::gcd(chunk[d], width_in(widths, spec, d) / (d + 1 == chunk.size() ? packed : 1));
  const int64_t most = std::max(kMostChunkBytes, whole / kMostChunks);
  for (size_t d = 0; d < chunk.size();) {  // outer dimensions first: rows stay long
    const int64_t bytes = product(chunk, element_bytes);
    if (bytes <= most) break;
    const int64_t factor = smallest_factor(chunk[d]);
    if (factor > 1 && bytes / factor >= kLeastChunkBytes)
      chunk[d] /= factor;
    else
      ++d;
  }
  return chunk;
}

}  // namespace nestling
