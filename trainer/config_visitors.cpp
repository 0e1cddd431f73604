#include "trainer/config_visitors.h"

#include <algorithm>
#include <utility>

namespace nestling {
namespace {

std::string pattern_of(const std::string& path) {  // data.train.3.weight -> data.train.N.weight
  std::string out;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const bool index = part.find_first_not_of("0123456789") == std::string::npos;
    out += (out.empty() ? "" : ".") + (index ? std::string("N") : part);
    begin = end + 1;
  }
  return out;
}

std::pair<std::string, std::string> split_last(const std::string& path) {
  const size_t dot = path.rfind('.');
  if (dot == std::string::npos) return {"", path};
  return {path.substr(0, dot), path.substr(dot + 1)};
}

std::string found(const YamlNode& node) {
  const bool scalar = node.kind == YamlKind::kPlain || node.kind == YamlKind::kQuoted;
  return scalar ? str(node.kind_name(), " '", node.text, "'") : node.kind_name();
}

bool escaped_in_table(char c) {
  return c == '|' || c == '*';
}

std::string cell(const std::string& text) {
  std::string out;
  for (char c : text) out += escaped_in_table(c) ? str('\\', c) : std::string(1, c);
  return out;
}

}  // namespace

void ReadFields::fail(const YamlNode& node, const std::string& path, const std::string& needed) {
  throw Error(str(node.where, ": ", path, ": needs ", needed, ", found ", found(node)),
              ErrorKind::kInput);
}

void ReadFields::refuse_unknown() const {
  for (const auto& [key, value] : map_.entries) {
    if (std::find(keys_.begin(), keys_.end(), key) != keys_.end()) continue;
    throw Error(str(value.where, ": ", prefix_, key, ": there is no such key; the nearest is ",
                    nearest_field(state_.known, prefix_ + key)),
                ErrorKind::kInput);
  }
}

void ReadFields::read(const YamlNode& node, const std::string& path, int64_t& value,
                      const IntegerRule& rule) {
  const auto read =
      node.kind == YamlKind::kPlain ? parse_integer(node.text) : std::optional<int64_t>();
  if (!read || !allows(rule, *read)) fail(node, path, describe(rule));
  value = *read;
}

void ReadFields::read(const YamlNode& node, const std::string& path, uint64_t& value,
                      const SeedRule& rule) {
  const auto read =
      node.kind == YamlKind::kPlain ? parse_seed(node.text) : std::optional<uint64_t>();
  if (!read) fail(node, path, describe(rule));
  value = *read;
}

void ReadFields::read(const YamlNode& node, const std::string& path, double& value,
                      const NumberRule& rule) {
  const auto read =
      node.kind == YamlKind::kPlain ? parse_number(node.text) : std::optional<double>();
  if (!read || !allows(rule, *read)) fail(node, path, describe(rule));
  value = *read;
}

void ReadFields::read(const YamlNode& node, const std::string& path, bool& value,
                      const FlagRule& rule) {
  const bool yes = node.kind == YamlKind::kPlain && node.text == "true";
  const bool no = node.kind == YamlKind::kPlain && node.text == "false";
  if (!yes && !no) fail(node, path, describe(rule));
  value = yes;
}

void ReadFields::read(const YamlNode& node, const std::string& path, std::string& value,
                      const TextRule& rule) {
  const bool scalar = node.kind == YamlKind::kPlain || node.kind == YamlKind::kQuoted;
  if (!scalar || !allows(rule, node.text)) fail(node, path, describe(rule));
  value = node.text;
}

void ReadFields::read(const YamlNode& node, const std::string& path, Numbers& value,
                      const NumbersRule& rule) {
  if (node.kind != YamlKind::kList || std::ssize(node.items) != rule.count)
    fail(node, path, describe(rule));
  value.assign(node.items.size(), 0.0);
  for (size_t i = 0; i < value.size(); ++i)
    read(node.items[i], str(path, ".", i), value[i], rule.each);
}

void ReadFields::read(const YamlNode& node, const std::string& path, Texts& value,
                      const TextsRule& rule) {
  if (node.kind != YamlKind::kList) fail(node, path, describe(rule));
  value.assign(node.items.size(), "");
  for (size_t i = 0; i < value.size(); ++i)
    read(node.items[i], str(path, ".", i), value[i], TextRule{.filled = true});
}

void ReadFields::read(const YamlNode& node, const std::string& path, Terms& value,
                      const TermsRule& rule) {
  value.clear();
  if (node.kind == YamlKind::kMap && !node.entries.empty()) {
    for (const YamlEntry& entry : node.entries) {
      Term& term = value.emplace_back();
      term.name = entry.key;
      read(entry.value, str(path, ".", entry.key), term.value, TextRule{.filled = true});
    }
    return;
  }
  const bool scalar = node.kind == YamlKind::kPlain || node.kind == YamlKind::kQuoted;
  if (!scalar || !allows(TextRule{.filled = true}, node.text)) fail(node, path, describe(rule));
  value.push_back({.name = node.text, .value = ""});
}

std::string nearest_field(const std::vector<FieldInfo>& fields, const std::string& path) {
  const auto [parent, key] = split_last(pattern_of(path));
  int64_t best = 0;
  std::string nearest;
  for (const FieldInfo& field : fields) {
    const auto [its_parent, its_key] = split_last(field.path);
    // Of equally near names the one beside it.
    const int64_t distance = 2 * edit_distance(key, its_key) + (parent == its_parent ? 0 : 1);
    if (!nearest.empty() && distance >= best) continue;
    best = distance;
    nearest = field.path;
  }
  return nearest;
}

std::string field_table(const std::vector<FieldInfo>& fields) {
  std::string out =
      "| key | type | default | may be | meaning |\n| --- | --- | --- | --- | --- |\n";
  for (const FieldInfo& f : fields) {
    const bool needed = f.fallback.empty() && (f.leaf || !f.allowed.empty());
    const std::string fallback = needed               ? "*needed*"
                                 : f.fallback.empty() ? ""
                                                      : "`" + f.fallback + "`";
    out += str("| `", f.path, "` | ", f.type, " | ", fallback, " | ", cell(f.allowed), " | ",
               cell(f.meaning), " |\n");
  }
  return out;
}

}  // namespace nestling
