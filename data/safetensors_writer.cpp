#include "data/safetensors_writer.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "data/atomic_file.h"
#include "data/json.h"
#include "data/safetensors.h"

namespace nestling {
namespace {

int64_t stored_bytes(const TensorToStore& t) {
  int64_t bits = stored_bits(t.type);
  for (int64_t extent : t.shape)
    NESTLING_CHECK(extent >= 0 && !__builtin_mul_overflow(bits, extent, &bits), t.name,
                   ": its size overflows");
  NESTLING_CHECK(bits % 8 == 0, t.name, ": ", bits, " bits are not whole bytes");
  return bits / 8;
}

void check_names(const std::vector<TensorToStore>& tensors) {
  std::set<std::string_view> seen;
  for (const TensorToStore& t : tensors) {
    NESTLING_CHECK(t.name != "__metadata__", "a tensor cannot be named __metadata__");
    NESTLING_CHECK(seen.insert(t.name).second, "tensor ", t.name, " is given twice");
  }
}

// Text rather than a Json, whose objects are sorted by key: here tensors stand in order of their
// bytes.
std::string header_text(const std::vector<TensorToStore>& tensors,
                        const SafetensorsMetadata& metadata) {
  std::string header = "{";
  if (!metadata.empty()) header += "\"__metadata__\":" + dump_json(Json(metadata), -1) + ",";
  int64_t at = 0;
  for (const TensorToStore& t : tensors) {
    const int64_t end = at + stored_bytes(t);
    header += dump_json(Json(t.name), -1) + ":{\"dtype\":\"" + stored_name(t.type) +
              "\",\"shape\":" + dump_json(Json(t.shape), -1) + ",\"data_offsets\":[" +
              std::to_string(at) + "," + std::to_string(end) + "]},";
    at = end;
  }
  if (header.back() == ',') header.pop_back();
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

std::string shard_name(size_t shard, size_t shards) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
  return name;
}

std::vector<std::vector<TensorToStore>> fill_shards(std::vector<TensorToStore> tensors,
                                                    int64_t max_shard_bytes) {
  std::vector<std::vector<TensorToStore>> shards(1);
  int64_t filled = 0;
  for (TensorToStore& t : tensors) {
    const int64_t bytes = stored_bytes(t);
    if (filled + bytes > max_shard_bytes && !shards.back().empty()) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().push_back(std::move(t));
  }
  return shards;
}

}  // namespace

TensorToStore store(std::string name, ConstView view) {
  NESTLING_CHECK(view.device() == Device::kCpu && view, name, ": ", view.describe(),
                 " is not in CPU memory");
  std::vector<int64_t> shape;
  shape.reserve(static_cast<size_t>(view.rank()));
  for (int d = 0; d < view.rank(); ++d) shape.push_back(view.dim(d));
  return {std::move(name), stored_type(view.dtype()), std::move(shape),
          [view](const ByteSink& sink) {
            if (view.size() == 0) return;
            const int64_t element = dtype_bytes(view.dtype());
            if (view.dense()) return sink({view.data(), static_cast<size_t>(view.bytes())});
            const auto row = static_cast<size_t>(view.dim(view.rank() - 1) * element);
            const int64_t pitch = view.pitch() * element;
            for (int64_t r = 0; r < view.rows(); ++r) sink({view.data() + r * pitch, row});
          }};
}

void write_safetensors(const std::filesystem::path& file, std::vector<TensorToStore> tensors,
                       const SafetensorsMetadata& metadata) {
  check_names(tensors);
  std::sort(tensors.begin(), tensors.end(), [](const TensorToStore& a, const TensorToStore& b) {
    return a.type != b.type ? a.type > b.type : a.name < b.name;
  });
  const std::string header = header_text(tensors, metadata);
  AtomicFile out(file);
  const uint64_t length = header.size();
  out.write(std::as_bytes(std::span(&length, 1)));
  out.write(header);
  for (const TensorToStore& t : tensors)
    write_produced(out, t.produce, stored_bytes(t), str(file.string(), ": ", t.name));
  out.commit();
}

void write_safetensors_dir(const std::filesystem::path& directory,
                           std::vector<TensorToStore> tensors, int64_t max_shard_bytes,
                           const SafetensorsMetadata& metadata) {
  NESTLING_CHECK_INPUT(max_shard_bytes > 0, "shards of ", max_shard_bytes, " bytes");
  check_names(tensors);
  for (const char* taken : {kSafetensorsName, kSafetensorsIndexName})
    NESTLING_CHECK_INPUT(!std::filesystem::exists(directory / taken), directory.string(),
                         ": already holds ", taken);
  std::filesystem::create_directories(directory);
  auto shards = fill_shards(std::move(tensors), max_shard_bytes);
  if (shards.size() == 1)
    return write_safetensors(directory / kSafetensorsName, std::move(shards[0]), metadata);
  Json weight_map = Json::object();
  int64_t total = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string name = shard_name(s, shards.size());
    for (const TensorToStore& t : shards[s]) {
      weight_map[t.name] = name;
      total += stored_bytes(t);
    }
    write_safetensors(directory / name, std::move(shards[s]), metadata);
  }
  write_json(directory / kSafetensorsIndexName,
             {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}});
}

}  // namespace nestling
