#include "runtime/gguf_pretokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace nestling {

namespace {

// A pre-tokenizer by its stages, outermost first: regular expressions, and ByteLevel where that
// brings GPT-2's own.
constexpr const char* kByteLevel = "ByteLevel";
struct GgufPre {
  std::vector<std::string> stages;
  bool ignore_merges, adds_bos;
  std::vector<const char*> names;
};
const std::vector<GgufPre>& known_pres() {
  static const std::vector<GgufPre> pres = {
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true,
       {"llama-bpe", "llama3", "llama-v3", "pixtral", "falcon3", "falcon-h1", "midm-2.0", "lfm2"}},
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       false,
       {"dbrx"}},
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       false,
       {"qwen2", "deepseek-r1-qwen", "megrez"}},
      {{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       false,
       {"qwen35"}},
      {{R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       true,
       true,
       {"tekken"}},
      {{R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       false,
       false,
       {"gpt-4o", "llama4"}},
      {{kByteLevel}, false, false, {"gpt-2", "phi-2", "gigachat", "mellum", "exaone4"}},
      {{R"(\p{N})", kByteLevel},
       false,
       false,
       {"smollm", "starcoder", "refact", "command-r", "codeshell"}},
      {{R"([\p{P}\$\+<=>\^~\|]+)",
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))", R"(\p{N}+)",
        R"([0-9][0-9][0-9])"},
       false,
       false,
       {"default"}},
  };
  return pres;
}

void add_stages(JsonRef item, std::vector<std::string>& stages) {
  const std::string& type = item.at("type").string();
  const auto flag = [&](const char* key, bool absent) {
    const JsonRef value = item.find(key);
    return value ? value.boolean() : absent;
  };
  if (type == "Sequence") {
    const JsonRef list = item.at("pretokenizers");
    for (size_t i = 0; i < list.size(); ++i) add_stages(list.at(i), stages);
  } else if (type == "Split") {
    const JsonRef regex = item.at("pattern").find("Regex");
    if (!regex) item.fail("llama.cpp has no pre-tokenizer that splits by a text");
    stages.push_back(regex.string());
  } else if (type == "Digits") {
    stages.emplace_back(flag("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
  } else {
    if (flag("add_prefix_space", true)) item.fail("llama.cpp puts no space in front of a text");
    if (flag("use_regex", true)) stages.emplace_back(kByteLevel);
  }
}

}  // namespace

std::string gguf_pre_name(JsonRef root, bool ignore_merges) {
  std::vector<std::string> stages;
  const JsonRef item = root.at("pre_tokenizer");
  add_stages(item, stages);
  for (const GgufPre& pre : known_pres())
    if (pre.stages == stages && pre.ignore_merges == ignore_merges) return pre.names.front();
  std::string text;
  for (const std::string& stage : stages) text += (text.empty() ? "" : ", then ") + stage;
  item.fail(str("no pre-tokenizer of llama.cpp is known here that splits by ", text,
                ignore_merges ? " and takes whole tokens before merges (ignore_merges)" : "",
                "; --tokenizer none writes a model of token ids"));
}

Json GgufPretokenizer::json() const {
  Json list = Json::array();
  bool own = false;
  for (const std::string& stage : stages)
    if (stage == kByteLevel)
      own = true;
    else
      list.push_back({{"type", "Split"},
                      {"pattern", {{"Regex", stage}}},
                      {"behavior", "Isolated"},
                      {"invert", false}});
  list.push_back({{"type", "ByteLevel"},
                  {"add_prefix_space", false},
                  {"trim_offsets", true},
                  {"use_regex", own}});
  return {{"type", "Sequence"}, {"pretokenizers", list}};
}

GgufPretokenizer gguf_pretokenizer(const std::string& name, const std::string& where) {
  std::string known;
  for (const GgufPre& pre : known_pres()) {
    if (std::ranges::any_of(pre.names, [&](const char* n) { return name == n; }))
      return {.stages = pre.stages, .ignore_merges = pre.ignore_merges, .adds_bos = pre.adds_bos};
    for (const char* n : pre.names) known += (known.empty() ? "" : ", ") + std::string(n);
  }
  NESTLING_CHECK_INPUT(false, where, " is '", name, "'; known are ", known);
  return {};
}

}  // namespace nestling
