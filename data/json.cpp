#include "data/json.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "data/atomic_file.h"
#include "data/mapped_file.h"

namespace nestling {

struct detail::JsonTree {
  Json root;
  std::string name;
};

namespace {

// Infinity, -Infinity and NaN become string tokens of the same length, so that byte positions in
// messages stay true; which of the text's strings they are is remembered by ordinal.
struct Rewritten {
  std::string text;
  std::vector<size_t> ordinals;  // ascending; the rewritten tokens among all string tokens
  std::vector<double> values;
};

size_t skip_string(std::string_view text, size_t at) {  // at: the opening quote
  for (++at; at < text.size() && text[at] != '"'; ++at)
    if (text[at] == '\\') ++at;
  return std::min(at + 1, text.size());
}

Rewritten rewrite_nonfinite(std::string_view text) {
  struct Token {
    std::string_view name;
    double value;
  };
  constexpr double kInf = std::numeric_limits<double>::infinity();
  constexpr Token kTokens[] = {
      {"-Infinity", -kInf}, {"Infinity", kInf}, {"NaN", std::numeric_limits<double>::quiet_NaN()}};
  Rewritten out{std::string(text), {}, {}};
  size_t ordinal = 0;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '"') {
      at = skip_string(text, at);
      ++ordinal;
      continue;
    }
    size_t step = 1;
    for (const Token& token : kTokens) {
      if (!text.substr(at).starts_with(token.name)) continue;
      step = token.name.size();
      out.text.replace(at, step, '"' + std::string(step - 2, '_') + '"');
      out.ordinals.push_back(ordinal++);
      out.values.push_back(token.value);
      break;
    }
    at += step;
  }
  return out;
}

// Builds the tree from the parser's events, so that depth, duplicate keys and rewritten tokens are
// seen while reading.
class TreeBuilder final : public nlohmann::json_sax<Json> {
 public:
  TreeBuilder(const std::string& name, const JsonOptions& options, const Rewritten* rewritten)
      : name_(name), options_(options), rewritten_(rewritten) {}
  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool binary(binary_t&) override { return false; }  // JSON text has none
  bool string(string_t& value) override {
    double number = 0;
    if (next_is_rewritten(&number)) return add(number);
    return add(std::move(value));
  }
  bool key(string_t& value) override {
    double number = 0;
    if (next_is_rewritten(&number)) fail("a key must be a string");
    if (options_.unique_keys && open_.back()->contains(value))
      fail(str("key \"", value, "\" appears twice in one object"));
    slot_ = &(*open_.back())[value];
    return true;
  }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& e) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    std::string what = e.what();
    if (const size_t bracket = what.find("] "); bracket != std::string::npos)
      what = what.substr(bracket + 2);
    constexpr size_t kMost = 300;  // it quotes the token that was being read, however long
    if (what.size() > kMost) what = what.substr(0, kMost) + "...";
    fail(str("byte ", position, ": ", what));
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(str(name_, ": not valid JSON: ", what), ErrorKind::kInput);
  }
  bool next_is_rewritten(double* value) {
    const size_t ordinal = strings_++;
    if (rewritten_ == nullptr || used_ == rewritten_->ordinals.size() ||
        rewritten_->ordinals[used_] != ordinal)
      return false;
    *value = rewritten_->values[used_++];
    return true;
  }
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (static_cast<int>(open_.size()) >= options_.max_depth)
      fail(str("nested deeper than ", options_.max_depth));
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& name_;
  const JsonOptions& options_;
  const Rewritten* rewritten_;
  Json root_;
  std::vector<Json*> open_;  // an ancestor does not move while a descendant is being filled
  Json* slot_ = nullptr;     // where the value of the key just read goes
  size_t strings_ = 0;
  size_t used_ = 0;
};

bool find_path(const Json& from, const Json* target, std::string* path) {
  if (&from == target) return true;
  if (from.is_object()) {
    for (auto it = from.begin(); it != from.end(); ++it) {
      std::string below;
      if (!find_path(*it, target, &below)) continue;
      const bool dot = !below.empty() && below[0] != '[';
      *path = it.key() + (dot ? "." : "") + below;
      return true;
    }
  } else if (from.is_array()) {
    for (size_t i = 0; i < from.size(); ++i) {
      std::string below;
      if (!find_path(from[i], target, &below)) continue;
      const bool dot = !below.empty() && below[0] != '[';
      *path = str("[", i, "]", dot ? "." : "", below);
      return true;
    }
  }
  return false;
}

class Dumper {
 public:
  Dumper(int indent, bool nonfinite) : indent_(indent), nonfinite_(nonfinite) {}
  std::string take() { return std::move(out_); }

  void value(const Json& v, int depth) {
    if (v.is_object()) return object(v, depth);
    if (v.is_array()) return array(v, depth);
    if (v.is_number_float() && !std::isfinite(v.get<double>())) return infinity(v.get<double>());
    try {
      out_ += v.dump();
    } catch (const Json::exception& e) {
      throw Error(str("cannot write JSON: ", e.what()), ErrorKind::kInput);
    }
  }

 private:
  void object(const Json& v, int depth) {
    bool first = true;
    out_ += '{';
    for (auto it = v.begin(); it != v.end(); ++it, first = false) {
      if (!first) out_ += ',';
      line(depth + 1);
      value(Json(it.key()), depth);
      out_ += indent_ < 0 ? ":" : ": ";
      value(*it, depth + 1);
    }
    if (!first) line(depth);
    out_ += '}';
  }
  void array(const Json& v, int depth) {
    bool first = true;
    out_ += '[';
    for (const Json& element : v) {
      if (!first) out_ += ',';
      first = false;
      line(depth + 1);
      value(element, depth + 1);
    }
    if (!first) line(depth);
    out_ += ']';
  }
  void infinity(double x) {
    NESTLING_CHECK(nonfinite_, "cannot write ", x, " as JSON: it has no such number");
    out_ += std::isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity";
  }
  void line(int depth) {
    if (indent_ < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(indent_) * static_cast<size_t>(depth), ' ');
  }
  int indent_;
  bool nonfinite_;
  std::string out_;
};

}  // namespace

void JsonRef::fail(const std::string& what) const {
  if (tree_ == nullptr) throw Error(str("absent JSON value: ", what), ErrorKind::kInput);
  const std::string where = path();
  throw Error(str(tree_->name, ": ", where, where.empty() ? "" : ": ", what), ErrorKind::kInput);
}

void JsonRef::need(bool ok, const char* type) const {
  if (!ok) fail(str("needs ", type, ", found ", value_ ? value_->type_name() : "nothing"));
}

std::string JsonRef::path() const {
  std::string path;
  if (tree_ != nullptr && value_ != nullptr) find_path(tree_->root, value_, &path);
  return path;
}

const Json& JsonRef::json() const {
  need(value_ != nullptr, "a value");
  return *value_;
}

bool JsonRef::is_null() const {
  return value_ && value_->is_null();
}
bool JsonRef::is_object() const {
  return value_ && value_->is_object();
}
bool JsonRef::is_array() const {
  return value_ && value_->is_array();
}
bool JsonRef::is_string() const {
  return value_ && value_->is_string();
}
bool JsonRef::is_bool() const {
  return value_ && value_->is_boolean();
}
bool JsonRef::is_integer() const {
  return value_ && value_->is_number_integer();
}
bool JsonRef::is_number() const {
  return value_ && value_->is_number();
}

bool JsonRef::boolean() const {
  need(is_bool(), "boolean");
  return value_->get<bool>();
}

int64_t JsonRef::integer() const {
  need(is_integer(), "integer");
  if (value_->is_number_unsigned() &&
      value_->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    fail(str("integer ", value_->get<uint64_t>(), " does not fit 63 bits"));
  return value_->get<int64_t>();
}

double JsonRef::number() const {
  need(is_number(), "number");
  return value_->get<double>();
}

const std::string& JsonRef::string() const {
  need(is_string(), "string");
  return value_->get_ref<const std::string&>();
}

JsonRef JsonRef::at(std::string_view key) const {
  need(is_object(), "object");
  const auto it = value_->find(key);
  if (it == value_->end()) fail(str("key \"", key, "\" is missing"));
  return JsonRef(tree_, &*it);
}

JsonRef JsonRef::find(std::string_view key) const {
  need(is_object(), "object");
  const auto it = value_->find(key);
  return it == value_->end() || it->is_null() ? JsonRef() : JsonRef(tree_, &*it);
}

JsonRef JsonRef::at(size_t index) const {
  need(is_array(), "array");
  if (index >= value_->size()) fail(str("element ", index, " of ", value_->size()));
  return JsonRef(tree_, &(*value_)[index]);
}

size_t JsonRef::size() const {
  need(is_array() || is_object(), "array or object");
  return value_->size();
}

void JsonRef::for_each(const std::function<void(const std::string&, JsonRef)>& visit) const {
  need(is_object(), "object");
  for (auto it = value_->begin(); it != value_->end(); ++it) visit(it.key(), {tree_, &*it});
}

JsonDocument::JsonDocument(Json root, std::string name)
    : tree_(new detail::JsonTree{std::move(root), std::move(name)}) {}
JsonDocument::~JsonDocument() = default;
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;

JsonRef JsonDocument::root() const {
  return {tree_.get(), &tree_->root};
}
const Json& JsonDocument::json() const {
  return tree_->root;
}
const std::string& JsonDocument::name() const {
  return tree_->name;
}

JsonDocument parse_json(std::string_view text, std::string name, JsonOptions options) {
  Rewritten rewritten;
  const bool special = options.nonfinite && (text.find("Infinity") != std::string_view::npos ||
                                             text.find("NaN") != std::string_view::npos);
  if (special) {
    rewritten = rewrite_nonfinite(text);
    text = rewritten.text;
  }
  TreeBuilder builder(name, options, special ? &rewritten : nullptr);
  Json::sax_parse(text, &builder);
  return JsonDocument(builder.take(), std::move(name));
}

JsonDocument read_json(const std::filesystem::path& file, JsonOptions options) {
  const MappedFile mapped(file);
  return parse_json(mapped.text(), file.string(), options);
}

std::string dump_json(const Json& value, int indent, bool nonfinite) {
  Dumper dumper(indent, nonfinite);
  dumper.value(value, 0);
  return dumper.take();
}

void write_json(const std::filesystem::path& file, const Json& value, int indent, bool nonfinite) {
  AtomicFile out(file);
  out.write(dump_json(value, indent, nonfinite) + "\n");
  out.commit();
}

}  // namespace nestling
