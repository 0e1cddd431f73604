#include "model/elastic_file.h"

#include <algorithm>

#include "data/crc32c.h"
#include "model/elastic_header.h"
#include "model/elastic_layout.h"
#include "model/huggingface.h"
#include "model/router_record.h"

namespace nestling {

namespace {

DType stored_as(const ParameterSpec& spec, StoredType precision) {
  return *kernel_type(published_type(spec, precision));
}

// The datasets of a size's parameters, each of the shape and type that /model says: so nothing is
// allocated that the file does not hold.
std::vector<Hdf5Dataset> open_weights(Hdf5File& in, const std::vector<ParameterSpec>& specs,
                                      const std::vector<SizedParameter>& sized,
                                      StoredType precision) {
  std::vector<Hdf5Dataset> all;
  for (const SizedParameter& p : sized) {
    const ParameterSpec& spec = specs[static_cast<size_t>(p.index)];
    Shape shape;
    for (const Dim& d : spec.dims) shape.push_back(d.extent);
    all.push_back(in.dataset(weight_dataset(spec)));
    if (all.back().dtype() != stored_as(spec, precision) || all.back().shape() != shape)
      in.fail(all.back().name(), "is not of the shape and type that /model says");
  }
  return all;
}

// A size about to be read: what it is, and where its weights are.
struct Opening {
  ModelConfig parent;
  Size size;
  StoredType precision;
  std::vector<SizedParameter> parameters;
  std::vector<Hdf5Dataset> datasets;  // of each parameter
};
Opening open_size(Hdf5File& in, ModelConfig parent, Size size) {
  Opening o{.parent = std::move(parent),
            .size = std::move(size),
            .precision = read_elastic_precision(in),
            .parameters = {},
            .datasets = {}};
  const std::vector<ParameterSpec> specs = parameter_list(o.parent);
  o.parameters = sized_parameters(specs, o.size.widths);
  o.datasets = open_weights(in, specs, o.parameters, o.precision);
  return o;
}
Opening open_size(Hdf5File& in, const std::string& text) {
  ModelConfig parent = read_elastic_config(in);
  Size size = find_elastic_size(in, parent, text);
  return open_size(in, std::move(parent), std::move(size));
}

// Its weights into those of a model that has no others.
LoadedSize load(Hdf5File& in, Opening o, DType compute) {
  const ModelConfig config = cut_config(o.parent, o.size.widths);
  LoadedSize out{.config = config,
                 .weights = Weights(config, Device::kCpu, {.compute = compute}),
                 .size = std::move(o.size),
                 .weight_bytes = 0};
  out.weight_bytes = stored_weight_bytes(o.parent, out.size.widths, o.precision);
  NESTLING_CHECK(out.weights.count() == std::ssize(o.parameters), "the cut model has ",
                 out.weights.count(), " parameters, the size ", o.parameters.size());
  for (int64_t i = 0; i < out.weights.count(); ++i) {
    const View master = out.weights.master(i);
    const std::vector<int64_t>& extents = o.parameters[static_cast<size_t>(i)].extents;
    for (size_t d = 0; d < extents.size(); ++d)
      NESTLING_CHECK(master.dim(static_cast<int>(d)) == extents[d], "the cut model has ",
                     master.describe());
    o.datasets[static_cast<size_t>(i)].read(master);
  }
  Context ctx(Device::kCpu);
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
  NESTLING_CHECK(precision == StoredType::kBF16 || precision == StoredType::kF32,
                 "elastic file in ", stored_name(precision), ": needs BF16 or F32");
  check_elastic_model(model, file.string());
  const std::vector<ParameterSpec> specs = parameter_list(model.config);
  NESTLING_CHECK(std::ssize(specs) == weights.count(), file.string(), ": weights of another model");
  // Chunks end where any size can be cut.
  std::vector<Widths> edges =
      choice_edges(model.config, std::ssize(model.sizes), model.router, file.string());
  for (const Size& s : model.sizes) edges.push_back(s.widths);
  Hdf5Writer out(file);
  write_elastic_parts(out, model, precision);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const ParameterSpec& spec = specs[static_cast<size_t>(i)];
    NESTLING_CHECK(spec.name == weights.specs()[static_cast<size_t>(i)].name &&
                       spec.size() == weights.master(i).size(),
                   file.string(), ": ", spec.name, ": weights of another model");
    const DType type = stored_as(spec, precision);
    out.dataset(weight_dataset(spec), type, weights.master(i),
                weight_chunk(spec, edges, dtype_bytes(type)));
  }
  out.commit();
}

ElasticHeader read_elastic_header(const std::filesystem::path& file) {
  Hdf5File in(file);
  ElasticHeader h;
  h.model = read_elastic_parts(in);
  h.format_version = kElasticFormatVersion;
  h.precision = read_elastic_precision(in);
  return h;
}

std::string elastic_digest(const std::filesystem::path& file) {
  uint32_t crc = 0;
  for (const Size& size : read_elastic_facts(file).sizes)  // hidden is an attribute
    crc = crc32c(str(size.name, " ", size.widths.hidden, "\n"), crc);
  Hdf5File in(file);
  for (const char* group : {"/elastic/sizes", "/weights"})
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

LoadedSize load_elastic(const std::filesystem::path& file, const std::string& size, DType compute) {
  Hdf5File in(file);
  return load(in, open_size(in, size), compute);
}

LoadedSize load_elastic_whole(const std::filesystem::path& file, DType compute) {
  Hdf5File in(file);
  ModelConfig parent = read_elastic_config(in);
  Size whole{.name = {}, .target = {}, .widths = full_widths(parent)};
  return load(in, open_size(in, std::move(parent), std::move(whole)), compute);
}

Size find_elastic_size(const std::filesystem::path& file, const std::string& text) {
  Hdf5File in(file);
  return find_elastic_size(in, read_elastic_config(in), text);
}

OpeningBytes opening_bytes(const std::filesystem::path& file, const std::string& size) {
  Hdf5File in(file);
  const Opening o = open_size(in, size);
  OpeningBytes bytes{.weights = stored_weight_bytes(o.parent, o.size.widths, o.precision),
                     .read = in.bytes_read()};
  for (size_t i = 0; i < o.datasets.size(); ++i)
    bytes.read += o.datasets[i].prefix_bytes(o.parameters[i].extents);
  return bytes;
}

int64_t stored_weight_bytes(const ModelConfig& config, const Widths& widths, StoredType precision) {
  const std::vector<ParameterSpec> specs = parameter_list(config);
  int64_t bytes = 0;
  for (const SizedParameter& p : sized_parameters(specs, widths)) {
    int64_t n = dtype_bytes(stored_as(specs[static_cast<size_t>(p.index)], precision));
    for (const int64_t e : p.extents) n *= e;
    bytes += n;
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
    if (name.starts_with("/weights/")) found.weight_bytes += data.bytes();
  });
  return found;
}

}  // namespace nestling
