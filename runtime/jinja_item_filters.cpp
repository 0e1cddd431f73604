#include <algorithm>
#include <functional>
#include <string_view>

#include "runtime/jinja_filters.h"
#include "runtime/jinja_methods.h"
#include "runtime/jinja_operators.h"
#include "runtime/jinja_print.h"
#include "runtime/jinja_tests.h"
#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;

Value stream(Items items) {
  return Value(std::move(items), Kind::kStream);
}

// value.a.b, of the argument "a.b"; numbers are places. None: the value.
Value attribute_of(const Value& of, const std::optional<Value>& path) {
  if (!path || path->is(Kind::kNone)) return of;
  if (path->is_whole()) return item(of, *path);
  Value at = of;
  for (const std::string& part : split(text_of(*path, "an attribute"), ".", -1)) {
    const bool place = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    at = item(at, place && part.size() < 10 ? Value(int64_t{std::stoll(part)}) : Value(part));
  }
  return at;
}

// What is compared of an item: its attribute, in lower case unless case matters.
Value sort_key(const Value& one, const std::optional<Value>& attribute, bool cased_too) {
  Value key = attribute_of(one, attribute);
  return key.is_text() && !cased_too ? Value(cased(key.text(), Case::kLower)) : key;
}

// Their order by the keys, equal ones as they were.
Items by_keys(const Items& items, const Items& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? less(keys[b], keys[a]) : less(keys[a], keys[b]);
  });
  Items all;
  for (const size_t i : order) all.push_back(items[i]);
  return all;
}

Value sorted(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"reverse", "case_sensitive", "attribute"});
  if (given[2] && given[2]->is_text() && given[2]->text().find(',') != std::string::npos)
    refuse(what + " by several attributes");
  const Items items = v.elements(what + " of");
  Items keys;
  for (const Value& one : items) keys.push_back(sort_key(one, given[2], flag_of(given[1], false)));
  return Value(by_keys(items, keys, flag_of(given[0], false)));
}

Value sorted_dict(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"case_sensitive", "by", "reverse"});
  if (!v.is(Kind::kDict)) refuse(str(what, " of ", kind_name(v)));
  const std::string by = given[1] ? text_of(*given[1], "an argument of " + what) : "key";
  if (by != "key" && by != "value") refuse(what + " by " + by);
  Items pairs, keys;
  for (const auto& [key, value] : v.fields()) {
    pairs.emplace_back(Items{key, value}, Kind::kTuple);
    keys.push_back(sort_key(by == "key" ? key : value, {}, flag_of(given[0], false)));
  }
  return Value(by_keys(pairs, keys, flag_of(given[2], false)));
}

Value unique(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"case_sensitive", "attribute"});
  Items all, seen;
  for (const Value& one : v.elements(what + " of")) {
    Value key = sort_key(one, given[1], flag_of(given[0], false));
    if (key.kind() >= Kind::kList) refuse(str(what, " of ", kind_name(key)));
    const auto is_it = [&](const Value& other) { return same(key, other); };
    if (std::any_of(seen.begin(), seen.end(), is_it)) continue;
    seen.push_back(std::move(key));
    all.push_back(one);
  }
  return stream(std::move(all));
}

Value least_or_most(const std::string& what, const Value& v, const Arguments& arguments,
                    bool most) {
  const Bound given = bound(what, arguments, {"case_sensitive", "attribute"});
  const Items items = v.elements(what + " of");
  const auto key = [&](const Value& one) {
    return sort_key(one, given[1], flag_of(given[0], false));
  };
  if (items.empty()) return {};
  size_t at = 0;
  for (size_t i = 1; i < items.size(); ++i)
    if (most ? less(key(items[at]), key(items[i])) : less(key(items[i]), key(items[at]))) at = i;
  return items[at];
}

// Behind the first `count` arguments.
Arguments rest(const Arguments& arguments, size_t count) {
  Arguments all = arguments;
  all.list.erase(all.list.begin(), all.list.begin() + static_cast<std::ptrdiff_t>(count));
  return all;
}

// Of what is false there are none, whatever it is.
Items elements_if_any(const std::string& what, const Value& v) {
  return truth(v) ? v.elements(what + " of") : Items{};
}

Value mapped(const std::string& what, const Value& v, const Arguments& arguments) {
  Items all;
  if (arguments.list.empty()) {
    const auto is_attribute = [](const auto& one) { return one.first == "attribute"; };
    if (std::none_of(arguments.named.begin(), arguments.named.end(), is_attribute))
      refuse(what + " without a filter");
    Arguments named = arguments;
    const Bound given = bound(what, named, {"attribute", "default"});
    for (const Value& one : elements_if_any(what, v)) {
      const Value found = attribute_of(one, given[0]);
      const bool fallback = found.is(Kind::kUndefined) && given[1] && !given[1]->is(Kind::kNone);
      all.push_back(fallback ? *given[1] : found);
    }
    return stream(std::move(all));
  }
  const std::string& filter = text_of(arguments.list[0], "an argument of " + what);
  for (const Value& one : elements_if_any(what, v))
    all.push_back(apply_filter(filter, one, rest(arguments, 1)));
  return stream(std::move(all));
}

// select, reject, selectattr, rejectattr: items whose test holds, or does not; without one: their truth.
Value chosen(const std::string& name, const Value& v, const Arguments& arguments) {
  const std::string what = "the filter " + name;
  const bool wanted = name.starts_with("select"), of_attribute = name.ends_with("attr");
  const size_t skipped = of_attribute ? 1 : 0;
  if (arguments.list.size() < skipped) refuse(what + " without an attribute");
  const bool tested = arguments.list.size() > skipped;
  Items all;
  for (const Value& one : elements_if_any(what, v)) {
    const Value of = of_attribute ? attribute_of(one, arguments.list[0]) : one;
    const bool holds = tested
                           ? apply_test(text_of(arguments.list[skipped], "an argument of " + what),
                                        of, rest(arguments, skipped + 1))
                           : truth(of);
    if (holds == wanted) all.push_back(one);
  }
  return stream(std::move(all));
}

Value joined(const std::string& what, const Value& v, const Arguments& arguments) {
  const Bound given = bound(what, arguments, {"d", "attribute"});
  const std::string between = given[0] ? printed(*given[0]) : "";
  std::string out;
  bool begun = false;
  for (const Value& one : v.elements(what + " of")) {
    out += (begun ? between : "") + printed(attribute_of(one, given[1]));
    begun = true;
  }
  return Value(std::move(out));
}

Value first_or_last(const std::string& what, const Value& v, bool first) {
  if (v.is(Kind::kStream) && !first) refuse(str(what, " of ", kind_name(v)));
  if (v.is(Kind::kMarkup)) refuse(str(what, " of ", kind_name(v)));
  Items items = v.elements(what + " of");
  if (items.empty()) return {};
  return first ? items.front() : items.back();
}

Value reversed(const std::string& what, const Value& v) {
  if (v.is(Kind::kUndefined)) refuse(str(what, " of ", kind_name(v)));
  Items items = v.elements(what + " of");
  std::reverse(items.begin(), items.end());
  if (!v.is_text()) return stream(std::move(items));
  std::string out;
  for (const Value& c : items) out += c.text();
  return Value(std::move(out));
}

Value pairs(const std::string& what, const Value& v) {
  if (v.is(Kind::kUndefined)) return stream({});
  if (!v.is(Kind::kDict)) refuse(str(what, " of ", kind_name(v)));
  return stream(call_method("items", v, {}).items());
}

}  // namespace

std::optional<Value> apply_item_filter(const std::string& name, const Value& v,
                                       const Arguments& arguments) {
  const std::string what = "the filter " + name;
  if (name == "map") return mapped(what, v, arguments);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr")
    return chosen(name, v, arguments);
  if (name == "sort") return sorted(what, v, arguments);
  if (name == "dictsort") return sorted_dict(what, v, arguments);
  if (name == "unique") return unique(what, v, arguments);
  if (name == "min" || name == "max") return least_or_most(what, v, arguments, name == "max");
  if (name == "join") return joined(what, v, arguments);
  if (name != "first" && name != "last" && name != "list" && name != "items" && name != "reverse")
    return std::nullopt;
  bound(what, arguments, {});
  if (name == "list") return Value(v.elements(what + " of"));
  if (name == "items") return pairs(what, v);
  if (name == "reverse") return reversed(what, v);
  return first_or_last(what, v, name == "first");
}

}  // namespace nestling::jinja
