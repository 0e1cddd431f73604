// config_json.h - config.json read key by key: several spellings of a key, defaults, what is refused.
#pragma once
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "data/json.h"
#include "data/stored_type.h"
#include "model/config.h"

namespace nestling::config_json {

// The first of several spellings that is present and not null.
JsonRef first(JsonRef root, std::initializer_list<const char*> keys);
// The same; missing is an error that names the first spelling.
int64_t need(JsonRef root, std::initializer_list<const char*> keys);
int64_t integer_or(JsonRef root, std::initializer_list<const char*> keys, int64_t otherwise);
bool flag_or(JsonRef root, std::initializer_list<const char*> keys, bool otherwise);
double number_or(JsonRef root, std::initializer_list<const char*> keys, double otherwise);

// Keys that may be there with this value alone.
void refuse_true(JsonRef root, std::initializer_list<const char*> keys);
void refuse_set(JsonRef root, std::initializer_list<const char*> keys);
void only(JsonRef root, const char* key, const char* value);
void refuse_time_step_limit(JsonRef root);  // dt is never clamped here

// M, * or - for a name in a list of layers, in any spelling of transformers; E for experts.
char layer_letter(JsonRef name);

void read_tokens(JsonRef root, ModelConfig& c);
// The keys that all families write: sizes of the vocabulary and of the residual stream, tied embeddings, ids of special
// tokens, dtype.
void write_common(const ModelConfig& c, StoredType type, Json& j);
// The double that prints as the float does: 1e-05, not 9.99999974e-06.
double shortest(float x);

}  // namespace nestling::config_json
