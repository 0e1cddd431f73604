#include <algorithm>

#include "data/gguf_reader.h"
#include "model/gguf.h"
#include "model/gguf_import.h"

namespace nestling {

namespace {

// What llama.cpp's converter says of models without positions whose context is not stated.
constexpr int64_t kAnyContext = int64_t{1} << 20;

// The two ways through the list of keys below: each key is written from its field, or its field
// read from it. `name` stands under the architecture's, but of own_count.
//   count, number, flag            a key that must be there
//   count_or                       absent: `otherwise`, which is not written
//   stated_count, stated_number    written always; absent: the field stays
//   width                          one number, or by other writers one a layer
//   by_layer                       one a layer, 0 where a layer has none
//   same_count                     the same number once more
//   constant                       written alone
class WriteKeys {
 public:
  explicit WriteKeys(std::string architecture) : architecture_(std::move(architecture)) {}
  std::vector<GgufKey> take() { return std::move(keys_); }

  void count(const char* name, int64_t& field) { add(name, static_cast<uint32_t>(field)); }
  void count_or(const char* name, int64_t& field, int64_t otherwise) {
    if (field != otherwise) count(name, field);
  }
  void stated_count(const char* name, int64_t& field) { count(name, field); }
  void width(const char* name, int64_t& field) { count(name, field); }
  void by_layer(const char* name, int64_t, std::vector<int64_t>& widths) {
    add(name, std::vector<int32_t>(widths.begin(), widths.end()));
  }
  void same_count(const char* name, int64_t field) { count(name, field); }
  void number(const char* name, float& field) { add(name, field); }
  void stated_number(const char* name, float& field) { add(name, field); }
  void flag(const char* name, bool& field) { add(name, field); }
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
  void by_layer(const char* name, int64_t layers, std::vector<int64_t>& widths) {
    constexpr int64_t kMostLayers = 4096;  // as ModelConfig::validate
    check(layers >= 1 && layers <= kMostLayers, "block_count is not 1 to 4096");
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
  void number(const char* name, float& field) {
    field = static_cast<float>(file_.number(key(name)));
  }
  void stated_number(const char* name, float& field) {
    if (file_.has(key(name))) number(name, field);
  }
  void flag(const char* name, bool& field) { field = file_.flag(key(name)); }
  void constant(const char*, const GgufValue&) {}
  void own_count(const char* name, int64_t& field) {
    if (file_.has(name)) field = file_.integer(name);
  }
  void check(bool holds, const char* what) const {
    NESTLING_CHECK_INPUT(holds, file_.name(), ": ", architecture_, ": ", what);
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
std::vector<int64_t> by_layer(const ModelConfig& c, LayerKind kind, int64_t width) {
  std::vector<int64_t> widths(c.pattern.size());
  for (int64_t l = 0; l < c.layers(); ++l)
    if (c.kind(l) == kind) widths[static_cast<size_t>(l)] = width;
  return widths;
}
int64_t largest(const std::vector<int64_t>& widths) {
  return widths.empty() ? 0 : *std::max_element(widths.begin(), widths.end());
}

// llama.cpp tells layers apart by these two widths; those without either are Mamba.
template <class Keys>
void visit_layers(Keys& keys, ModelConfig& c, bool moe) {
  const LayerKind feeding = moe ? LayerKind::kMoe : LayerKind::kDense;
  int64_t& width = moe ? c.expert_ffn : c.ffn;
  std::vector<int64_t> ffn = by_layer(c, feeding, width);
  std::vector<int64_t> heads = by_layer(c, LayerKind::kAttention, c.kv_heads);
  int64_t layers = c.layers();
  keys.count("block_count", layers);
  int64_t context = c.max_positions > 0 ? c.max_positions : kAnyContext;
  keys.count("context_length", context);
  c.max_positions = context == kAnyContext ? 0 : context;
  keys.count("embedding_length", c.hidden);
  keys.stated_count("vocab_size", c.vocab);
  keys.by_layer("feed_forward_length", layers, ffn);
  keys.width("attention.head_count", c.query_heads);
  keys.by_layer("attention.head_count_kv", layers, heads);
  c.pattern.assign(ffn.size(), static_cast<char>(LayerKind::kMamba));
  for (size_t l = 0; l < ffn.size(); ++l) {
    keys.check(ffn[l] == 0 || heads[l] == 0, "a layer has both heads and a feed-forward width");
    if (ffn[l] > 0) c.pattern[l] = static_cast<char>(feeding);
    if (heads[l] > 0) c.pattern[l] = static_cast<char>(LayerKind::kAttention);
  }
  width = largest(ffn);
  c.kv_heads = largest(heads);
}

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

template <class Keys>
void visit_moe(Keys& keys, ModelConfig& c) {
  GateRule& gate = c.gate;
  keys.count("expert_count", c.experts);
  keys.width("expert_used_count", c.top_k);
  keys.width("expert_feed_forward_length", c.expert_ffn);
  keys.count("expert_shared_feed_forward_length", c.shared_ffn);
  keys.constant("expert_shared_count", uint32_t{1});
  keys.flag("expert_weights_norm", gate.renormalize);
  keys.number("expert_weights_scale", gate.scale);
  if (gate.top_groups == gate.groups) gate.groups = gate.top_groups = 1;  // none is left out
  keys.count_or("expert_group_count", gate.groups, 1);
  if (gate.groups > 1) keys.count("expert_group_used_count", gate.top_groups);
}

// The one list of keys of an architecture. `c` is what is written, or what becomes of the file.
template <class Keys>
void visit_architecture(Keys& keys, ModelConfig& c, bool moe) {
  visit_layers(keys, c, moe);
  keys.count("attention.key_length", c.head_dim);
  keys.same_count("attention.value_length", c.head_dim);
  keys.number("attention.layer_norm_epsilon", c.eps);
  keys.stated_number("attention.layer_norm_rms_epsilon", c.eps);
  keys.constant("rope.scaling.finetuned", false);
  visit_mamba(keys, c);
  if (moe) visit_moe(keys, c);
  keys.own_count("nestling.chunk_size", c.chunk);
}

constexpr const char* kDense = "nemotron_h";
constexpr const char* kMoe = "nemotron_h_moe";

// What changes the numbers of a model and is not done here.
void refuse_unsupported(const GgufFile& file, const std::string& architecture) {
  const auto at_most = [&](const std::string& key, int64_t most, const char* what) {
    NESTLING_CHECK_INPUT(!file.has(key) || file.integer(key) <= most, file.name(), ": key ", key,
                         " is ", file.integer(key), ": ", what);
  };
  at_most("split.count", 1, "one of several files; llama-gguf-split --merge makes one of them");
  at_most(architecture + ".moe_latent_size", 0, "latent experts are not supported");
  at_most(architecture + ".nextn_predict_layers", 0,
          "layers of multi-token prediction are not supported");
  const std::string gate = architecture + ".expert_gating_func";
  constexpr int64_t kSigmoid = 2;
  NESTLING_CHECK_INPUT(!file.has(gate) || file.integer(gate) == kSigmoid, file.name(), ": key ",
                       gate, " is ", file.integer(gate), ", needs ", kSigmoid, " (sigmoid)");
}

void read_token_ids(const GgufFile& file, ModelConfig& c) {
  if (file.has(gguf_key::kBos)) c.bos = file.integer(gguf_key::kBos);
  if (file.has(gguf_key::kPadding)) c.pad = file.integer(gguf_key::kPadding);
  for (const char* key : gguf_key::kEnds) {
    if (!file.has(key)) continue;
    const int64_t id = file.integer(key);
    if (std::ranges::find(c.eos, id) == c.eos.end()) c.eos.push_back(id);
  }
}

}  // namespace

void check_gguf_config(const ModelConfig& c, const std::string& where) {
  const auto need = [&](bool holds, const char* what) {
    NESTLING_CHECK_INPUT(holds, where, ": llama.cpp runs no ", what);
  };
  const bool moe = c.has(LayerKind::kMoe);
  need(!moe || !c.has(LayerKind::kDense), "model of this family with both dense and expert layers");
  need(c.has(LayerKind::kMamba), "model of this family without a Mamba layer");
  need(c.has(LayerKind::kAttention), "model of this family without an attention layer");
  need(!moe || c.shared_ffn > 0, "model of this family whose experts have no shared one");
  const bool grouped = moe && c.gate.top_groups < c.gate.groups;
  need(!grouped || c.experts / c.gate.groups > 1, "groups of experts with one expert each");
}

std::string gguf_architecture(const ModelConfig& c) {
  return c.has(LayerKind::kMoe) ? kMoe : kDense;
}

std::vector<GgufKey> gguf_model_keys(const ModelConfig& c) {
  WriteKeys keys(gguf_architecture(c));
  ModelConfig written = c;
  visit_architecture(keys, written, c.has(LayerKind::kMoe));
  return keys.take();
}

ModelConfig gguf_keys_config(const GgufFile& file) {
  const std::string architecture = file.text(gguf_key::kArchitecture);
  NESTLING_CHECK_INPUT(architecture == kDense || architecture == kMoe, file.name(), ": key ",
                       gguf_key::kArchitecture, " is '", architecture, "', only '", kDense,
                       "' and '", kMoe, "' are supported");
  refuse_unsupported(file, architecture);
  ReadKeys keys(file, architecture);
  ModelConfig c;
  if (file.has(gguf_key::kTokens)) c.vocab = file.length(gguf_key::kTokens);
  visit_architecture(keys, c, architecture == kMoe);
  read_token_ids(file, c);
  return c;
}

}  // namespace nestling
