// json.h - JSON in and out; the only door to nlohmann-json, whose header costs seconds to compile.
//
// Reading       parse_json / read_json give a JsonDocument; walk it by JsonRef, which knows where
//               it is: a wrong type throws "config.json: layers[3].width: needs integer, found
//               string".
// Writing       build a Json (include <nlohmann/json.hpp> in that .cpp) and dump_json / write_json
//               it. Keys come out sorted, numbers in the shortest form that reads back the same:
//               the same value gives the same bytes.
// Errors        every fault of a file is an Error of kind kInput naming the file, and for a syntax
//               error the byte. Nesting deeper than max_depth is refused (no stack is at risk).
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/check.h"

namespace nestling {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keys stay in the order they were written

struct JsonOptions {
  bool nonfinite = false;   // accept Infinity, -Infinity and NaN, as Python writes them
  bool unique_keys = true;  // refuse an object that has a key twice; else the last one counts
  int max_depth = 64;
};
inline constexpr JsonOptions kHuggingFaceJson = {.nonfinite = true};

namespace detail {
struct JsonTree;  // the root and the name of its file; stays where it is
}

// A borrowed value of a JsonDocument, which must outlive it. A default JsonRef is absent.
class JsonRef {
 public:
  JsonRef() = default;
  explicit operator bool() const { return value_ != nullptr; }  // false: absent

  bool is_null() const;  // present and null
  bool is_object() const;
  bool is_array() const;
  bool is_string() const;
  bool is_bool() const;
  bool is_integer() const;
  bool is_number() const;  // integer or not

  // Each throws unless the value is of that type (and, for integer, fits int64).
  bool boolean() const;
  int64_t integer() const;
  double number() const;
  const std::string& string() const;

  JsonRef at(std::string_view key) const;    // throws when the key is missing
  JsonRef find(std::string_view key) const;  // absent when the key is missing or its value null
  JsonRef at(size_t index) const;
  size_t size() const;  // of an array or object
  // Sorted by key.
  void for_each(const std::function<void(const std::string& key, JsonRef value)>& visit) const;

  std::string path() const;                               // "model.merges[7]", "" for the root
  [[noreturn]] void fail(const std::string& what) const;  // "FILE: PATH: what", kind kInput
  // fn(), whose errors are thrown anew with this value's place: for what knows of no file.
  template <class Fn>
  auto placed(const Fn& fn) const {
    try {
      return fn();
    } catch (const Error& e) {
      fail(e.what());
    }
  }
  const Json& json() const;

 private:
  friend class JsonDocument;
  JsonRef(const detail::JsonTree* tree, const Json* value) : tree_(tree), value_(value) {}
  void need(bool ok, const char* type) const;
  const detail::JsonTree* tree_ = nullptr;
  const Json* value_ = nullptr;
};

class JsonDocument {
 public:
  JsonDocument(Json root, std::string name);
  ~JsonDocument();
  JsonDocument(JsonDocument&&) noexcept;
  JsonDocument& operator=(JsonDocument&&) noexcept;

  JsonRef root() const;
  const Json& json() const;
  const std::string& name() const;  // the file, for messages

 private:
  std::unique_ptr<detail::JsonTree> tree_;
};

JsonDocument parse_json(std::string_view text, std::string name, JsonOptions options = {});
JsonDocument read_json(const std::filesystem::path& file, JsonOptions options = {});

// indent < 0: one line, no spaces. Without `nonfinite` an infinity or NaN throws.
std::string dump_json(const Json& value, int indent = 2, bool nonfinite = false);
// Whole or absent (AtomicFile); ends with a newline.
void write_json(const std::filesystem::path& file, const Json& value, int indent = 2,
                bool nonfinite = false);

}  // namespace nestling
