#include "data/gguf_writer.h"

#include <set>

#include "data/gguf_format.h"
#include "kernels/core/check.h"

namespace nestling {

namespace {

int64_t padding(int64_t at) {
  return (kGgufAlignment - at % kGgufAlignment) % kGgufAlignment;
}

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void append(std::string& out, const std::string& text) {
  append(out, uint64_t{text.size()});
  out += text;
}
template <class T>
void append_array(std::string& out, GgufType type, const std::vector<T>& items) {
  append(out, GgufType::kArray);
  append(out, type);
  append(out, uint64_t{items.size()});
  for (const T& item : items) append(out, item);
}

struct AppendValue {
  std::string& out;
  void operator()(uint32_t x) const { append(out, GgufType::kUint32), append(out, x); }
  void operator()(float x) const { append(out, GgufType::kFloat32), append(out, x); }
  void operator()(bool x) const { append(out, GgufType::kBool), append(out, uint8_t{x}); }
  void operator()(const std::string& x) const { append(out, GgufType::kString), append(out, x); }
  void operator()(const std::vector<int32_t>& x) const { append_array(out, GgufType::kInt32, x); }
  void operator()(const std::vector<std::string>& x) const {
    append_array(out, GgufType::kString, x);
  }
};

void check_names(const std::vector<GgufKey>& keys, const std::vector<GgufTensor>& tensors) {
  std::set<std::string_view> seen;
  for (const GgufKey& k : keys) {
    NESTLING_CHECK(!k.name.empty() && k.name.size() <= kLongestGgufKey, "a key of ", k.name.size(),
                   " bytes");
    NESTLING_CHECK(seen.insert(k.name).second, "key ", k.name, " is given twice");
  }
  seen.clear();
  for (const GgufTensor& t : tensors) {
    NESTLING_CHECK(!t.name.empty() && t.name.size() <= kLongestGgufTensorName, "tensor ", t.name,
                   ": a name of ", t.name.size(), " bytes, at most ", kLongestGgufTensorName);
    NESTLING_CHECK(seen.insert(t.name).second, "tensor ", t.name, " is given twice");
  }
}

std::string header_bytes(const std::vector<GgufKey>& keys, const std::vector<GgufTensor>& tensors) {
  std::string out(kGgufMagic);
  append(out, kGgufVersion);
  append(out, uint64_t{tensors.size()});
  append(out, uint64_t{keys.size()});
  for (const GgufKey& k : keys) {
    append(out, k.name);
    std::visit(AppendValue{out}, k.value);
  }
  int64_t at = 0;
  for (const GgufTensor& t : tensors) {
    append(out, t.name);
    append(out, static_cast<uint32_t>(t.shape.size()));
    for (auto d = t.shape.rbegin(); d != t.shape.rend(); ++d)
      append(out, static_cast<uint64_t>(*d));
    append(out, static_cast<uint32_t>(t.type));
    append(out, static_cast<uint64_t>(at));
    const int64_t bytes = gguf_tensor_bytes(t);
    at += bytes + padding(bytes);
  }
  return out;
}

}  // namespace

int64_t gguf_tensor_bytes(const GgufTensor& t) {
  NESTLING_CHECK(!t.shape.empty() && t.shape.size() <= kMostGgufDimensions, "tensor ", t.name, ": ",
                 t.shape.size(), " dimensions, 1 to ", kMostGgufDimensions, " are possible");
  for (size_t d = 0; d < t.shape.size(); ++d)
    NESTLING_CHECK(t.shape[d] > 0, "tensor ", t.name, ": dimension ", d, " is ", t.shape[d]);
  const int64_t block = ggml_block(t.type).elements;
  NESTLING_CHECK(t.shape.back() % block == 0, "tensor ", t.name, ": rows of ", t.shape.back(),
                 " are no whole blocks of ", block, ", which ", ggml_type_name(t.type), " needs");
  const auto bytes = ggml_bytes(t.type, t.shape);
  NESTLING_CHECK(bytes.has_value(), "tensor ", t.name, ": more bytes than there are");
  return *bytes;
}

void write_gguf(const std::filesystem::path& file, const std::vector<GgufKey>& keys,
                const std::vector<GgufTensor>& tensors) {
  check_names(keys, tensors);
  std::string header = header_bytes(keys, tensors);
  header.append(static_cast<size_t>(padding(std::ssize(header))), '\0');
  AtomicFile out(file);
  out.write(header);
  for (const GgufTensor& t : tensors) {
    write_produced(out, t.produce, gguf_tensor_bytes(t), str(file.string(), ": ", t.name));
    out.write(std::string(static_cast<size_t>(padding(out.size())), '\0'));
  }
  out.commit();
}

}  // namespace nestling
