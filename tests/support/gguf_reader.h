// gguf_reader.h - GGUF files read plainly from what the format says, for tests of what writes them.
// Shares nothing with it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"

namespace nestling::testing {

struct ReadGgufValue {
  uint32_t type = 0;  // of an array: of its items
  bool array = false;
  std::vector<double> numbers = {};  // one, or those of an array
  std::vector<std::string> texts = {};
};
struct ReadGgufTensor {
  std::string name;
  uint32_t type = 0;
  std::vector<uint64_t> ne;  // as stored: innermost first
  uint64_t offset = 0;       // from the data's beginning
  std::string bytes;
};
struct ReadGguf {
  std::vector<std::string> key_order;
  std::map<std::string, ReadGgufValue> keys;
  std::vector<ReadGgufTensor> tensors;
  uint64_t data_begin = 0;
  const ReadGgufTensor& at(const std::string& name) const {
    for (const ReadGgufTensor& t : tensors)
      if (t.name == name) return t;
    throw std::runtime_error("no tensor " + name);
  }
  double number(const std::string& key) const { return keys.at(key).numbers.at(0); }
  std::string text(const std::string& key) const { return keys.at(key).texts.at(0); }
};

class GgufCursor {
 public:
  explicit GgufCursor(const std::string& bytes) : bytes_(bytes) {}
  template <class T>
  T take() {
    if (at_ + sizeof(T) > bytes_.size()) throw std::runtime_error("ends early");
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text() {
    const auto n = take<uint64_t>();
    if (n > bytes_.size() - at_) throw std::runtime_error("ends early");
    at_ += n;
    return bytes_.substr(at_ - n, n);
  }
  uint64_t at() const { return at_; }

 private:
  const std::string& bytes_;
  uint64_t at_ = 0;
};

inline void read_gguf_item(GgufCursor& in, ReadGgufValue& value) {
  switch (value.type) {
    case 4:
      return value.numbers.push_back(in.take<uint32_t>());
    case 5:
      return value.numbers.push_back(in.take<int32_t>());
    case 6:
      return value.numbers.push_back(in.take<float>());
    case 7:
      return value.numbers.push_back(in.take<uint8_t>());
    case 8:
      return value.texts.push_back(in.text());
    default:
      throw std::runtime_error("a value of type " + std::to_string(value.type));
  }
}

inline uint64_t gguf_bytes_of(const ReadGgufTensor& t) {
  static const std::map<uint32_t, std::pair<uint64_t, uint64_t>> blocks = {
      {0, {1, 4}}, {1, {1, 2}}, {8, {32, 34}}, {30, {1, 2}}, {40, {64, 36}}};
  uint64_t elements = 1;
  for (const uint64_t n : t.ne) elements *= n;
  const auto [block, size] = blocks.at(t.type);
  return elements / block * size;
}

inline ReadGguf read_gguf(const std::filesystem::path& file) {
  const std::string bytes = read_bytes(file);
  GgufCursor in(bytes);
  if (in.take<uint32_t>() != 0x46554747 || in.take<uint32_t>() != 3)
    throw std::runtime_error("no GGUF of version 3");
  ReadGguf out;
  const auto tensors = in.take<uint64_t>(), keys = in.take<uint64_t>();
  for (uint64_t k = 0; k < keys; ++k) {
    const std::string name = in.text();
    ReadGgufValue value{.type = in.take<uint32_t>()};
    value.array = value.type == 9;
    if (value.array) value.type = in.take<uint32_t>();
    const uint64_t count = value.array ? in.take<uint64_t>() : 1;
    for (uint64_t i = 0; i < count; ++i) read_gguf_item(in, value);
    out.key_order.push_back(name);
    if (!out.keys.emplace(name, value).second) throw std::runtime_error(name + " twice");
  }
  for (uint64_t i = 0; i < tensors; ++i) {
    ReadGgufTensor t{.name = in.text(), .ne = {}, .bytes = {}};
    const auto dims = in.take<uint32_t>();
    for (uint32_t d = 0; d < dims; ++d) t.ne.push_back(in.take<uint64_t>());
    t.type = in.take<uint32_t>();
    t.offset = in.take<uint64_t>();
    out.tensors.push_back(std::move(t));
  }
  out.data_begin = (in.at() + 31) / 32 * 32;
  for (ReadGgufTensor& t : out.tensors) {
    const uint64_t size = gguf_bytes_of(t);
    if (out.data_begin + t.offset + size > bytes.size()) throw std::runtime_error("ends early");
    t.bytes = bytes.substr(out.data_begin + t.offset, size);
  }
  return out;
}

// E4M3 by its bits, and E2M1.
inline double e4m3_by_bits(uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return bits >> 7 ? -size : size;
}
inline double e2m1_by_bits(uint8_t code) {
  constexpr double kSizes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (code >> 3 & 1) ? -kSizes[code & 7] : kSizes[code & 7];
}
inline double half_by_bits(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -size : size;
}

// What a tensor's blocks stand for, without the scale that may stand beside it.
inline std::vector<double> gguf_values(const ReadGgufTensor& t) {
  std::vector<double> out;
  const auto* bytes = reinterpret_cast<const uint8_t*>(t.bytes.data());
  const auto at = [&]<class T>(uint64_t i, T value) {
    std::memcpy(&value, bytes + i, sizeof value);
    return value;
  };
  const uint64_t size = t.bytes.size();
  if (t.type == 0)
    for (uint64_t i = 0; i < size; i += 4) out.push_back(at(i, 0.0f));
  if (t.type == 1)
    for (uint64_t i = 0; i < size; i += 2) out.push_back(half_by_bits(at(i, uint16_t{})));
  if (t.type == 30)
    for (uint64_t i = 0; i < size; i += 2)
      out.push_back(std::bit_cast<float>(uint32_t{at(i, uint16_t{})} << 16));
  if (t.type == 8)
    for (uint64_t b = 0; b < size; b += 34)
      for (uint64_t i = 0; i < 32; ++i)
        out.push_back(half_by_bits(at(b, uint16_t{})) * at(b + 2 + i, int8_t{}));
  if (t.type == 40)
    for (uint64_t b = 0; b < size; b += 36)
      for (uint64_t i = 0; i < 64; ++i) {
        const uint64_t block = i / 16, inside = i % 16;
        const uint8_t pair = bytes[b + 4 + block * 8 + inside % 8];
        out.push_back(e4m3_by_bits(bytes[b + block]) *
                      e2m1_by_bits(inside < 8 ? pair & 15 : pair >> 4));
      }
  return out;
}

}  // namespace nestling::testing
