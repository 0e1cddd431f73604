#include "data/tokenizer_file.h"

namespace nestling {
namespace {

int32_t token_id(JsonRef value) {
  const int64_t id = value.integer();
  constexpr int64_t kMost = int64_t{1} << 24;  // as a model's vocabulary
  if (id < 0 || id > kMost) value.fail(str("token id ", id, " is out of range"));
  return static_cast<int32_t>(id);
}

bool flag(JsonRef object, const char* key) {
  const JsonRef value = object.find(key);
  return value && value.boolean();
}

int32_t look_up(const TokenizerSpec& spec, const std::string& token, JsonRef where) {
  const auto it = spec.vocab.find(token);
  if (it == spec.vocab.end()) where.fail(str("\"", token, "\" is not in the vocabulary"));
  return it->second;
}

BpeMerge parse_merge(const TokenizerSpec& spec, JsonRef merge) {
  std::string left;
  std::string right;
  if (merge.is_string()) {
    const std::string& text = merge.string();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      merge.fail(str("needs two tokens with a space between, found \"", text, "\""));
    left = text.substr(0, space);
    right = text.substr(space + 1);
  } else {
    if (!merge.is_array() || merge.size() != 2) merge.fail("needs two tokens");
    left = merge.at(size_t{0}).string();
    right = merge.at(1).string();
  }
  return {look_up(spec, left, merge), look_up(spec, right, merge),
          look_up(spec, left + right, merge)};
}

void parse_model(JsonRef model, TokenizerSpec* spec) {
  if (const JsonRef type = model.find("type"); type && type.string() != "BPE")
    type.fail(str("model ", type.string(), " is not supported; BPE is"));
  if (const JsonRef p = model.find("dropout"); p && p.number() != 0)
    p.fail("random merges (dropout) are not supported");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const JsonRef a = model.find(affix); a && !a.string().empty())
      a.fail("is not supported in a byte-level model");
  if (flag(model, "byte_fallback")) model.at("byte_fallback").fail("is not supported");
  const JsonRef vocab = model.at("vocab");
  spec->vocab.reserve(vocab.size());
  vocab.for_each([&](const std::string& token, JsonRef id) { spec->vocab[token] = token_id(id); });
  const JsonRef merges = model.at("merges");
  spec->merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i)
    spec->merges.push_back(parse_merge(*spec, merges.at(i)));
  spec->ignore_merges = flag(model, "ignore_merges");
  spec->fuse_unknown = flag(model, "fuse_unk");
  if (const JsonRef unk = model.find("unk_token"))
    spec->unknown = look_up(*spec, unk.string(), unk);
}

void parse_added(JsonRef list, TokenizerSpec* spec) {
  for (size_t i = 0; list && i < list.size(); ++i) {
    const JsonRef item = list.at(i);
    AddedToken token{.content = item.at("content").string(),
                     .id = token_id(item.at("id")),
                     .special = flag(item, "special"),
                     .lstrip = flag(item, "lstrip"),
                     .rstrip = flag(item, "rstrip"),
                     .single_word = flag(item, "single_word"),
                     .normalized = flag(item, "normalized")};
    if (token.content.empty()) item.fail("an added token is empty");
    const auto it = spec->vocab.find(token.content);
    if (it != spec->vocab.end() && it->second != token.id)
      item.fail(str("\"", token.content, "\" has id ", token.id, " here and ", it->second,
                    " in the vocabulary"));
    spec->added.push_back(std::move(token));
  }
}

void parse_normalizer(JsonRef normalizer, TokenizerSpec* spec) {
  if (!normalizer) return;
  const std::string& type = normalizer.at("type").string();
  if (type == "Sequence") {
    const JsonRef list = normalizer.at("normalizers");
    for (size_t i = 0; i < list.size(); ++i) parse_normalizer(list.at(i), spec);
    return;
  }
  if (type != "NFC") normalizer.fail(str("normalizer ", type, " is not supported"));
  spec->nfc = true;
}

void parse_template(JsonRef processor, TokenizerSpec* spec) {
  const JsonRef single = processor.at("single");
  bool seen_text = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonRef item = single.at(i);
    if (item.find("Sequence")) {
      if (seen_text) item.fail("the text stands twice in the template");
      seen_text = true;
      continue;
    }
    const JsonRef special =
        processor.at("special_tokens").at(item.at("SpecialToken").at("id").string());
    const JsonRef ids = special.at("ids");
    for (size_t k = 0; k < ids.size(); ++k)
      (seen_text ? spec->after : spec->before).push_back(token_id(ids.at(k)));
  }
  if (!seen_text) single.fail("the template has no place for the text");
}

void parse_post_processor(JsonRef processor, TokenizerSpec* spec) {
  if (!processor) return;
  const std::string& type = processor.at("type").string();
  if (type == "ByteLevel") return;  // adjusts character offsets only
  if (type == "Sequence") {
    const JsonRef list = processor.at("processors");
    for (size_t i = 0; i < list.size(); ++i) parse_post_processor(list.at(i), spec);
    return;
  }
  if (type != "TemplateProcessing")
    processor.fail(str("post-processor ", type, " is not supported"));
  if (!spec->before.empty() || !spec->after.empty()) processor.fail("is a second template");
  parse_template(processor, spec);
}

}  // namespace

TokenizerSpec parse_tokenizer(JsonRef root) {
  TokenizerSpec spec{.vocab = {},
                     .merges = {},
                     .added = {},
                     .pretokenizer = Pretokenizer(root.at("pre_tokenizer")),
                     .before = {},
                     .after = {}};
  parse_model(root.at("model"), &spec);
  parse_added(root.find("added_tokens"), &spec);
  parse_normalizer(root.find("normalizer"), &spec);
  parse_post_processor(root.find("post_processor"), &spec);
  const JsonRef decoder = root.at("decoder");
  if (decoder.is_null() || decoder.at("type").string() != "ByteLevel")
    decoder.fail(str("needs decoder ByteLevel, found ",
                     decoder.is_null() ? "null" : decoder.at("type").string()));
  return spec;
}

}  // namespace nestling
