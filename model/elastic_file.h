// elastic_file.h - the elastic checkpoint: one HDF5 file, out of which every size opens by its own bytes.
//
// Format        docs/elastic-file.md. One dataset a parameter, under its published name (experts
//               stacked; the parts of in_proj and conv1d under the name they share), importance order,
//               slot-major, the dimensions of the parameter list.
// Precision     bf16 (rounded to nearest even; what steers a recurrence or a choice stays f32, as in
//               published directories) or f32. Quantized weights (model/quantization.h) are stored as the codes and
//               scales they are, and come back so.
// Chunks        divide every width of every size and every choice of the router. At least 32 KiB where the widths
//               allow it, a tensor below that one chunk; at most 256 KiB, or 1/8192 of the tensor.
// Damage        every byte is under a checksum (data/hdf5_file.h): a damaged file is an Error of kind
//               kInput that names file and dataset, never another value.
// Memory        a chunk beside the weights, or beside one parameter (ParameterSource); those of a device are first
//               copied whole to the host, 4 bytes a parameter.
// Threads       one at a time in all elastic files of the process.
#pragma once
#include <filesystem>
#include <functional>

#include "data/stored_type.h"
#include "model/elastic_model.h"
#include "model/weights.h"

namespace nestling {

inline constexpr int64_t kElasticFormatVersion = 1;

// Whole or absent. `weights`: the parent's masters, or codes of those that are quantized, on any device, in the order
// `model` says. Scales that no product takes are kInput.
void write_elastic(const std::filesystem::path& file, const ElasticModel& model,
                   const Weights& weights, StoredType precision);
// The same of numbers that are never all in memory: parameter i of the list, f32 on the CPU, in the list's shape. Each
// is asked for once, in order, and holds until the next.
using ParameterSource = std::function<ConstView(int64_t i)>;
void write_elastic(const std::filesystem::path& file, const ElasticModel& model,
                   const ParameterSource& parameter, StoredType precision);

// What was measured of its sizes, by name, becomes part of a file that is there, in place of what was: written aside
// whole, so the disk holds the file twice for that long. Weights, and so its digest, stay. The same as it holds: nothing.
void record_measured(const std::filesystem::path& file,
                     const std::map<std::string, MeasuredQuality>& measured);

struct ElasticHeader {
  ElasticModel model;
  int64_t format_version = 0;
  StoredType precision = StoredType::kF32;        // of what is not quantized
  std::optional<Quantization> quantization = {};  // none: nothing is
};
ElasticHeader read_elastic_header(const std::filesystem::path& file);
// "BF16", or "FP8, what is not quantized BF16".
std::string precision_text(const ElasticHeader& header);

// What running a model needs of it; reads neither order nor scores.
struct ElasticFacts {
  std::vector<Size> sizes;
  std::map<std::string, std::string> tokenizer;
};
ElasticFacts read_elastic_facts(const std::filesystem::path& file);

// "crc32c:..." of all weights, codes and scales, and of the sizes' names and widths, from the checksums that
// the file holds of its chunks: no chunk of weights is read.
std::string elastic_digest(const std::filesystem::path& file);

// Weights of one size alone: a model of its own, whose config is the cut one. A size is named, or asked
// for by its budget: "65%" (model/asked_size.h). Where products read bf16 copies, theirs are all there is: no masters.
struct LoadedSize {
  ModelConfig config;
  Weights weights;           // on the device asked for; codes on the CPU
  Size size;                 // of the whole file: full widths, no name
  int64_t weight_bytes = 0;  // of the size, as stored
  int64_t bytes_read = 0;    // of all chunks read to open it
};
LoadedSize load_elastic(const std::filesystem::path& file, const std::string& size, DType compute,
                        Device device = Device::kCpu);
// The parent's widths, whatever the sizes are.
LoadedSize load_elastic_whole(const std::filesystem::path& file, DType compute,
                              Device device = Device::kCpu);

// The size of that name or budget, without its weights.
Size find_elastic_size(const std::filesystem::path& file, const std::string& text);

// What load_elastic would read, without reading the weights.
struct OpeningBytes {
  int64_t weights = 0;  // as stored
  int64_t read = 0;     // of all chunks
};
OpeningBytes opening_bytes(const std::filesystem::path& file, const std::string& size);

// Bytes of the weights of a size as stored, their scales among them. `q`: of the parent's list.
int64_t stored_weight_bytes(const ModelConfig& config, const Widths& widths, StoredType precision,
                            const std::optional<Quantization>& q = {});

// Reads every dataset and attribute; throws at the first that is damaged.
struct ElasticContents {
  int64_t datasets = 0;
  int64_t bytes = 0;         // of their elements
  int64_t weight_bytes = 0;  // of those, of weights
  int64_t file_bytes = 0;
};
ElasticContents check_elastic_contents(const std::filesystem::path& file);

}  // namespace nestling
