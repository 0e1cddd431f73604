#include "trainer/tensorboard.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <unistd.h>

#include "data/crc32c.h"
#include "kernels/core/check.h"

namespace nestling {
namespace {

// Protobuf wire types, in the low bits of a tag.
constexpr uint64_t kVarint = 0;
constexpr uint64_t kFixed64 = 1;
constexpr uint64_t kBytes = 2;
constexpr uint64_t kFixed32 = 5;
constexpr int kStringType = 7;  // DT_STRING of types.proto

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  out += static_cast<char>(value);
}

void put_tag(std::string& out, uint64_t field, uint64_t wire) {
  put_varint(out, field << 3 | wire);
}

template <class T>
void put_little_endian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xff);
}

void put_bytes(std::string& out, uint64_t field, std::string_view bytes) {
  put_tag(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_integer(std::string& out, uint64_t field, int64_t value) {
  put_tag(out, field, kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}

// Event.wall_time.
std::string event_head(double wall_time) {
  std::string out;
  put_tag(out, 1, kFixed64);
  put_little_endian(out, std::bit_cast<uint64_t>(wall_time));
  return out;
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) +
         0xa282ead8u;  // TFRecord masks: a CRC over bytes that hold their CRC is weak
}

}  // namespace

std::string tensorboard_record(std::string_view data) {
  std::string out;
  put_little_endian(out, static_cast<uint64_t>(data.size()));
  put_little_endian(out, masked_crc(out));
  out += data;
  put_little_endian(out, masked_crc(data));
  return out;
}

std::string tensorboard_version_event(double wall_time) {
  std::string event = event_head(wall_time);
  put_bytes(event, 3, "brain.Event:2");  // Event.file_version
  return event;
}

std::string tensorboard_scalars_event(double wall_time, int64_t step,
                                      const std::map<std::string, double>& scalars) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_bytes(value, 1, tag);     // Value.tag
    put_tag(value, 2, kFixed32);  // Value.simple_value
    put_little_endian(value, std::bit_cast<uint32_t>(static_cast<float>(number)));
    put_bytes(summary, 1, value);  // Summary.value
  }
  std::string event = event_head(wall_time);
  put_integer(event, 2, step);
  put_bytes(event, 5, summary);  // Event.summary
  return event;
}

std::string tensorboard_text_event(double wall_time, int64_t step, std::string_view tag,
                                   std::string_view text) {
  std::string plugin;
  put_bytes(plugin, 1, "text");  // PluginData.plugin_name
  std::string metadata;
  put_bytes(metadata, 1, plugin);  // SummaryMetadata.plugin_data
  std::string dim;
  put_integer(dim, 1, 1);  // Dim.size
  std::string shape;
  put_bytes(shape, 2, dim);  // TensorShapeProto.dim
  std::string tensor;
  put_integer(tensor, 1, kStringType);  // TensorProto.dtype
  put_bytes(tensor, 2, shape);          // TensorProto.tensor_shape
  put_bytes(tensor, 8, text);           // TensorProto.string_val
  std::string value;
  put_bytes(value, 1, tag);
  put_bytes(value, 8, tensor);    // Value.tensor
  put_bytes(value, 9, metadata);  // Value.metadata
  std::string summary;
  put_bytes(summary, 1, value);
  std::string event = event_head(wall_time);
  put_integer(event, 2, step);
  put_bytes(event, 5, summary);
  return event;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& directory, double wall_time) {
  char host[256] = {};
  NESTLING_CHECK(::gethostname(host, sizeof(host) - 1) == 0,
                 "cannot read the name of this host: ", std::strerror(errno));
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%010lld", static_cast<long long>(wall_time));
  // The last number tells writers of one process in one second apart.
  for (int number = 0; file_ == nullptr; ++number) {
    path_ =
        directory / str("events.out.tfevents.", seconds, ".", host, ".", ::getpid(), ".", number);
    file_.reset(std::fopen(path_.c_str(), "wbx"));
    NESTLING_CHECK(file_ != nullptr || errno == EEXIST, "cannot create ", path_.string(), ": ",
                   std::strerror(errno));
  }
  append(tensorboard_version_event(wall_time));
}

void TensorboardWriter::append(const std::string& data) {
  const std::string record = tensorboard_record(data);
  const size_t n = std::fwrite(record.data(), 1, record.size(), file_.get());
  NESTLING_CHECK(n == record.size() && std::fflush(file_.get()) == 0, "cannot write ",
                 path_.string(), ": ", std::strerror(errno));
}

void TensorboardWriter::scalars(double wall_time, int64_t step,
                                const std::map<std::string, double>& scalars) {
  append(tensorboard_scalars_event(wall_time, step, scalars));
}

void TensorboardWriter::text(double wall_time, int64_t step, std::string_view tag,
                             std::string_view text) {
  append(tensorboard_text_event(wall_time, step, tag, text));
}

}  // namespace nestling
