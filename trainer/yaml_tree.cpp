#include "trainer/yaml_tree.h"

#include <algorithm>
#include <sstream>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "data/mapped_file.h"
#include "data/utf8.h"
#include "kernels/core/check.h"

namespace nestling {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;  // a config is written by hand
constexpr size_t kMaxDepth = 32;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw Error(str(where, ": ", what), ErrorKind::kInput);
}

// Builds the tree from yaml-cpp's events: its own nodes keep only one of two equal keys.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& name) : name_(name) {}
  YamlNode root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    add({.kind = YamlKind::kNull, .text = {}, .where = at(mark), .items = {}, .entries = {}});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(at(mark), "aliases (*name) are not read; write the value out");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    if (tag != "?" && tag != "!" && !tag.empty()) fail(at(mark), str("tag ", tag, " is not read"));
    add({.kind = tag == "!" ? YamlKind::kQuoted : YamlKind::kPlain,
         .text = value,
         .where = at(mark),
         .items = {},
         .entries = {}});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlKind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, YamlKind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlNode node;
    std::string key;  // of the value that comes next
    bool has_key = false;
  };

  std::string at(const YAML::Mark& mark) const {
    return name_.starts_with("--set") ? name_ : str(name_, ":", mark.line + 1);
  }
  void open(const YAML::Mark& mark, const std::string& tag, YamlKind kind) {
    if (tag != "?" && tag != "!" && !tag.empty()) fail(at(mark), str("tag ", tag, " is not read"));
    if (!levels_.empty() && levels_.back().node.kind == YamlKind::kMap && !levels_.back().has_key)
      fail(at(mark), "a key must be a plain word, found a list or a map");
    if (levels_.size() >= kMaxDepth) fail(at(mark), str("nested deeper than ", kMaxDepth));
    levels_.push_back(
        {{.kind = kind, .text = {}, .where = at(mark), .items = {}, .entries = {}}, {}, false});
  }
  void close() {
    YamlNode done = std::move(levels_.back().node);
    levels_.pop_back();
    add(std::move(done));
  }
  void add(YamlNode node) {
    if (levels_.empty()) {
      root = std::move(node);
      return;
    }
    Level& level = levels_.back();
    if (level.node.kind == YamlKind::kList) {
      level.node.items.push_back(std::move(node));
    } else if (level.has_key) {
      level.node.entries.push_back({std::move(level.key), std::move(node)});
      level.has_key = false;
    } else {
      take_key(level, node);
    }
  }
  static void take_key(Level& level, const YamlNode& node) {
    if (node.kind == YamlKind::kNull) fail(node.where, "a key is missing before ':'");
    if (const YamlNode* before = std::as_const(level.node).find(node.text))
      fail(node.where, str("key '", node.text, "' is given twice, first at ", before->where));
    if (node.text == "<<") fail(node.where, "merge keys (<<) are not read; use include:");
    level.key = node.text;
    level.has_key = true;
  }

  const std::string& name_;
  std::vector<Level> levels_;
};

// yaml-cpp would read 0x04 as the end of the file and replace what is not UTF-8.
void check_text(std::string_view text, const std::string& name) {
  if (text.size() > kMaxBytes) fail(name, str("more than ", kMaxBytes, " bytes"));
  const auto line = [&](size_t at) {
    return str(name, ":",
               std::count(text.begin(), text.begin() + static_cast<int64_t>(at), '\n') + 1);
  };
  const size_t bad = find_invalid_utf8(text);
  if (bad != std::string_view::npos) fail(line(bad), "the text is not UTF-8");
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f)
      fail(line(i), str("control character ", static_cast<int>(c)));
  }
}

void merge_over(YamlNode& below, YamlNode&& above) {
  if (below.kind != YamlKind::kMap || above.kind != YamlKind::kMap) {
    below = std::move(above);
    return;
  }
  below.where = above.where;
  for (auto& [key, value] : above.entries) {
    if (YamlNode* old = below.find(key))
      merge_over(*old, std::move(value));
    else
      below.entries.push_back({key, std::move(value)});
  }
}

YamlNode read_with_includes(const std::filesystem::path& file,
                            std::vector<std::filesystem::path>& open) {
  const auto canonical = std::filesystem::weakly_canonical(file);
  if (std::find(open.begin(), open.end(), canonical) != open.end())
    fail(file.string(), "includes itself");
  open.push_back(canonical);
  YamlNode root = parse_yaml(MappedFile(file).text(), file.string());
  if (root.kind == YamlKind::kNull) root.kind = YamlKind::kMap;
  if (root.where.empty()) root.where = file.string();
  if (root.kind != YamlKind::kMap)
    fail(root.where, str("needs keys and values, found ", root.kind_name()));
  const auto include = std::find_if(root.entries.begin(), root.entries.end(),
                                    [](const auto& entry) { return entry.key == "include"; });
  if (include != root.entries.end()) {
    const YamlNode& name = include->value;
    if (name.text.empty())
      fail(name.where, str("include: needs the name of a file, found ", name.kind_name()));
    YamlNode below = read_with_includes(file.parent_path() / name.text, open);
    root.entries.erase(include);
    merge_over(below, std::move(root));
    root = std::move(below);
  }
  open.pop_back();
  return root;
}

YamlNode* list_item(YamlNode& list, const std::string& index, const std::string& assignment) {
  const bool digits = !index.empty() && index.size() < 10 &&
                      index.find_first_not_of("0123456789") == std::string::npos;
  const size_t at = digits ? std::stoul(index) : 0;
  if (!digits || at >= list.items.size())
    fail("--set " + assignment, str("'", index, "' names no item of a list of ", list.items.size(),
                                    " (they count from 0)"));
  return &list.items[at];
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, value] : entries)
    if (name == key) return &value;
  return nullptr;
}

YamlNode* YamlNode::find(std::string_view key) {
  return const_cast<YamlNode*>(std::as_const(*this).find(key));
}

const char* YamlNode::kind_name() const {
  switch (kind) {
    case YamlKind::kNull:
      return "nothing";
    case YamlKind::kPlain:
      return "a plain word";
    case YamlKind::kQuoted:
      return "quoted text";
    case YamlKind::kList:
      return "a list";
    case YamlKind::kMap:
      return "a map";
  }
  return "?";
}

YamlNode parse_yaml(std::string_view text, const std::string& name) {
  check_text(text, name);
  TreeBuilder builder(name);
  std::istringstream in{std::string(text)};
  try {
    YAML::Parser parser(in);
    parser.HandleNextDocument(builder);
    TreeBuilder rest(name);
    if (parser.HandleNextDocument(rest)) fail(name, "holds more than one document (---)");
  } catch (const YAML::Exception& e) {
    const bool place = !e.mark.is_null() && !name.starts_with("--set");
    fail(place ? str(name, ":", e.mark.line + 1) : name, "not YAML: " + e.msg);
  }
  return std::move(builder.root);
}

YamlNode read_yaml(const std::filesystem::path& file) {
  std::vector<std::filesystem::path> open;
  return read_with_includes(file, open);
}

void apply_override(YamlNode& root, const std::string& assignment) {
  const std::string where = "--set " + assignment;
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) fail(where, "needs the form key=value");
  YamlNode value = parse_yaml(std::string_view(assignment).substr(equals + 1), where);
  if (value.where.empty()) value.where = where;
  const std::string path = assignment.substr(0, equals);
  YamlNode* node = &root;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    begin = end + 1;
    if (key.empty()) fail(where, "a part of the key is empty");
    if (node->kind == YamlKind::kList) {
      node = list_item(*node, key, assignment);
      continue;
    }
    if (node->kind != YamlKind::kMap)
      fail(where, str("'", key, "' lies under ", node->kind_name(), " (", node->where,
                      "), which has no keys"));
    if (node->find(key) == nullptr) {
      YamlNode fresh;
      fresh.kind = YamlKind::kMap;
      fresh.where = where;
      node->entries.push_back({key, std::move(fresh)});
    }
    node = node->find(key);
  }
  *node = std::move(value);
}

}  // namespace nestling
