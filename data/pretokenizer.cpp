#include "data/pretokenizer.h"

namespace nestling {
namespace {

// The regex of GPT-2, which `ByteLevel` with use_regex stands for.
constexpr const char* kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

bool flag(JsonRef item, const char* key, bool absent) {
  const JsonRef value = item.find(key);
  return value ? value.boolean() : absent;
}

// A pattern of the file, whose faults are named with their place in it.
Regex compiled(JsonRef pattern) {
  if (const JsonRef regex = pattern.find("Regex")) {
    const std::string& text = regex.string();
    return regex.placed([&] { return Regex(text); });
  }
  const std::string& text = pattern.at("String").string();
  return pattern.placed([&] { return Regex::literal(text); });
}

std::vector<Regex> one(Regex regex) {
  std::vector<Regex> list;
  list.push_back(std::move(regex));
  return list;
}

}  // namespace

Pretokenizer::Pretokenizer(JsonRef pre_tokenizer) {
  if (pre_tokenizer.is_null()) pre_tokenizer.fail("needs a ByteLevel pre-tokenizer, found null");
  if (pre_tokenizer.at("type").string() != "Sequence") {
    add(pre_tokenizer, true);
    return;
  }
  const JsonRef list = pre_tokenizer.at("pretokenizers");
  if (list.size() == 0) list.fail("needs a ByteLevel pre-tokenizer at the end, found none");
  for (size_t i = 0; i < list.size(); ++i) add(list.at(i), i + 1 == list.size());
}

void Pretokenizer::add(JsonRef item, bool last) {
  const std::string& type = item.at("type").string();
  const bool known = type == "ByteLevel" || type == "Split" || type == "Digits";
  if (!known) item.fail(str("pre-tokenizer ", type, " is not supported"));
  if (last != (type == "ByteLevel"))
    item.fail(str("pre-tokenizer ", type, last ? " is last" : " is not last",
                  "; supported is a list whose last, and only the last, is ByteLevel"));
  if (type == "ByteLevel") return add_byte_level(item);
  if (type == "Split") return add_split(item);
  const bool single = item.at("individual_digits").boolean();
  stages_.push_back({Stage::Kind::kIsolate, one(Regex(single ? "\\p{N}" : "\\p{N}+"))});
}

void Pretokenizer::add_byte_level(JsonRef item) {
  if (flag(item, "add_prefix_space", true)) stages_.push_back({Stage::Kind::kPrefixSpace, {}});
  if (flag(item, "use_regex", true))
    stages_.push_back({Stage::Kind::kIsolate, one(Regex(kGpt2Regex))});
}

void Pretokenizer::add_split(JsonRef item) {
  const std::string& behavior = item.at("behavior").string();
  const bool invert = flag(item, "invert", false);
  const bool keep = behavior == "Removed" && invert;
  if (behavior != "Isolated" && !keep)
    item.fail(str("Split behavior ", behavior, invert ? " (inverted)" : "", " is not supported"));
  stages_.push_back({keep ? Stage::Kind::kKeepMatches : Stage::Kind::kIsolate,
                     one(compiled(item.at("pattern")))});
}

void Pretokenizer::split(std::string_view text, const Emit& emit) const {
  std::vector<RegexMatcher> matchers;
  matchers.reserve(stages_.size());
  for (const Stage& stage : stages_)
    for (const Regex& regex : stage.regex) matchers.emplace_back(regex);
  run(0, text, matchers, emit);
}

void Pretokenizer::run(size_t stage, std::string_view text, std::vector<RegexMatcher>& matchers,
                       const Emit& emit) const {
  if (text.empty()) return;
  if (stage == stages_.size()) return emit(text);
  const Stage& s = stages_[stage];
  if (s.kind == Stage::Kind::kPrefixSpace) {
    if (text.starts_with(' ')) return run(stage + 1, text, matchers, emit);
    return run(stage + 1, " " + std::string(text), matchers, emit);
  }
  size_t matcher = 0;  // stages without a regex have none
  for (size_t i = 0; i < stage; ++i) matcher += stages_[i].regex.size();
  for (size_t at = 0; at < text.size();) {
    const auto match = matchers[matcher].next(text, at);
    const size_t begin = match ? match->first : text.size();
    if (s.kind == Stage::Kind::kIsolate)
      run(stage + 1, text.substr(at, begin - at), matchers, emit);
    if (!match) break;
    run(stage + 1, text.substr(begin, match->second - begin), matchers, emit);
    at = match->second;
  }
}

}  // namespace nestling
