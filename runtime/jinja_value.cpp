#include "runtime/jinja_value.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;

bool same_fields(const Fields& a, const Fields& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& field) {
           const Value* other = b.find(field.first);
           return other != nullptr && same(field.second, *other);
         });
}

// Equal only to itself, which a Value cannot tell.
bool has_identity(const Value& v) {
  switch (v.kind()) {
    case Kind::kView:
    case Kind::kRange:
    case Kind::kStream:
    case Kind::kNamespace:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

constexpr int kMaxDepth = 200;

// Of what holds it.
int depth_around(const Value& v) {
  if (v.depth() >= kMaxDepth) refuse(str("more than ", kMaxDepth, " values in each other"));
  return v.depth() + 1;
}

}  // namespace

void refuse(const std::string& what) {
  throw Refused{what};
}

const Value* Fields::find(const Value& key) const {
  const auto is_it = [&](const auto& field) { return same(field.first, key); };
  const auto found = std::find_if(all_.begin(), all_.end(), is_it);
  return found == all_.end() ? nullptr : &found->second;
}

void Fields::set(const Value& key, Value value) {
  depth_ = std::max(depth_, depth_around(value));
  if (key.is(Kind::kUndefined) || key.kind() >= Kind::kList)
    refuse(str("a key of ", kind_name(key)));
  const auto is_it = [&](const auto& field) { return same(field.first, key); };
  if (const auto found = std::find_if(all_.begin(), all_.end(), is_it); found != all_.end())
    found->second = std::move(value);
  else
    all_.emplace_back(key, std::move(value));
}

Value::Value(Items items, Kind kind)
    : kind_(kind), data_(std::make_shared<Sequence>(Sequence{std::move(items), 1})) {
  int& depth = std::get<std::shared_ptr<Sequence>>(data_)->depth;
  for (const Value& one : this->items()) depth = std::max(depth, depth_around(one));
}

Value::Value(Fields fields, Kind kind)
    : kind_(kind), data_(std::make_shared<Fields>(std::move(fields))) {}

Value Value::none() {
  Value v;
  v.kind_ = Kind::kNone;
  return v;
}

Value::Value(const OrderedJson& json) {
  if (json.is_null()) *this = none();
  if (json.is_boolean()) *this = Value(json.get<bool>());
  if (json.is_number_float()) *this = Value(json.get<double>());
  if (json.is_string()) *this = Value(json.get<std::string>());
  if (json.is_number_integer()) {
    if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX)
      refuse("the number " + json.dump());
    *this = Value(json.get<int64_t>());
  }
  if (json.is_array()) {
    Items items;
    for (const OrderedJson& one : json) items.emplace_back(one);
    *this = Value(std::move(items));
  }
  if (json.is_object()) {
    Fields fields;
    for (const auto& field : json.items()) fields.set(Value(field.key()), Value(field.value()));
    *this = Value(std::move(fields));
  }
}

int64_t Value::integer() const {
  return is(Kind::kBoolean) ? static_cast<int64_t>(boolean()) : std::get<int64_t>(data_);
}

long double Value::number() const {
  static_assert(std::numeric_limits<long double>::digits >= 64);
  return is(Kind::kFloat) ? static_cast<long double>(fraction())
                          : static_cast<long double>(integer());
}

int Value::depth() const {
  if (const auto* sequence = std::get_if<std::shared_ptr<Sequence>>(&data_))
    return (*sequence)->depth;
  const auto* fields = std::get_if<std::shared_ptr<Fields>>(&data_);
  return fields == nullptr ? 0 : (*fields)->depth();
}

Items Value::elements(const std::string& for_whom) const {
  Items all;
  switch (kind_) {
    case Kind::kUndefined:
      return all;
    case Kind::kText:
      for (const std::string_view c : characters(text())) all.emplace_back(std::string(c));
      return all;
    case Kind::kDict:
      for (const auto& field : fields()) all.push_back(field.first);
      return all;
    case Kind::kStream: {
      const auto& stream = std::get<std::shared_ptr<Sequence>>(data_);
      if (std::exchange(stream->spent, true)) refuse(for_whom + " a generator for the second time");
      return stream->items;
    }
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
    case Kind::kRange:
      return items();
    default:
      refuse(str(for_whom, " ", kind_name(*this)));
  }
}

const char* kind_name(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "an undefined value";
    case Kind::kNone:
      return "none";
    case Kind::kBoolean:
      return "a boolean";
    case Kind::kInteger:
      return "an integer";
    case Kind::kFloat:
      return "a fraction";
    case Kind::kText:
      return "a text";
    case Kind::kMarkup:
      return "a text of the filter safe";
    case Kind::kList:
      return "a list";
    case Kind::kTuple:
      return "a tuple";
    case Kind::kView:
      return "a view of a dictionary";
    case Kind::kRange:
      return "a range";
    case Kind::kStream:
      return "a generator";
    case Kind::kDict:
      return "a dictionary";
    case Kind::kNamespace:
      return "a namespace";
    case Kind::kLoop:
      return "the loop";
  }
  return "";
}

bool truth(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBoolean:
    case Kind::kInteger:
    case Kind::kFloat:
      return v.number() != 0;
    case Kind::kText:
    case Kind::kMarkup:
      return !v.text().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
    case Kind::kRange:
      return !v.items().empty();
    case Kind::kDict:
      return v.fields().size() > 0;
    case Kind::kStream:
    case Kind::kNamespace:
    case Kind::kLoop:
      return true;
  }
  return false;
}

bool same(const Value& a, const Value& b) {
  if (has_identity(a) && has_identity(b)) refuse(str(kind_name(a), " == ", kind_name(b)));
  if (a.is_number() && b.is_number()) return a.number() == b.number();
  if (a.is_text() && b.is_text()) return a.text() == b.text();
  if (a.kind() != b.kind()) return false;
  if (a.is_list())
    return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(), same);
  return a.is(Kind::kDict) ? same_fields(a.fields(), b.fields()) : true;
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return a.number() < b.number();
  if (a.is_text() && b.is_text()) return a.text() < b.text();
  refuse(str(kind_name(a), " < ", kind_name(b)));
}

bool contains(const Value& all, const Value& one) {
  if (all.is_text()) {
    if (!one.is_text()) refuse(str(kind_name(one), " `in` a text"));
    return all.text().find(one.text()) != std::string::npos;
  }
  if (all.is(Kind::kDict)) {
    if (one.kind() >= Kind::kList) refuse(str(kind_name(one), " `in` a dictionary"));
    return all.fields().find(one) != nullptr;
  }
  const Items items = all.elements(str(kind_name(one), " `in`"));
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return same(v, one); });
}

int64_t length(const Value& v) {
  if (v.is(Kind::kUndefined)) return 0;
  if (v.is_text()) return std::ssize(characters(v.text()));
  if (v.is(Kind::kDict)) return static_cast<int64_t>(v.fields().size());
  if (v.is_list() || v.is(Kind::kView) || v.is(Kind::kRange)) return std::ssize(v.items());
  refuse(str("the length of ", kind_name(v)));
}

}  // namespace nestling::jinja
