#include "data/gguf_reader.h"

#include <bit>
#include <cstring>
#include <fstream>

#include "data/utf8.h"
#include "kernels/core/check.h"

namespace nestling {

namespace {

constexpr uint64_t kLeastKey = 8 + 1 + 4 + 1;             // bytes: length, name, type, value
constexpr uint64_t kLeastTensor = 8 + 1 + 4 + 8 + 4 + 8;  // ..., dimensions, one, type, offset

// Bytes of a value, or of an item of an array; 0: not fixed.
uint64_t value_bytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

template <class T>
T item_at(std::span<const std::byte> bytes, size_t item) {
  T value;
  std::memcpy(&value, bytes.data() + item * sizeof value, sizeof value);
  return value;
}

bool is_integer(GgufType type) {
  return value_bytes(type) > 0 && type != GgufType::kBool && type != GgufType::kFloat32 &&
         type != GgufType::kFloat64;
}

const char* kind_of(GgufType type) {
  if (type == GgufType::kString) return "a text";
  if (type == GgufType::kBool) return "a flag";
  return is_integer(type) ? "an integer" : "a number";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t d = 0; d < shape.size(); ++d) s += (d ? "," : "") + std::to_string(shape[d]);
  return s + "]";
}

}  // namespace

// A place in the header, which says in messages what is being read.
class GgufFile::Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}

  uint64_t at() const { return at_; }
  const std::string& name() const { return name_; }
  std::span<const std::byte> take(uint64_t count, const std::string& what) {
    NESTLING_CHECK_INPUT(count <= bytes_.size() - at_, name_, ": ends early: ", what, " at byte ",
                         at_, " needs ", count, " bytes, the file has ", bytes_.size() - at_,
                         " more");
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  template <class T>
  T take_one(const std::string& what) {
    return item_at<T>(take(sizeof(T), what), 0);
  }
  std::string take_text(const std::string& what) {
    const auto length = take_one<uint64_t>(what);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  void check_count(uint64_t count, uint64_t least, const std::string& what) const {
    NESTLING_CHECK_INPUT(count <= (bytes_.size() - at_) / least, name_, ": says it has ", count,
                         " ", what, ", more than its ", bytes_.size(), " bytes can hold");
  }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
  uint64_t at_ = 0;
};

namespace {

// Versions are told apart by their lower half: that of another byte order has none.
void check_version(uint32_t version, const std::string& name) {
  NESTLING_CHECK_INPUT((version & 0xffff) != 0, name,
                       ": is big-endian, or no GGUF: needs little-endian");
  NESTLING_CHECK_INPUT(version == kGgufVersion || version == kGgufVersion - 1, name,
                       ": GGUF version ", version, ", needs ", kGgufVersion - 1, " or ",
                       kGgufVersion);
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& file) : file_(file) {
  Cursor in(file_.bytes(), name());
  NESTLING_CHECK_INPUT(file_.text().starts_with(kGgufMagic), name(),
                       ": no GGUF file: does not begin with ", kGgufMagic);
  in.take(kGgufMagic.size(), "the magic");
  check_version(in.take_one<uint32_t>("the version"), name());
  const auto tensors = in.take_one<uint64_t>("the number of tensors");
  const auto keys = in.take_one<uint64_t>("the number of keys");
  in.check_count(keys, kLeastKey, "keys");
  in.check_count(tensors, kLeastTensor, "tensors");
  read_keys(in, keys);
  read_tensors(in, tensors);
}

void GgufFile::read_keys(Cursor& in, uint64_t count) {
  for (uint64_t k = 0; k < count; ++k) {
    const std::string key = in.take_text(str("key ", k));
    NESTLING_CHECK_INPUT(!key.empty() && key.size() <= kLongestGgufKey, name(), ": key ", k,
                         " has a name of ", key.size(), " bytes, needs 1 to ", kLongestGgufKey);
    const std::string what = "key " + key;
    Value value{.type = static_cast<GgufType>(in.take_one<uint32_t>(what)), .bytes = {}};
    value.array = value.type == GgufType::kArray;
    if (value.array) {
      value.type = static_cast<GgufType>(in.take_one<uint32_t>(what));
      value.count = in.take_one<uint64_t>(what);
    }
    const uint64_t size = value_bytes(value.type);
    NESTLING_CHECK_INPUT(size > 0 || value.type == GgufType::kString, name(), ": ", what,
                         " is of type ", static_cast<uint32_t>(value.type),
                         value.array ? " in an array" : "", ", which GGUF has not");
    in.check_count(value.count, size > 0 ? size : sizeof(uint64_t), "items in " + what);
    const uint64_t begin = in.at();
    if (size > 0)
      in.take(value.count * size, what);
    else
      for (uint64_t i = 0; i < value.count; ++i) in.take_text(what);
    value.bytes = file_.bytes().subspan(begin, in.at() - begin);
    NESTLING_CHECK_INPUT(values_.emplace(key, value).second, name(), ": ", what, " is there twice");
    key_order_.push_back(key);
  }
}

GgufStored GgufFile::read_tensor(Cursor& in, uint64_t index) const {
  GgufStored t{
      .name = in.take_text(str("tensor ", index)), .shape = {}, .bytes = {}, .file = name()};
  const std::string what = "tensor " + t.name;
  NESTLING_CHECK_INPUT(!t.name.empty() && t.name.size() <= kLongestGgufTensorName, name(), ": ",
                       what, " has a name of ", t.name.size(), " bytes, needs 1 to ",
                       kLongestGgufTensorName);
  const auto dimensions = in.take_one<uint32_t>(what);
  NESTLING_CHECK_INPUT(dimensions >= 1 && dimensions <= kMostGgufDimensions, name(), ": ", what,
                       " has ", dimensions, " dimensions, needs 1 to ", kMostGgufDimensions);
  t.shape.resize(dimensions);
  for (auto d = t.shape.rbegin(); d != t.shape.rend(); ++d) {
    *d = in.take_one<int64_t>(what);
    NESTLING_CHECK_INPUT(*d > 0, name(), ": ", what, " has a dimension of ", *d);
  }
  const auto type = in.take_one<uint32_t>(what);
  const auto known = ggml_type(type);
  NESTLING_CHECK_INPUT(known.has_value(), name(), ": ", what, " is ", ggml_type_label(type),
                       "; needs ", ggml_type_list());
  t.type = *known;
  return t;
}

void GgufFile::read_tensors(Cursor& in, uint64_t count) {
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < count; ++i) {
    GgufStored t = read_tensor(in, i);
    offsets.push_back(in.take_one<uint64_t>("tensor " + t.name));
    NESTLING_CHECK_INPUT(by_name_.emplace(t.name, i).second, name(), ": tensor ", t.name,
                         " is there twice");
    tensors_.push_back(std::move(t));
  }
  place_tensors(std::move(offsets), in.at());
}

void GgufFile::place_tensors(std::vector<uint64_t> offsets, uint64_t header_end) {
  const uint64_t step = alignment();
  const auto aligned = [&](uint64_t at) { return (at + step - 1) / step * step; };
  const uint64_t data = aligned(header_end), size = file_.bytes().size();
  uint64_t at = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    GgufStored& t = tensors_[i];
    const auto bytes = ggml_bytes(t.type, t.shape);
    NESTLING_CHECK_INPUT(bytes.has_value(), t.describe(), ": no whole blocks of ",
                         ggml_block(t.type).elements, " in a row, or more bytes than there are");
    NESTLING_CHECK_INPUT(offsets[i] == at, t.describe(), ": begins at byte ", offsets[i],
                         " of the data, needs ", at, ", where the one before ends");
    const auto length = static_cast<uint64_t>(*bytes);
    NESTLING_CHECK_INPUT(data + at <= size && length <= size - data - at, t.describe(),
                         ": the file ends early: needs ", length, " bytes from byte ", data + at,
                         ", the file has ", size);
    t.bytes = file_.bytes().subspan(data + at, length);
    at = aligned(at + length);
  }
}

uint64_t GgufFile::alignment() const {
  constexpr const char* kKey = "general.alignment";
  if (!has(kKey)) return kGgufAlignment;
  const int64_t step = integer(kKey);
  constexpr int64_t kMost = int64_t{1} << 31;
  NESTLING_CHECK_INPUT(
      step > 0 && step <= kMost && std::has_single_bit(static_cast<uint64_t>(step)), name(),
      ": key ", kKey, " is ", step, ", needs a power of two");
  return static_cast<uint64_t>(step);
}

const GgufFile::Value& GgufFile::need(std::string_view key, bool array) const {
  const auto at = values_.find(key);
  NESTLING_CHECK_INPUT(at != values_.end(), name(), ": key ", key, " is missing");
  NESTLING_CHECK_INPUT(at->second.array == array, name(), ": key ", key, " is ",
                       array ? "no array, needs one" : "an array, needs one value");
  return at->second;
}

int64_t GgufFile::as_integer(std::string_view key, const Value& v, size_t i) const {
  switch (v.type) {
    case GgufType::kUint8:
      return item_at<uint8_t>(v.bytes, i);
    case GgufType::kInt8:
      return item_at<int8_t>(v.bytes, i);
    case GgufType::kUint16:
      return item_at<uint16_t>(v.bytes, i);
    case GgufType::kInt16:
      return item_at<int16_t>(v.bytes, i);
    case GgufType::kUint32:
      return item_at<uint32_t>(v.bytes, i);
    case GgufType::kInt32:
      return item_at<int32_t>(v.bytes, i);
    case GgufType::kUint64:
    case GgufType::kInt64: {
      const auto x = item_at<int64_t>(v.bytes, i);
      NESTLING_CHECK_INPUT(v.type == GgufType::kInt64 || x >= 0, name(), ": key ", key, " is ",
                           item_at<uint64_t>(v.bytes, i), ", beyond 63 bits");
      return x;
    }
    default:
      NESTLING_CHECK_INPUT(false, name(), ": key ", key, " is ", kind_of(v.type),
                           ", needs an integer");
  }
  return 0;
}

int64_t GgufFile::integer(std::string_view key) const {
  return as_integer(key, need(key, false), 0);
}

double GgufFile::number(std::string_view key) const {
  const Value& v = need(key, false);
  if (v.type == GgufType::kFloat32) return item_at<float>(v.bytes, 0);
  if (v.type == GgufType::kFloat64) return item_at<double>(v.bytes, 0);
  NESTLING_CHECK_INPUT(is_integer(v.type), name(), ": key ", key, " is ", kind_of(v.type),
                       ", needs a number");
  return static_cast<double>(as_integer(key, v, 0));
}

bool GgufFile::flag(std::string_view key) const {
  const Value& v = need(key, false);
  NESTLING_CHECK_INPUT(v.type == GgufType::kBool, name(), ": key ", key, " is ", kind_of(v.type),
                       ", needs a flag");
  const auto byte = item_at<uint8_t>(v.bytes, 0);
  NESTLING_CHECK_INPUT(byte <= 1, name(), ": key ", key, " is ", int{byte}, ", needs 0 or 1");
  return byte == 1;
}

template <class Fn>
void GgufFile::each_text(std::string_view key, const Value& value, const Fn& fn) const {
  NESTLING_CHECK_INPUT(value.type == GgufType::kString, name(), ": key ", key, " is ",
                       kind_of(value.type), ", needs a text");
  Cursor in(value.bytes, name());
  for (uint64_t i = 0; i < value.count; ++i) {
    std::string text = in.take_text(std::string(key));
    const size_t fault = find_invalid_utf8(text);
    NESTLING_CHECK_INPUT(fault == std::string::npos, name(), ": key ", key,
                         value.array ? str(", item ", i) : "", ": not UTF-8 at byte ", fault);
    fn(std::move(text));
  }
}

std::string GgufFile::text(std::string_view key) const {
  std::string out;
  each_text(key, need(key, false), [&](std::string text) { out = std::move(text); });
  return out;
}

bool GgufFile::is_text(std::string_view key) const {
  const auto at = values_.find(key);
  return at != values_.end() && !at->second.array && at->second.type == GgufType::kString;
}

bool GgufFile::is_array(std::string_view key) const {
  const auto at = values_.find(key);
  return at != values_.end() && at->second.array;
}

std::vector<int64_t> GgufFile::integers(std::string_view key) const {
  const Value& v = need(key, true);
  std::vector<int64_t> out;
  out.reserve(v.count);
  for (size_t i = 0; i < v.count; ++i) out.push_back(as_integer(key, v, i));
  return out;
}

std::vector<std::string> GgufFile::texts(std::string_view key) const {
  std::vector<std::string> out;
  each_text(key, need(key, true), [&](std::string text) { out.push_back(std::move(text)); });
  return out;
}

int64_t GgufFile::length(std::string_view key) const {
  return static_cast<int64_t>(need(key, true).count);
}

const GgufStored* GgufFile::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

std::string GgufStored::describe() const {
  return str(file, ": tensor ", name, " ", ggml_type_name(type), " ", shape_text(shape));
}

std::span<const std::byte> GgufStored::row(int64_t r) const {
  const GgmlBlock block = ggml_block(type);
  const auto length = static_cast<size_t>(shape.back() / block.elements * block.bytes);
  return bytes.subspan(static_cast<size_t>(r) * length, length);
}

bool is_gguf(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  char magic[kGgufMagic.size()] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == kGgufMagic || path.extension() == ".gguf";
}

}  // namespace nestling
