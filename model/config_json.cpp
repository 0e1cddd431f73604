#include "model/config_json.h"

#include <charconv>
#include <limits>

namespace nestling::config_json {

namespace {

// A number, also in transformers' spelling of one that JSON cannot hold.
double real(JsonRef value) {
  if (!value.is_object()) return value.number();
  const std::string& text = value.at("__float__").string();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  value.fail(str("__float__ '", text, "'"));
}

}  // namespace

JsonRef first(JsonRef root, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (const JsonRef value = root.find(key)) return value;
  return {};
}

int64_t need(JsonRef root, std::initializer_list<const char*> keys) {
  const JsonRef value = first(root, keys);
  if (!value) root.fail(str("key '", *keys.begin(), "' is missing"));
  return value.integer();
}
int64_t integer_or(JsonRef root, std::initializer_list<const char*> keys, int64_t otherwise) {
  const JsonRef value = first(root, keys);
  return value ? value.integer() : otherwise;
}
bool flag_or(JsonRef root, std::initializer_list<const char*> keys, bool otherwise) {
  const JsonRef value = first(root, keys);
  return value ? value.boolean() : otherwise;
}
double number_or(JsonRef root, std::initializer_list<const char*> keys, double otherwise) {
  const JsonRef value = first(root, keys);
  return value ? value.number() : otherwise;
}

void refuse_true(JsonRef root, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (flag_or(root, {key}, false)) root.fail(str(key, " is true: not supported"));
}

void refuse_set(JsonRef root, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (root.find(key)) root.fail(str(key, " is set: not supported"));
}

void only(JsonRef root, const char* key, const char* value) {
  const JsonRef found = root.find(key);
  if (found && found.string() != value)
    found.fail(str("'", found.string(), "', only '", value, "' is supported"));
}

void refuse_time_step_limit(JsonRef root) {
  const JsonRef limit = first(root, {"time_step_limit", "mamba_dt_limit"});
  if (!limit) return;
  if (limit.size() != 2 || real(limit.at(size_t{0})) > 0 ||
      real(limit.at(1)) < std::numeric_limits<double>::infinity())
    limit.fail("dt is never clamped here, needs [0, Infinity]");
}

char layer_letter(JsonRef name) {
  const std::string& s = name.string();
  if (s == "mamba" || s == "linear_attention") return 'M';
  if (s == "attention" || s == "full_attention") return '*';
  if (s == "mlp") return '-';
  if (s == "moe") return 'E';
  name.fail(str("layer type '", s, "', needs mamba, attention, mlp or moe"));
}

void read_tokens(JsonRef root, ModelConfig& c) {
  c.bos = integer_or(root, {"bos_token_id"}, -1);
  c.pad = integer_or(root, {"pad_token_id"}, -1);
  const JsonRef eos = root.find("eos_token_id");
  if (!eos) return;
  if (!eos.is_array()) {
    c.eos = {eos.integer()};
    return;
  }
  for (size_t i = 0; i < eos.size(); ++i) c.eos.push_back(eos.at(i).integer());
}

double shortest(float x) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, x).ptr;
  double value = 0;
  std::from_chars(text, end, value);
  return value;
}

void write_common(const ModelConfig& c, StoredType type, Json& j) {
  j["vocab_size"] = c.vocab;
  j["hidden_size"] = c.hidden;
  j["tie_word_embeddings"] = c.tied;
  j["initializer_range"] = 0.02;
  j["use_cache"] = true;
  j["torch_dtype"] = type == StoredType::kBF16 ? "bfloat16" : "float32";
  if (c.max_positions > 0) j["max_position_embeddings"] = c.max_positions;
  if (c.bos >= 0) j["bos_token_id"] = c.bos;
  if (c.pad >= 0) j["pad_token_id"] = c.pad;
  if (c.eos.size() == 1) j["eos_token_id"] = c.eos[0];
  if (c.eos.size() > 1) j["eos_token_id"] = c.eos;
}

}  // namespace nestling::config_json
