// gguf_key_list.h - lists of keys that are written once and gone through in two ways: each key is
// written from its field, or its field read from it. Architectures have such a list each
// (gguf_architecture.h).
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "data/gguf_reader.h"
#include "data/gguf_writer.h"
#include "kernels/core/check.h"
#include "model/config.h"

namespace nestling {

// What llama.cpp's converter says of models without positions whose context is not stated.
inline constexpr int64_t kAnyContext = int64_t{1} << 20;

// `name` stands under the architecture's, but of own_count.
//   count, number, flag            a key that must be there
//   count_or                       absent: `otherwise`, which is not written
//   stated_count, stated_number, stated_flag
//                                  written always; absent: the field stays
//   width, stated_width            one number, or by other writers one a layer
//   by_layer                       one a layer, 0 where a layer has none
//   same_count, same_count_if_stated
//                                  the same number once more
//   constant                       written alone
class WriteKeys {
 public:
  static constexpr bool kReads = false;
  explicit WriteKeys(std::string architecture) : architecture_(std::move(architecture)) {}
  std::vector<GgufKey> take() { return std::move(keys_); }

  void count(const char* name, int64_t& field) { add(name, static_cast<uint32_t>(field)); }
  void count_or(const char* name, int64_t& field, int64_t otherwise) {
    if (field != otherwise) count(name, field);
  }
  void stated_count(const char* name, int64_t& field) { count(name, field); }
  void width(const char* name, int64_t& field) { count(name, field); }
  void stated_width(const char* name, int64_t& field) { count(name, field); }
  void by_layer(const char* name, int64_t, std::vector<int64_t>& widths) {
    add(name, std::vector<int32_t>(widths.begin(), widths.end()));
  }
  void same_count(const char* name, int64_t field) { count(name, field); }
  void same_count_if_stated(const char* name, int64_t field) { count(name, field); }
  template <class T>
  void number(const char* name, T& field) {
    add(name, static_cast<float>(field));
  }
  template <class T>
  void stated_number(const char* name, T& field) {
    number(name, field);
  }
  void flag(const char* name, bool& field) { add(name, field); }
  void stated_flag(const char* name, bool& field) { add(name, field); }
  void constant(const char* name, GgufValue value) { add(name, std::move(value)); }
  void own_count(const char* name, int64_t& field) {
    keys_.push_back({name, static_cast<uint32_t>(field)});
  }
  void check(bool, const char*) const {}

 private:
  void add(const char* name, GgufValue value) {
    keys_.push_back({architecture_ + "." + name, std::move(value)});
  }
  std::string architecture_;
  std::vector<GgufKey> keys_;
};

class ReadKeys {
 public:
  static constexpr bool kReads = true;
  ReadKeys(const GgufFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  void count(const char* name, int64_t& field) { field = file_.integer(key(name)); }
  void count_or(const char* name, int64_t& field, int64_t otherwise) {
    field = file_.has(key(name)) ? file_.integer(key(name)) : otherwise;
  }
  void stated_count(const char* name, int64_t& field) { count_or(name, field, field); }
  // One number, or one a layer: those of layers that have it are the same.
  void width(const char* name, int64_t& field) {
    if (!file_.is_array(key(name))) return count(name, field);
    field = one_width(name, file_.integers(key(name)));
  }
  void stated_width(const char* name, int64_t& field) {
    if (file_.has(key(name))) width(name, field);
  }
  void by_layer(const char* name, int64_t layers, std::vector<int64_t>& widths) {
    if (file_.is_array(key(name)))
      widths = file_.integers(key(name));
    else
      widths.assign(static_cast<size_t>(layers), file_.integer(key(name)));
    NESTLING_CHECK_INPUT(std::ssize(widths) == layers, file_.name(), ": key ", key(name), " has ",
                         widths.size(), " items, block_count is ", layers);
    one_width(name, widths);
  }
  void same_count(const char* name, int64_t field) {
    const int64_t found = file_.integer(key(name));
    NESTLING_CHECK_INPUT(found == field, file_.name(), ": key ", key(name), " is ", found,
                         ", needs ", field, " as the one before it");
  }
  void same_count_if_stated(const char* name, int64_t field) {
    if (file_.has(key(name))) same_count(name, field);
  }
  template <class T>
  void number(const char* name, T& field) {
    field = static_cast<T>(file_.number(key(name)));
  }
  template <class T>
  void stated_number(const char* name, T& field) {
    if (file_.has(key(name))) number(name, field);
  }
  void flag(const char* name, bool& field) { field = file_.flag(key(name)); }
  void stated_flag(const char* name, bool& field) {
    if (file_.has(key(name))) flag(name, field);
  }
  void constant(const char*, const GgufValue&) {}
  void own_count(const char* name, int64_t& field) {
    if (file_.has(name)) field = file_.integer(name);
  }
  void check(bool holds, const char* what) const {
    NESTLING_CHECK_INPUT(holds, file_.name(), ": ", architecture_, ": ", what);
  }

  // What changes the numbers of a model and is not done here: a key that may be there with this alone.
  void at_most(const char* name, int64_t most, const char* what) const {
    NESTLING_CHECK_INPUT(!file_.has(key(name)) || file_.integer(key(name)) <= most, file_.name(),
                         ": key ", key(name), " is ", file_.integer(key(name)), ": ", what);
  }
  void only(const char* name, int64_t value, const char* label) const {
    NESTLING_CHECK_INPUT(!file_.has(key(name)) || file_.integer(key(name)) == value, file_.name(),
                         ": key ", key(name), " is ", file_.integer(key(name)), ", needs ", value,
                         " (", label, ")");
  }
  void only_number(const char* name, double value) const {
    NESTLING_CHECK_INPUT(!file_.has(key(name)) || file_.number(key(name)) == value, file_.name(),
                         ": key ", key(name), " is ", file_.number(key(name)), ", needs ", value);
  }
  // Attention to what came before, with positions that only a tensor of factors may scale
  // (gguf_rope.h).
  void plain_attention() const {
    const std::string type = key("rope.scaling.type");
    if (file_.has(type) && file_.text(type) != "none") {
      NESTLING_CHECK_INPUT(file_.text(type) == "linear", file_.name(), ": key ", type, " is '",
                           file_.text(type), "': positions scaled so are not supported");
      only_number("rope.scaling.factor", 1);
    }
    only_number("rope.scale_linear", 1);
    only_number("rope.scaling.attn_factor", 1);
    const std::string causal = key("attention.causal");
    NESTLING_CHECK_INPUT(!file_.has(causal) || file_.flag(causal), file_.name(), ": key ", causal,
                         " is false: attention to what comes later is not supported");
  }

 private:
  std::string key(const char* name) const { return architecture_ + "." + name; }
  int64_t one_width(const char* name, const std::vector<int64_t>& widths) const {
    const int64_t width = widths.empty() ? 0 : *std::max_element(widths.begin(), widths.end());
    for (const int64_t w : widths)
      NESTLING_CHECK_INPUT(w == 0 || w == width, file_.name(), ": key ", key(name), " has ", w,
                           " and ", width, ": layers of one kind are of one width here");
    return width;
  }
  const GgufFile& file_;
  std::string architecture_;
};

// A width a layer: `width` where it is of this kind, else 0.
inline std::vector<int64_t> by_layer(const ModelConfig& c, LayerKind kind, int64_t width) {
  std::vector<int64_t> widths(c.pattern.size());
  for (int64_t l = 0; l < c.layers(); ++l)
    if (c.kind(l) == kind) widths[static_cast<size_t>(l)] = width;
  return widths;
}
inline int64_t largest(const std::vector<int64_t>& widths) {
  return widths.empty() ? 0 : *std::max_element(widths.begin(), widths.end());
}

// What every architecture has: depth, context, width, and vocabulary.
template <class Keys>
int64_t visit_extents(Keys& keys, ModelConfig& c, int64_t blocks) {
  keys.count("block_count", blocks);
  constexpr int64_t kMostLayers = 4096;  // as ModelConfig::validate
  keys.check(blocks >= 1 && blocks <= kMostLayers, "block_count is not 1 to 4096");
  int64_t context = c.max_positions > 0 ? c.max_positions : kAnyContext;
  keys.count("context_length", context);
  c.max_positions = context == kAnyContext ? 0 : context;
  keys.count("embedding_length", c.hidden);
  keys.stated_count("vocab_size", c.vocab);
  return blocks;
}

// Of the Mamba layers of a hybrid model.
template <class Keys>
void visit_mamba(Keys& keys, ModelConfig& c) {
  int64_t inner = c.inner();
  keys.count("ssm.conv_kernel", c.conv_kernel);
  keys.count("ssm.inner_size", inner);
  keys.count("ssm.state_size", c.state);
  keys.count("ssm.time_step_rank", c.mamba_heads);
  keys.check(c.mamba_heads > 0 && inner % c.mamba_heads == 0,
             "ssm.inner_size is no multiple of ssm.time_step_rank, the number of Mamba heads");
  if (c.mamba_heads > 0) c.mamba_head_dim = inner / c.mamba_heads;
  keys.count("ssm.group_count", c.groups);
}

}  // namespace nestling
