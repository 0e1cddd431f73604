// jinja_value.h - a value of a chat template: Python's, as far as templates see them.
//
// Kinds         kMarkup: a text of the filter `safe`; kView: what keys(), values() and items() give; kStream:
//               a generator, gone through once; kLoop: the fields of `loop`.
// Sharing       a copy shares its items and fields, and nothing changes them but a namespace's owner and
//               the one walk through a stream.
// Depth         of values in each other is bounded, so that no stack is at risk.
// Errors        Refused; whoever knows the line adds it.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "data/json.h"

namespace nestling::jinja {

struct Refused {
  std::string what;
};
[[noreturn]] void refuse(const std::string& what);

class Value;
class Fields;
using Items = std::vector<Value>;

class Value {
 public:
  enum class Kind : uint8_t {
    kUndefined,
    kNone,
    kBoolean,
    kInteger,
    kFloat,
    kText,
    kMarkup,
    kList,
    kTuple,
    kView,
    kRange,
    kStream,
    kDict,
    kNamespace,
    kLoop
  };

  Value() = default;  // undefined
  explicit Value(bool b) : kind_(Kind::kBoolean), data_(b) {}
  explicit Value(int64_t i) : kind_(Kind::kInteger), data_(i) {}
  explicit Value(double d) : kind_(Kind::kFloat), data_(d) {}
  explicit Value(std::string text, Kind kind = Kind::kText) : kind_(kind), data_(std::move(text)) {}
  explicit Value(const char* text) : Value(std::string(text)) {}
  explicit Value(Items items, Kind kind = Kind::kList);
  explicit Value(Fields fields, Kind kind = Kind::kDict);
  explicit Value(const OrderedJson& json);
  static Value none();

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_text() const { return kind_ == Kind::kText || kind_ == Kind::kMarkup; }
  bool is_number() const { return kind_ >= Kind::kBoolean && kind_ <= Kind::kFloat; }
  bool is_list() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  bool is_whole() const { return kind_ == Kind::kBoolean || kind_ == Kind::kInteger; }

  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const;     // of what is_whole: True is 1, as to Python
  long double number() const;  // of what is_number; exact
  double fraction() const { return std::get<double>(data_); }
  const std::string& text() const { return std::get<std::string>(data_); }
  const Items& items() const { return std::get<std::shared_ptr<Sequence>>(data_)->items; }
  const Fields& fields() const { return *std::get<std::shared_ptr<Fields>>(data_); }
  Fields& fields() { return *std::get<std::shared_ptr<Fields>>(data_); }
  // What a loop over it sees: items, keys or characters. A stream gives them once.
  Items elements(const std::string& for_whom) const;
  int depth() const;  // of values in each other

 private:
  struct Sequence {
    Items items;
    int depth;
    bool spent = false;  // a stream that was gone through
  };
  Kind kind_ = Kind::kUndefined;
  std::variant<std::monostate, bool, int64_t, double, std::string, std::shared_ptr<Sequence>,
               std::shared_ptr<Fields>>
      data_;
};

// What a dictionary holds, in the order it was written. Keys are texts, numbers or none.
class Fields {
 public:
  const Value* find(const Value& key) const;  // null: none
  const Value* find(const std::string& name) const { return find(Value(name)); }
  void set(const Value& key, Value value);
  void set(const char* name, Value value) { set(Value(name), std::move(value)); }
  size_t size() const { return all_.size(); }
  auto begin() const { return all_.begin(); }
  auto end() const { return all_.end(); }
  int depth() const { return depth_; }

 private:
  std::vector<std::pair<Value, Value>> all_;
  int depth_ = 1;
};

const char* kind_name(const Value& v);              // for messages
bool truth(const Value& v);                         // as an `if` sees it
bool same(const Value& a, const Value& b);          // a == b
bool less(const Value& a, const Value& b);          // a < b, of numbers or of texts
bool contains(const Value& all, const Value& one);  // one in all
int64_t length(const Value& v);

}  // namespace nestling::jinja
