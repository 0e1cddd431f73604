// yaml_tree.h - a YAML file as a tree that remembers lines; the only door to yaml-cpp.
//
// Strict        repeated keys, keys that are no scalars, aliases, merge keys (<<), tags of one's own,
//               several documents, text that is not UTF-8 and control characters are refused:
//               nothing in a file is dropped or replaced unseen.
// Include       a top-level `include: other.yaml`, relative to the file that says it, is read first;
//               the including file lies above it: maps are merged key by key, all else replaced.
// Override      "a.b.0.c=value": the value is YAML; absent maps on the way are made, list items must be
//               there; of two overrides of one key the later counts.
// Errors        Error of kind kInput, "FILE:LINE: what" or "--set a.b=value: what".
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nestling {

enum class YamlKind : uint8_t { kNull, kPlain, kQuoted, kList, kMap };

struct YamlEntry;

struct YamlNode {
  YamlKind kind = YamlKind::kNull;
  std::string text;   // of a scalar
  std::string where;  // "run.yaml:12"
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;  // of a map, in the file's order

  const YamlNode* find(std::string_view key) const;  // nullptr: absent
  YamlNode* find(std::string_view key);
  const char* kind_name() const;  // for messages
};

struct YamlEntry {
  std::string key;
  YamlNode value;
};

YamlNode parse_yaml(std::string_view text, const std::string& name);
// With its includes merged; an empty file is an empty map.
YamlNode read_yaml(const std::filesystem::path& file);
void apply_override(YamlNode& root, const std::string& assignment);

}  // namespace nestling
