#include "model/elastic_file.h"

#include <algorithm>
#include <functional>

#include "data/crc32c.h"
#include "model/elastic_header.h"
#include "model/elastic_quantization.h"
#include "model/router_record.h"

namespace nestling {

namespace {

struct OpenPart {
  WeightPart part;
  Hdf5Dataset data;
};
using OpenParameter = std::vector<OpenPart>;

// The datasets of a size's parameters, each of the shape and type that /model and /quantization say: so
// nothing is allocated that the file does not hold.
std::vector<OpenParameter> open_weights(Hdf5File& in, const std::vector<ParameterSpec>& specs,
                                        const std::vector<SizedParameter>& sized,
                                        StoredType precision,
                                        const std::optional<Quantization>& q) {
  std::vector<OpenParameter> all;
  for (const SizedParameter& p : sized) {
    const ParameterSpec& spec = specs[static_cast<size_t>(p.index)];
    Shape extents;
    for (const Dim& d : spec.dims) extents.push_back(d.extent);
    all.emplace_back();
    for (WeightPart& part : weight_parts(spec, precision, format_of(q, p.index))) {
      Hdf5Dataset data = in.dataset(part.dataset);
      if (data.dtype() != part.type || data.shape() != part.shape(extents))
        in.fail(data.name(), "is not of the shape and type that /model says");
      all.back().push_back({std::move(part), std::move(data)});
    }
  }
  return all;
}

// A size about to be read: what it is, and where its weights are.
struct Opening {
  ModelConfig parent;
  Size size;
  StoredType precision;
  std::vector<SizedParameter> parameters;
  std::optional<Quantization> quantization;  // of the parent's list, where the size has it
  std::vector<OpenParameter> weights;        // of each parameter
};
Opening open_size(Hdf5File& in, ModelConfig parent, Size size) {
  Opening o{.parent = std::move(parent),
            .size = std::move(size),
            .precision = read_elastic_precision(in),
            .parameters = {},
            .quantization = {},
            .weights = {}};
  const std::vector<ParameterSpec> specs = parameter_list(o.parent);
  o.parameters = sized_parameters(specs, o.size.widths);
  o.quantization = read_elastic_quantization(in, o.parent, o.parameters);
  o.weights = open_weights(in, specs, o.parameters, o.precision, o.quantization);
  return o;
}
Opening open_size(Hdf5File& in, const std::string& text) {
  ModelConfig parent = read_elastic_config(in);
  Size size = find_elastic_size(in, parent, text);
  return open_size(in, std::move(parent), std::move(size));
}

// E4M3 as the bytes that a file holds.
template <class V>
V as_stored(V dense) {
  if (dense.dtype() != DType::kF8E4M3) return dense;
  Extents shape{};
  for (int d = 0; d < dense.rank(); ++d) shape[static_cast<size_t>(d)] = dense.dim(d);
  return V(dense.data(), DType::kU8, dense.device(), shape, dense.rank());
}

// The memory of part k of a parameter (weight_parts).
template <class AnyWeights>
auto part_view(AnyWeights& weights, int64_t i, size_t k) {
  const auto codes = weights.codes(i);
  if (!codes) return weights.master(i);
  return as_stored(k == 0 ? codes : weights.block_scales(i));
}

void read_parameter(const OpenParameter& parts, Weights& weights, int64_t i, const Shape& extents) {
  const auto read = [&](size_t k, View out) {
    const Shape shape = parts[k].part.shape(extents);
    for (size_t d = 0; d < shape.size(); ++d)
      NESTLING_CHECK(out.dim(static_cast<int>(d)) == shape[d], "the cut model has ",
                     out.describe());
    parts[k].data.read(out);
  };
  if (!weights.codes(i)) return weights.fill(i, [&](View values) { read(0, values); });
  for (size_t k = 0; k < parts.size(); ++k) read(k, part_view(weights, i, k));
}

// name(part): of a dataset of parameter i.
template <class Name>
void check_parameter(const Weights& weights, int64_t i, const std::string& file, const Name& name) {
  const ConstView codes = weights.codes(i), blocks = weights.block_scales(i);
  const auto bytes = [](ConstView dense) {
    return std::span(dense.data(), static_cast<size_t>(dense.bytes()));
  };
  if (codes && !blocks) check_codes(bytes(codes), false, str(file, ": ", name(0)));
  if (blocks) check_codes(bytes(blocks), true, str(file, ": ", name(1)));
}

// The memory of every part of a parameter; it holds until the next is asked for.
using PartsOf =
    std::function<std::vector<ConstView>(int64_t i, const std::vector<WeightPart>& parts)>;

void write_parameters(const std::filesystem::path& file, const ElasticModel& model,
                      StoredType precision, const std::optional<Quantization>& q,
                      const PartsOf& parts_of) {
  NESTLING_CHECK(precision == StoredType::kBF16 || precision == StoredType::kF32,
                 "elastic file in ", stored_name(precision), ": needs BF16 or F32");
  check_elastic_model(model, file.string());
  const std::vector<ParameterSpec> specs = parameter_list(model.config);
  // Chunks end where any size can be cut.
  std::vector<Widths> edges =
      choice_edges(model.config, std::ssize(model.sizes), model.router, file.string());
  for (const Size& s : model.sizes) edges.push_back(s.widths);
  if (q) check_elastic_quantization(model, *q, file.string());
  Hdf5Writer out(file);
  write_elastic_parts(out, model, precision);
  if (q) write_elastic_quantization(out, specs, *q);
  for (int64_t i = 0; i < std::ssize(specs); ++i) {
    const ParameterSpec& spec = specs[static_cast<size_t>(i)];
    const std::vector<WeightPart> parts = weight_parts(spec, precision, format_of(q, i));
    const std::vector<ConstView> views = parts_of(i, parts);
    for (size_t k = 0; k < parts.size(); ++k)
      out.dataset(parts[k].dataset, parts[k].type, views.at(k),
                  weight_chunk(spec, edges, dtype_bytes(parts[k].type), parts[k].packed));
  }
  out.commit();
}

// Its weights into those of a model that has no others.
LoadedSize load(Hdf5File& in, Opening o, DType compute, Device device) {
  const ModelConfig config = cut_config(o.parent, o.size.widths);
  std::optional<Quantization> sized;
  if (o.quantization) sized = sized_quantization(o.parameters, *o.quantization);
  const bool codes = sized.has_value();
  LoadedSize out{.config = config,
                 .weights = Weights(config, codes ? Device::kCpu : device,
                                    {.compute = compute,
                                     .masters_dropped = !codes && compute == DType::kBF16,
                                     .quantization = std::move(sized)}),
                 .size = std::move(o.size),
                 .weight_bytes = 0};
  out.weight_bytes = stored_weight_bytes(o.parent, out.size.widths, o.precision, o.quantization);
  NESTLING_CHECK(out.weights.count() == std::ssize(o.parameters), "the cut model has ",
                 out.weights.count(), " parameters, the size ", o.parameters.size());
  for (int64_t i = 0; i < out.weights.count(); ++i) {
    const auto at = static_cast<size_t>(i);
    read_parameter(o.weights[at], out.weights, i, o.parameters[at].extents);
    check_parameter(out.weights, i, in.path().string(),
                    [&](size_t part) { return o.weights[at][part].data.name(); });
  }
  Context ctx(out.weights.device());
  out.weights.refresh_low(ctx);
  out.bytes_read = in.bytes_read();
  return out;
}

// fn(name, dataset) of all in a group and below; "": the file.
template <class Fn>
void each_dataset(Hdf5File& in, const std::string& group, const Fn& fn) {
  for (const std::string& name : in.names(group.empty() ? "/" : group)) {
    const std::string full = group + "/" + name;
    if (in.is_group(full)) {
      constexpr auto kDeepest = 4;  // a link to a group above it would never end
      NESTLING_CHECK_INPUT(std::count(full.begin(), full.end(), '/') <= kDeepest, full,
                           ": groups of an elastic file lie ", kDeepest, " deep at most");
      each_dataset(in, full, fn);
    } else {
      fn(full, in.dataset(full));
    }
  }
}

}  // namespace

void write_elastic(const std::filesystem::path& file, const ElasticModel& model,
                   const Weights& weights, StoredType precision) {
  if (weights.device() != Device::kCpu)
    return write_elastic(file, model, weights.on(Device::kCpu, DType::kF32), precision);
  const std::vector<ParameterSpec> specs = parameter_list(model.config);
  NESTLING_CHECK(std::ssize(specs) == weights.count(), file.string(), ": weights of another model");
  write_parameters(file, model, precision, weights.quantization(),
                   [&](int64_t i, const std::vector<WeightPart>& parts) {
                     const ParameterSpec& spec = specs[static_cast<size_t>(i)];
                     const ParameterSpec& theirs = weights.specs()[static_cast<size_t>(i)];
                     NESTLING_CHECK(spec.name == theirs.name && spec.size() == theirs.size(),
                                    file.string(), ": ", spec.name, ": weights of another model");
                     check_parameter(weights, i, file.string(),
                                     [&](size_t k) { return parts[k].dataset; });
                     std::vector<ConstView> views;
                     for (size_t k = 0; k < parts.size(); ++k)
                       views.emplace_back(part_view(weights, i, k));
                     return views;
                   });
}

void write_elastic(const std::filesystem::path& file, const ElasticModel& model,
                   const ParameterSource& parameter, StoredType precision) {
  write_parameters(file, model, precision, {}, [&](int64_t i, const std::vector<WeightPart>&) {
    return std::vector<ConstView>{parameter(i)};
  });
}

void record_measured(const std::filesystem::path& file,
                     const std::map<std::string, MeasuredQuality>& measured) {
  ElasticModel model = read_elastic_header(file).model;
  bool same = true;
  for (const auto& [name, quality] : measured) {
    const auto size = std::ranges::find(model.sizes, name, &Size::name);
    NESTLING_CHECK(size != model.sizes.end(), file.string(), ": measured of a size ", name,
                   ", which it does not hold");
    same = same && size->measured == quality;
    size->measured = quality;
  }
  if (same) return;
  check_elastic_model(model, file.string());
  Hdf5Writer out = Hdf5Writer::amend(file);
  for (const auto& [name, quality] : measured) write_elastic_measured(out, name, quality);
  out.commit();
}

ElasticHeader read_elastic_header(const std::filesystem::path& file) {
  Hdf5File in(file);
  ElasticHeader h;
  h.model = read_elastic_parts(in);
  h.format_version = kElasticFormatVersion;
  h.precision = read_elastic_precision(in);
  const ModelConfig& config = h.model.config;
  h.quantization = read_elastic_quantization(
      in, config, sized_parameters(parameter_list(config), full_widths(config)));
  return h;
}

std::string precision_text(const ElasticHeader& header) {
  if (!header.quantization) return stored_name(header.precision);
  return str(weight_format_label(header.quantization->format), ", what is not quantized ",
             stored_name(header.precision));
}

std::string elastic_digest(const std::filesystem::path& file) {
  uint32_t crc = 0;
  for (const Size& size : read_elastic_facts(file).sizes)  // hidden is an attribute
    crc = crc32c(str(size.name, " ", size.widths.hidden, "\n"), crc);
  Hdf5File in(file);
  std::vector<std::string> groups = {"/elastic/sizes", "/weights"};
  if (in.has("/quantization")) groups.emplace_back("/quantization");
  for (const std::string& group : groups)
    each_dataset(in, group, [&](const std::string& name, const Hdf5Dataset& data) {
      crc = crc32c(std::as_bytes(std::span(data.checksums())), crc32c(name, crc));
    });
  return "crc32c:" + crc32c_hex(crc);
}

ElasticFacts read_elastic_facts(const std::filesystem::path& file) {
  Hdf5File in(file);
  const ModelConfig config = read_elastic_config(in);
  ElasticFacts facts;
  for (const std::string& name : read_elastic_size_names(in))
    facts.sizes.push_back(read_elastic_size(in, config, name));
  NESTLING_CHECK_INPUT(!facts.sizes.empty(), file.string(), ": holds no size");
  facts.tokenizer = read_elastic_texts(in, "/tokenizer");
  return facts;
}

LoadedSize load_elastic(const std::filesystem::path& file, const std::string& size, DType compute,
                        Device device) {
  Hdf5File in(file);
  return load(in, open_size(in, size), compute, device);
}

LoadedSize load_elastic_whole(const std::filesystem::path& file, DType compute, Device device) {
  Hdf5File in(file);
  ModelConfig parent = read_elastic_config(in);
  Size whole{.name = {}, .target = {}, .widths = full_widths(parent)};
  return load(in, open_size(in, std::move(parent), std::move(whole)), compute, device);
}

Size find_elastic_size(const std::filesystem::path& file, const std::string& text) {
  Hdf5File in(file);
  return find_elastic_size(in, read_elastic_config(in), text);
}

OpeningBytes opening_bytes(const std::filesystem::path& file, const std::string& size) {
  Hdf5File in(file);
  const Opening o = open_size(in, size);
  OpeningBytes bytes{
      .weights = stored_weight_bytes(o.parent, o.size.widths, o.precision, o.quantization),
      .read = in.bytes_read()};
  for (size_t i = 0; i < o.weights.size(); ++i)
    for (const OpenPart& p : o.weights[i])
      bytes.read += p.data.prefix_bytes(p.part.shape(o.parameters[i].extents));
  return bytes;
}

int64_t stored_weight_bytes(const ModelConfig& config, const Widths& widths, StoredType precision,
                            const std::optional<Quantization>& q) {
  const std::vector<ParameterSpec> specs = parameter_list(config);
  int64_t bytes = 0;
  for (const SizedParameter& p : sized_parameters(specs, widths)) {
    const ParameterSpec& spec = specs[static_cast<size_t>(p.index)];
    for (const WeightPart& part : weight_parts(spec, precision, format_of(q, p.index))) {
      int64_t n = dtype_bytes(part.type);
      for (const int64_t e : part.shape(p.extents)) n *= e;
      bytes += n;
    }
    if (format_of(q, p.index))  // scales of the weights, and that of the activations
      bytes += dtype_bytes(DType::kF32) * ((spec.stacked() ? p.extents.front() : 1) + 1);
  }
  return bytes;
}

ElasticContents check_elastic_contents(const std::filesystem::path& file) {
  read_elastic_header(file);  // attributes, and that the parts fit each other
  Hdf5File in(file);
  ElasticContents found{.file_bytes = in.size()};
  each_dataset(in, "", [&](const std::string& name, const Hdf5Dataset& data) {
    data.verify();
    ++found.datasets;
    found.bytes += data.bytes();
    if (name.starts_with("/weights/") || name.starts_with("/quantization/"))
      found.weight_bytes += data.bytes();
  });
  return found;
}

}  // namespace nestling
