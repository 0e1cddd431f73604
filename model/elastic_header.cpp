#include "model/elastic_header.h"

#include <array>
#include <nlohmann/json.hpp>
#include <span>

#include "kernels/core/host_view.h"
#include "model/asked_size.h"
#include "model/huggingface.h"
#include "model/order.h"

namespace nestling {

namespace {

constexpr std::array kColumns = {Axis::kMambaHeads, Axis::kMambaChannels, Axis::kState,
                                 Axis::kQueryHeads, Axis::kFfn,           Axis::kExperts,
                                 Axis::kExpertFfn,  Axis::kSharedFfn,     Axis::kLayers};

std::string column_names() {
  std::string names;
  for (const Axis axis : kColumns)
    names += (names.empty() ? "" : ",") + std::string(axis_name(axis));
  return names;
}

// Lists of one dimension are whole chunks up to this, and pieces of a dividing length above.
template <class T>
void write_list(Hdf5Writer& out, const std::string& name, const std::vector<T>& values) {
  int64_t chunk = std::ssize(values);
  while (chunk * dtype_bytes(DTypeOf<T>::kValue) > (int64_t{1} << 24) && chunk % 2 == 0) chunk /= 2;
  out.dataset(name, DTypeOf<T>::kValue, host_view(values), {chunk});
}
template <class T>
std::vector<T> read_list(Hdf5File& in, const std::string& name) {
  const Hdf5Dataset data = in.dataset(name);
  if (data.dtype() != DTypeOf<T>::kValue || data.shape().size() != 1)
    in.fail(name, str("needs ", dtype_name(DTypeOf<T>::kValue), " [n]"));
  std::vector<T> values(static_cast<size_t>(data.shape()[0]));
  data.read(host_view(values));
  return values;
}

template <class T>
void write_units(Hdf5Writer& out, const std::string& group, const Units<T>& units) {
  out.group(group);
  if (!units.hidden.empty()) write_list(out, group + "/hidden", units.hidden);
  if (!units.depth.empty()) write_list(out, group + "/depth", units.depth);
  for (size_t l = 0; l < units.layers.size(); ++l)
    for (const auto& [axis, values] : units.layers[l])
      write_list(out, group + "/layers/" + std::to_string(l) + "/" + axis_name(axis), values);
}

template <class T>
Units<T> read_units(Hdf5File& in, const std::string& group, const ModelConfig& config) {
  Units<T> units;
  const auto list = [&](const std::string& name, Axis axis, std::vector<T>& values) {
    if (!in.has(group + name)) return;
    values = read_list<T>(in, group + name);
    if (std::ssize(values) != unit_count(config, axis))
      in.fail(group + name, str(values.size(), " values, needs ", unit_count(config, axis)));
  };
  list("/hidden", Axis::kHidden, units.hidden);
  list("/depth", Axis::kLayers, units.depth);
  if (!in.has(group + "/layers")) return units;
  units.layers.resize(static_cast<size_t>(config.layers()));
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_of(config, config.kind(l))) {
      const std::string name = "/layers/" + std::to_string(l) + "/" + axis_name(axis);
      if (in.has(group + name)) list(name, axis, units.layers[static_cast<size_t>(l)][axis]);
    }
  return units;
}

std::string size_group(const std::string& name) {
  return "/elastic/sizes/" + name;
}

std::string names_of(std::span<const char* const> all) {
  std::string names;
  for (const char* name : all) names += (names.empty() ? "" : ",") + std::string(name);
  return names;
}

const Shape kLatencyShape = {std::ssize(kLatencyParts), std::ssize(kLatencyRates)};

void write_latency(Hdf5Writer& out, const std::string& group, const LatencyTerms& t) {
  out.attribute(group, "measured_on", t.measured_on);
  out.attribute(group, "context", t.context);
  out.attribute(group, "batch", t.batch);
  std::vector<double> table;
  for (const auto& part : t.ns) table.insert(table.end(), part.begin(), part.end());
  out.dataset(group + "/latency", DType::kF64,
              host_view(table).reshape({kLatencyShape[0], kLatencyShape[1]}), kLatencyShape);
  out.attribute(group + "/latency", "rows", names_of(kLatencyParts));
  out.attribute(group + "/latency", "columns", names_of(kLatencyRates));
}

LatencyTerms read_latency(Hdf5File& in, const std::string& group) {
  LatencyTerms t{.measured_on = in.text_attribute(group, "measured_on"),
                 .context = in.integer_attribute(group, "context"),
                 .batch = in.integer_attribute(group, "batch")};
  const std::string name = group + "/latency";
  if (in.text_attribute(name, "rows") != names_of(kLatencyParts) ||
      in.text_attribute(name, "columns") != names_of(kLatencyRates))
    in.fail(name, str("rows are not ", names_of(kLatencyParts), ", or columns not ",
                      names_of(kLatencyRates)));
  const Hdf5Dataset data = in.dataset(name);
  if (data.dtype() != DType::kF64 || data.shape() != kLatencyShape)
    in.fail(name, str("needs f64 [", kLatencyShape[0], ",", kLatencyShape[1], "]"));
  std::vector<double> table(kLatencyParts.size() * kLatencyRates.size());
  data.read(host_view(table).reshape({kLatencyShape[0], kLatencyShape[1]}));
  for (size_t i = 0; i < table.size(); ++i)
    t.ns[i / kLatencyRates.size()][i % kLatencyRates.size()] = table[i];
  return t;
}

std::string measured_group(const std::string& size) {
  return size_group(size) + "/measured";
}

std::optional<MeasuredQuality> read_measured(Hdf5File& in, const std::string& size) {
  const std::string group = measured_group(size);
  if (!in.has(group)) return {};
  MeasuredQuality m{.tokens = in.integer_attribute(group, "tokens"),
                    .problems = in.integer_attribute(group, "problems"),
                    .compute = in.text_attribute(group, "compute")};
  if (m.tokens > 0) {
    m.kl = in.number_attribute(group, "kl_to_parent");
    m.nll = in.number_attribute(group, "nll");
  }
  if (m.problems > 0) m.accuracy = in.number_attribute(group, "accuracy");
  return m;
}

void write_size(Hdf5Writer& out, const Size& size, int64_t place) {
  const std::string group = size_group(size.name);
  out.group(group);
  out.attribute(group, "place", place);
  out.attribute(group, "target", cost_kind_name(size.target.kind));
  out.attribute(group, "budget", size.budget);
  if (size.target.kind == CostKind::kMemory) {
    const MemoryTerms& m = size.target.memory;
    out.attribute(group, "weight_bytes", m.weight_bytes);
    out.attribute(group, "context", m.context);
    out.attribute(group, "batch", m.batch);
    out.attribute(group, "cache_bytes", m.cache_bytes);
    out.attribute(group, "state_bytes", m.state_bytes);
  }
  if (size.target.kind == CostKind::kLatency) write_latency(out, group, size.target.latency);
  out.attribute(group, "hidden", size.widths.hidden);
  std::vector<int64_t> table;
  const int64_t layers = std::ssize(size.widths.layers);
  for (int64_t l = 0; l < layers; ++l)
    for (const Axis axis : kColumns) table.push_back(width_of(size.widths, l, axis));
  const int64_t columns = std::ssize(kColumns);
  out.dataset(group + "/layers", DType::kI64, host_view(table).reshape({layers, columns}),
              {layers, columns});
  out.attribute(group + "/layers", "columns", column_names());
  if (size.measured) write_elastic_measured(out, size.name, *size.measured);
}

}  // namespace

void write_elastic_measured(Hdf5Writer& out, const std::string& size, const MeasuredQuality& m) {
  const std::string group = measured_group(size);
  out.remove(group);
  out.group(group);
  out.attribute(group, "tokens", m.tokens);
  out.attribute(group, "problems", m.problems);
  out.attribute(group, "compute", m.compute);
  if (m.tokens > 0) {
    out.attribute(group, "kl_to_parent", m.kl);
    out.attribute(group, "nll", m.nll);
  }
  if (m.problems > 0) out.attribute(group, "accuracy", m.accuracy);
}

std::vector<std::string> read_elastic_size_names(Hdf5File& in) {
  const std::vector<std::string> found = in.names("/elastic/sizes");
  std::vector<std::string> names(found.size());
  for (const std::string& name : found) {
    const int64_t place = in.integer_attribute(size_group(name), "place");
    if (place < 0 || place >= std::ssize(names) || !names[static_cast<size_t>(place)].empty())
      in.fail(size_group(name), str("place ", place, " among ", names.size(), " sizes"));
    names[static_cast<size_t>(place)] = name;
  }
  return names;
}

Size read_elastic_size(Hdf5File& in, const ModelConfig& config, const std::string& name) {
  const std::string group = size_group(name);
  const std::string where = in.path().string() + ": " + group;
  Size size{
      .name = name, .target = {}, .budget = in.number_attribute(group, "budget"), .widths = {}};
  size.target.kind = parse_cost_kind(in.text_attribute(group, "target"), where);
  if (size.target.kind == CostKind::kMemory)
    size.target.memory = {.weight_bytes = in.number_attribute(group, "weight_bytes"),
                          .context = in.integer_attribute(group, "context"),
                          .batch = in.integer_attribute(group, "batch"),
                          .cache_bytes = in.number_attribute(group, "cache_bytes"),
                          .state_bytes = in.number_attribute(group, "state_bytes")};
  if (size.target.kind == CostKind::kLatency) size.target.latency = read_latency(in, group);
  size.widths.hidden = in.integer_attribute(group, "hidden");
  if (in.text_attribute(group + "/layers", "columns") != column_names())
    in.fail(group + "/layers", "columns are not " + column_names());
  const Hdf5Dataset data = in.dataset(group + "/layers");
  const Shape shape = {config.layers(), std::ssize(kColumns)};
  if (data.dtype() != DType::kI64 || data.shape() != shape)
    in.fail(group + "/layers", str("needs i64 [", shape[0], ",", shape[1], "]"));
  std::vector<int64_t> table(static_cast<size_t>(shape[0] * shape[1]));
  data.read(host_view(table).reshape({shape[0], shape[1]}));
  size.widths.layers.resize(static_cast<size_t>(shape[0]));
  for (int64_t l = 0; l < shape[0]; ++l)
    for (int64_t c = 0; c < shape[1]; ++c)
      width_of(size.widths, l, kColumns[static_cast<size_t>(c)]) =
          table[static_cast<size_t>(l * shape[1] + c)];
  check_widths(config, size.widths, where);
  size.measured = read_measured(in, name);
  return size;
}

ModelConfig read_elastic_config(Hdf5File& in) {
  const int64_t version = in.integer_attribute("/model", "format_version");
  if (version != kElasticFormatVersion)
    in.fail("/model",
            str("format version ", version, ", this program reads ", kElasticFormatVersion));
  const std::string name = in.path().string() + ": /model/config";
  const JsonDocument document = parse_json(in.text("/model/config"), name);
  return parse_model_config(document.root(), name);
}

StoredType read_elastic_precision(Hdf5File& in) {
  const std::string text = in.text_attribute("/model", "precision");
  const std::optional<StoredType> type = parse_stored_type(text);
  if (!type || (*type != StoredType::kBF16 && *type != StoredType::kF32))
    in.fail("/model", "precision '" + text + "', needs BF16 or F32");
  return *type;
}

void write_elastic_parts(Hdf5Writer& out, const ElasticModel& m, StoredType precision) {
  out.group("/model");
  out.attribute("/model", "format_version", kElasticFormatVersion);
  out.attribute("/model", "precision", stored_name(precision));
  for (const char* key : {provenance::kParent, provenance::kParentDigest})
    if (const auto at = m.provenance.find(key); at != m.provenance.end())
      out.attribute("/model", key, at->second);
  out.text("/model/config", dump_json(model_config_json(m.config, precision)));
  out.group("/elastic/sizes");
  for (size_t s = 0; s < m.sizes.size(); ++s) write_size(out, m.sizes[s], static_cast<int64_t>(s));
  write_units(out, "/elastic/order", m.order);
  write_units(out, "/elastic/scores", m.scores);
  out.group("/router/tensors");
  out.text("/router/config", m.router.json);
  for (const auto& [name, values] : m.router.tensors)
    write_list(out, "/router/tensors/" + name, values);
  const auto texts = [&](const std::string& group, const std::map<std::string, std::string>& all) {
    out.group(group);
    for (const auto& [name, bytes] : all) out.text(group + "/" + name, bytes);
  };
  texts("/tokenizer", m.tokenizer);
  texts("/provenance", m.provenance);
}

std::map<std::string, std::string> read_elastic_texts(Hdf5File& in, const std::string& group) {
  std::map<std::string, std::string> all;
  for (const std::string& name : in.names(group)) all[name] = in.text(group + "/" + name);
  return all;
}

namespace {

RouterBlob read_router(Hdf5File& in) {
  RouterBlob router{.tensors = {}, .json = in.text("/router/config")};
  for (const std::string& name : in.names("/router/tensors"))
    router.tensors[name] = read_list<float>(in, "/router/tensors/" + name);
  return router;
}

}  // namespace

Size find_elastic_size(Hdf5File& in, const ModelConfig& config, const std::string& text) {
  std::vector<Size> sizes;
  for (const std::string& name : read_elastic_size_names(in)) {
    if (name == text) return read_elastic_size(in, config, name);
    sizes.push_back(read_elastic_size(in, config, name));
  }
  NESTLING_CHECK_INPUT(!sizes.empty(), in.path().string(), ": holds no size");
  return asked_size(config, sizes, read_router(in), text, in.path().string());
}

ElasticModel read_elastic_parts(Hdf5File& in) {
  ElasticModel m;
  m.config = read_elastic_config(in);
  for (const std::string& name : read_elastic_size_names(in))
    m.sizes.push_back(read_elastic_size(in, m.config, name));
  m.order = read_units<int64_t>(in, "/elastic/order", m.config);
  m.scores = read_units<double>(in, "/elastic/scores", m.config);
  m.router = read_router(in);
  m.tokenizer = read_elastic_texts(in, "/tokenizer");
  m.provenance = read_elastic_texts(in, "/provenance");
  check_elastic_model(m, in.path().string());
  return m;
}

}  // namespace nestling
