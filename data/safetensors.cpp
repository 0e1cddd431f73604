#include "data/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "data/json.h"
#include "data/widen.h"

namespace nestling {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kLengthBytes = 8;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t d = 0; d < shape.size(); ++d) s += (d ? "," : "") + std::to_string(shape[d]);
  return s + "]";
}

// Header and payload of a mapped file; throws unless the lengths fit each other.
std::pair<std::string_view, std::span<const std::byte>> split_file(const MappedFile& file) {
  const std::string name = file.path().string();
  const auto bytes = file.bytes();
  NESTLING_CHECK_INPUT(bytes.size() > kLengthBytes, name, ": ", bytes.size(),
                       " bytes are too few for a safetensors file");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  NESTLING_CHECK_INPUT(length <= kMaxHeaderBytes, name, ": header length ", length,
                       " exceeds the limit of ", kMaxHeaderBytes, " (is this a safetensors file?)");
  NESTLING_CHECK_INPUT(length <= bytes.size() - kLengthBytes, name, ": header length ", length,
                       " does not fit the file of ", bytes.size(), " bytes");
  const std::string_view header = file.text().substr(kLengthBytes, length);
  NESTLING_CHECK_INPUT(header.starts_with('{'), name, ": the header does not start with '{'");
  return {header, bytes.subspan(kLengthBytes + length)};
}

void check_keys(JsonRef info, std::initializer_list<const char*> known) {
  info.for_each([&](const std::string& key, JsonRef value) {
    for (const char* k : known)
      if (key == k) return;
    value.fail("unknown key");
  });
}

// Elements of `shape`, or an error where the product leaves 63 bits.
int64_t product(const StoredTensor& t, JsonRef info) {
  int64_t n = 1;
  for (int64_t extent : t.shape)
    if (__builtin_mul_overflow(n, extent, &n))
      info.fail(str("the product of shape ", shape_text(t.shape), " overflows"));
  return n;
}

struct Placed {
  StoredTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

uint64_t offset(JsonRef offsets, size_t i) {
  const int64_t value = offsets.at(i).integer();
  if (value < 0) offsets.fail(str("offset ", value, " is negative"));
  return static_cast<uint64_t>(value);
}

Placed parse_tensor(const std::string& name, JsonRef info, std::span<const std::byte> payload,
                    const std::string& file) {
  check_keys(info, {"dtype", "shape", "data_offsets"});
  Placed p;
  p.tensor.name = name;
  p.tensor.file = file;
  const auto type = parse_stored_type(info.at("dtype").string());
  if (!type) info.at("dtype").fail(str("unknown type \"", info.at("dtype").string(), "\""));
  p.tensor.type = *type;
  const JsonRef shape = info.at("shape");
  if (!shape.is_array()) shape.fail("needs array of extents");
  for (size_t d = 0; d < shape.size(); ++d) {
    p.tensor.shape.push_back(shape.at(d).integer());
    if (p.tensor.shape.back() < 0) shape.fail("an extent is negative");
  }
  const JsonRef offsets = info.at("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2) offsets.fail("needs [begin, end]");
  p.begin = offset(offsets, 0);
  p.end = offset(offsets, 1);
  if (p.begin > p.end || p.end > payload.size())
    offsets.fail(str("[", p.begin, ", ", p.end, ") is not a range of the ", payload.size(),
                     " payload bytes"));
  int64_t bits = product(p.tensor, info);
  if (__builtin_mul_overflow(bits, int64_t{stored_bits(*type)}, &bits))
    info.fail(str("the bits of shape ", shape_text(p.tensor.shape), " overflow"));
  if (bits % 8 != 0 || static_cast<uint64_t>(bits / 8) != p.end - p.begin)
    info.fail(str(stored_name(*type), " ", shape_text(p.tensor.shape), " takes ", bits,
                  " bits, but its range holds ", p.end - p.begin, " bytes"));
  p.tensor.bytes = payload.subspan(p.begin, p.end - p.begin);
  return p;
}

// Every payload byte belongs to exactly one tensor.
void check_cover(const std::vector<Placed>& placed, uint64_t payload, const std::string& file) {
  uint64_t at = 0;
  for (const Placed& p : placed) {
    NESTLING_CHECK_INPUT(p.begin >= at, file, ": ", p.tensor.name, " at [", p.begin, ", ", p.end,
                         ") overlaps the tensor before it, which ends at ", at);
    NESTLING_CHECK_INPUT(p.begin == at, file, ": bytes [", at, ", ", p.begin, ") before ",
                         p.tensor.name, " belong to no tensor");
    at = p.end;
  }
  NESTLING_CHECK_INPUT(at == payload, file, ": the last tensor ends at ", at, " of ", payload,
                       " payload bytes");
}

}  // namespace

int64_t StoredTensor::size() const {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  return n;
}

std::string StoredTensor::describe() const {
  return str(file, ": ", name, " ", stored_name(type), " ", shape_text(shape));
}

ConstView StoredTensor::view() const {
  const auto dtype = kernel_type(type);
  NESTLING_CHECK_INPUT(dtype, describe(), ": this type cannot be computed on");
  NESTLING_CHECK_INPUT(shape.size() <= kMaxRank, describe(), ": rank above ", kMaxRank);
  const auto address = reinterpret_cast<uintptr_t>(bytes.data());
  NESTLING_CHECK_INPUT(address % static_cast<uintptr_t>(dtype_bytes(*dtype)) == 0, describe(),
                       ": its bytes are not aligned in the file; read() copies them");
  Extents extents{1};
  for (size_t d = 0; d < shape.size(); ++d) extents[d] = shape[d];
  const int rank = std::max(1, static_cast<int>(shape.size()));
  return ConstView(bytes.data(), *dtype, Device::kCpu, extents, rank);
}

void StoredTensor::read(View out) const {
  NESTLING_CHECK(out.device() == Device::kCpu, describe(), " read into ", out.describe());
  std::vector<int64_t> needed = shape;
  if (needed.empty()) needed = {1};
  bool fits = out.rank() == static_cast<int>(needed.size());
  for (int d = 0; fits && d < out.rank(); ++d) fits = out.dim(d) == needed[static_cast<size_t>(d)];
  NESTLING_CHECK_INPUT(fits, describe(), " does not fit ", out.describe());
  if (size() == 0) return;
  const bool same = kernel_type(type) == out.dtype();
  const bool widens = out.dtype() == DType::kF32 && widens_to_float(type);
  NESTLING_CHECK_INPUT(same || widens, describe(), " cannot be read as ", out.describe(),
                       " without changing values");
  const int64_t columns = out.dim(out.rank() - 1);
  const int64_t pitch = out.pitch() * dtype_bytes(out.dtype());
  const auto row_bytes = static_cast<size_t>(columns * stored_bits(type) / 8);
  for (int64_t r = 0; r < out.rows(); ++r) {
    const auto from = bytes.subspan(static_cast<size_t>(r) * row_bytes, row_bytes);
    std::byte* to = out.data() + r * pitch;
    if (same)
      std::memcpy(to, from.data(), row_bytes);
    else
      widen_to_float(type, from, reinterpret_cast<float*>(to));
  }
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : file_(file) {
  const auto [header, payload] = split_file(file_);
  const std::string name = file.string();
  const JsonDocument document = parse_json(header, name, {.max_depth = 4});
  std::vector<Placed> placed;
  placed.reserve(document.root().size());
  document.root().for_each([&, bytes = payload](const std::string& key, JsonRef value) {
    if (key != "__metadata__") {
      placed.push_back(parse_tensor(key, value, bytes, name));
      return;
    }
    value.for_each([&](const std::string& k, JsonRef v) { metadata_[k] = v.string(); });
  });
  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_cover(placed, payload.size(), name);
  for (Placed& p : placed) {
    by_name_[p.tensor.name] = tensors_.size();
    tensors_.push_back(std::move(p.tensor));
  }
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

const StoredTensor& SafetensorsFile::at(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  NESTLING_CHECK_INPUT(tensor, path().string(), ": no tensor \"", name, "\"");
  return *tensor;
}

SafetensorsDir::SafetensorsDir(const std::filesystem::path& directory) : directory_(directory) {
  const auto single = directory / kSafetensorsName;
  const auto index = directory / kSafetensorsIndexName;
  const bool has_single = std::filesystem::exists(single);
  const bool has_index = std::filesystem::exists(index);
  NESTLING_CHECK_INPUT(has_single || has_index, directory.string(), ": holds neither ",
                       kSafetensorsName, " nor ", kSafetensorsIndexName);
  NESTLING_CHECK_INPUT(!(has_single && has_index), directory.string(), ": holds both ",
                       kSafetensorsName, " and ", kSafetensorsIndexName, "; remove one");
  if (has_index) {
    open_index(index);
    return;
  }
  files_.emplace_back(single);
  for (const StoredTensor& t : files_[0].tensors()) by_name_[t.name] = &t;
}

void SafetensorsDir::open_index(const std::filesystem::path& index) {
  const JsonDocument document = read_json(index);
  std::map<std::string, std::string> home;  // tensor -> shard
  std::set<std::string> shards;
  document.root().at("weight_map").for_each([&](const std::string& tensor, JsonRef file) {
    const std::string& shard = file.string();
    if (std::filesystem::path(shard).filename() != shard || shard == ".." || shard == ".")
      file.fail(str("\"", shard, "\" is not a plain file name"));
    home[tensor] = shard;
    shards.insert(shard);
  });
  files_.reserve(shards.size());  // tensors of opened shards must not move
  for (const std::string& shard : shards) add_shard(shard, home);
  for (const auto& [tensor, shard] : home)
    NESTLING_CHECK_INPUT(by_name_.contains(tensor), index.string(), ": ", tensor, " is not in ",
                         shard, ", where the index says it is");
}

void SafetensorsDir::add_shard(const std::string& name,
                               const std::map<std::string, std::string>& home) {
  const auto path = directory_ / name;
  NESTLING_CHECK_INPUT(std::filesystem::exists(path), (directory_ / kSafetensorsIndexName).string(),
                       ": shard ", name, " is missing");
  const SafetensorsFile& file = files_.emplace_back(path);
  for (const StoredTensor& t : file.tensors()) {
    const auto it = home.find(t.name);
    NESTLING_CHECK_INPUT(it != home.end(), path.string(), ": ", t.name, " is not in the index");
    NESTLING_CHECK_INPUT(it->second == name, path.string(), ": ", t.name,
                         " is in this shard, but the index puts it in ", it->second);
    by_name_[t.name] = &t;
  }
}

std::vector<const StoredTensor*> SafetensorsDir::tensors() const {
  std::vector<const StoredTensor*> all;
  all.reserve(by_name_.size());
  for (const auto& [name, tensor] : by_name_) all.push_back(tensor);
  return all;
}

const StoredTensor* SafetensorsDir::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

const StoredTensor& SafetensorsDir::at(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  NESTLING_CHECK_INPUT(tensor, directory_.string(), ": no tensor \"", name, "\"");
  return *tensor;
}

}  // namespace nestling
