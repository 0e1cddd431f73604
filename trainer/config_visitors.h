// config_visitors.h - what walks the list of fields: reading, writing, describing.
//
// Any config whose structs have visit_fields (config_fields.h) is read, dumped and documented by these.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "trainer/config_value.h"
#include "trainer/yaml_tree.h"

namespace nestling {

struct FieldInfo {
  std::string path;  // "data.train.N.weight"
  std::string type;
  std::string fallback;  // the default; "" if the field is required
  std::string allowed;
  std::string meaning;
  bool leaf = true;  // false: a group or list
};

inline const char* type_name(const int64_t&) {
  return "integer";
}
inline const char* type_name(const uint64_t&) {
  return "integer";
}
inline const char* type_name(const double&) {
  return "number";
}
inline const char* type_name(const bool&) {
  return "flag";
}
inline const char* type_name(const std::string&) {
  return "text";
}
inline const char* type_name(const Numbers&) {
  return "numbers";
}
inline const char* type_name(const Texts&) {
  return "texts";
}
inline const char* type_name(const Terms&) {
  return "terms";
}

// Every field of a default config.
class ListFields {
 public:
  ListFields(std::string prefix, std::vector<FieldInfo>& out)
      : prefix_(std::move(prefix)), out_(out) {}

  template <class T, class Rule>
  void field(const char* key, const T& value, const char* meaning, const Rule& rule) {
    out_.push_back({prefix_ + key, type_name(value), rule.required ? "" : print_value(value),
                    describe(rule), meaning, true});
  }
  template <class G>
  void group(const char* key, const G& value, const char* meaning) {
    out_.push_back({prefix_ + key, "map", "", "", meaning, false});
    ListFields inside(prefix_ + key + ".", out_);
    visit_fields(inside, value);
  }
  template <class G, class Rule>
  void list(const char* key, const std::vector<G>&, const char* meaning, const Rule& rule) {
    out_.push_back({prefix_ + key, "list", rule.required ? "" : "[]",
                    rule.required ? "at least one item" : "", meaning, false});
    ListFields inside(prefix_ + key + ".N.", out_);
    const G item{};
    visit_fields(inside, item);
  }

 private:
  std::string prefix_;
  std::vector<FieldInfo>& out_;
};

template <class Config>
std::vector<FieldInfo> list_fields() {
  std::vector<FieldInfo> all;
  ListFields lister("", all);
  // On the heap: GCC 12 takes the short strings of one on the stack for uninitialized.
  const auto config = std::make_unique<const Config>();
  visit_fields(lister, *config);
  return all;
}

// YAML, a line a field.
class DumpFields {
 public:
  explicit DumpFields(std::string& out, std::string indent = "", std::string first = "")
      : out_(out), indent_(std::move(indent)), next_(first.empty() ? indent_ : std::move(first)) {}

  template <class T, class Rule>
  void field(const char* key, const T& value, const char*, const Rule&) {
    line(str(key, ": ", print_value(value)));
  }
  template <class G>
  void group(const char* key, const G& value, const char*) {
    line(str(key, ":"));
    DumpFields inside(out_, indent_ + "  ");
    visit_fields(inside, value);
  }
  template <class G, class Rule>
  void list(const char* key, const std::vector<G>& items, const char*, const Rule&) {
    line(str(key, items.empty() ? ": []" : ":"));
    for (const G& item : items) {
      DumpFields inside(out_, indent_ + "    ", indent_ + "  - ");
      visit_fields(inside, item);
    }
  }

 private:
  void line(const std::string& text) {
    out_ += next_ + text + "\n";
    next_ = indent_;
  }
  std::string& out_;
  std::string indent_;
  std::string next_;  // before the next line: the indent, or "- " of a list's item
};

// What the readers of all groups of one file share.
struct ReadState {
  const std::vector<FieldInfo>& known;
  std::vector<std::string> missing;
};

// Fills a config from a tree. Fields that are absent keep their default.
class ReadFields {
 public:
  ReadFields(const YamlNode& map, std::string prefix, ReadState& state)
      : map_(map), prefix_(std::move(prefix)), state_(state) {
    if (map.kind != YamlKind::kMap) fail(map, prefix_.substr(0, prefix_.size() - 1), "a map");
  }

  template <class T, class Rule>
  void field(const char* key, T& value, const char*, const Rule& rule) {
    if (const YamlNode* node = take(key, rule.required)) read(*node, prefix_ + key, value, rule);
  }
  template <class G>
  void group(const char* key, G& value, const char*) {
    static const YamlNode kEmpty{
        .kind = YamlKind::kMap, .text = {}, .where = {}, .items = {}, .entries = {}};
    const YamlNode* node = take(key, false);
    ReadFields inside(node != nullptr ? *node : kEmpty, prefix_ + key + ".", state_);
    visit_fields(inside, value);
    inside.refuse_unknown();
  }
  template <class G, class Rule>
  void list(const char* key, std::vector<G>& items, const char*, const Rule& rule) {
    const YamlNode* node = take(key, rule.required);
    if (node == nullptr) return;
    if (node->kind != YamlKind::kList || (rule.required && node->items.empty()))
      fail(*node, prefix_ + key, rule.required ? "a list of at least one item" : "a list");
    items.clear();
    for (const YamlNode& item : node->items) {
      ReadFields inside(item, str(prefix_, key, ".", items.size(), "."), state_);
      visit_fields(inside, items.emplace_back());
      inside.refuse_unknown();
    }
  }
  void refuse_unknown() const;

 private:
  const YamlNode* take(const char* key, bool required) {
    keys_.emplace_back(key);
    const YamlNode* node = map_.find(key);
    if (node == nullptr && required) state_.missing.push_back(prefix_ + key);
    return node;
  }
  [[noreturn]] static void fail(const YamlNode& node, const std::string& path,
                                const std::string& needed);
  static void read(const YamlNode& node, const std::string& path, int64_t& value,
                   const IntegerRule& rule);
  static void read(const YamlNode& node, const std::string& path, uint64_t& value,
                   const SeedRule& rule);
  static void read(const YamlNode& node, const std::string& path, double& value,
                   const NumberRule& rule);
  static void read(const YamlNode& node, const std::string& path, bool& value,
                   const FlagRule& rule);
  static void read(const YamlNode& node, const std::string& path, std::string& value,
                   const TextRule& rule);
  static void read(const YamlNode& node, const std::string& path, Numbers& value,
                   const NumbersRule& rule);
  static void read(const YamlNode& node, const std::string& path, Texts& value,
                   const TextsRule& rule);
  static void read(const YamlNode& node, const std::string& path, Terms& value,
                   const TermsRule& rule);

  const YamlNode& map_;
  std::string prefix_;
  ReadState& state_;
  std::vector<std::string> keys_;
};

// A config from a tree; `name` is the file, for messages without a line.
template <class Config>
Config read_fields(const YamlNode& root, const std::string& name) {
  const std::vector<FieldInfo> known = list_fields<Config>();
  ReadState state{known, {}};
  Config config;
  ReadFields reader(root, "", state);
  visit_fields(reader, config);
  reader.refuse_unknown();
  if (state.missing.empty()) return config;
  std::string all;
  for (const std::string& key : state.missing) all += (all.empty() ? "" : ", ") + key;
  throw Error(str(name, ": needs ", all), ErrorKind::kInput);
}

template <class Config>
std::string dump_fields(const Config& config) {
  std::string out;
  DumpFields dumper(out);
  visit_fields(dumper, config);
  return out;
}

// Markdown: a row a field.
std::string field_table(const std::vector<FieldInfo>& fields);
// Of the fields, the one whose name is nearest to what was written.
std::string nearest_field(const std::vector<FieldInfo>& fields, const std::string& path);

}  // namespace nestling
