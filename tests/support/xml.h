// xml.h - is a text well-formed, as far as the pages of this project go: one root, tags that match,
// quoted attributes, known entities; and numbers where SVG has numbers.
#pragma once
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/check.h"

namespace nestling::testing {

namespace detail {

inline bool known_entities(std::string_view text) {
  for (size_t at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    bool known = false;
    for (const std::string_view e : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"})
      known = known || text.substr(at).starts_with(e);
    if (!known) return false;
  }
  return true;
}

// `body` of a tag, without < and >: the fault of its attributes, "" if none.
inline std::string attribute_fault(std::string_view body) {
  static const std::set<std::string_view> kNumeric = {"x",  "y",  "x1", "x2", "y1",     "y2",
                                                      "cx", "cy", "r",  "d",  "viewBox"};
  size_t at = body.find(' ');
  while (at != std::string_view::npos &&
         body.find_first_not_of(" /", at) != std::string_view::npos) {
    const size_t name = body.find_first_not_of(' ', at);
    const size_t equals = body.find("=\"", name);
    if (equals == std::string_view::npos) return str("an attribute without value in <", body, ">");
    const size_t end = body.find('"', equals + 2);
    if (end == std::string_view::npos) return str("an open quote in <", body, ">");
    const std::string_view value = body.substr(equals + 2, end - equals - 2);
    if (!known_entities(value) || value.find('<') != std::string_view::npos)
      return str("a raw value in <", body, ">");
    if (kNumeric.contains(body.substr(name, equals - name)) &&
        value.find_first_not_of("0123456789.- MLZlm") != std::string_view::npos)
      return str("no numbers in <", body, ">");
    at = end + 1;
  }
  return {};
}

}  // namespace detail

// "" or the first fault.
inline std::string xml_fault(std::string_view text) {
  std::vector<std::string> open;
  size_t at = 0;
  if (text.starts_with("<!DOCTYPE html>")) at = 15;
  while (at < text.size()) {
    const size_t tag = text.find('<', at);
    if (!detail::known_entities(text.substr(at, tag - at)))
      return str("an unknown entity in '", text.substr(at, 60), "'");
    if (tag == std::string_view::npos) break;
    const size_t end = text.find('>', tag);
    if (end == std::string_view::npos) return "a tag without end";
    const std::string_view body = text.substr(tag + 1, end - tag - 1);
    const std::string name(body.substr(0, body.find_first_of(" /", 1)));
    if (body.starts_with("/")) {
      if (open.empty() || "/" + open.back() != name) return str("<", body, "> closes nothing");
      open.pop_back();
    } else {
      if (const std::string fault = detail::attribute_fault(body); !fault.empty()) return fault;
      if (!body.ends_with("/")) open.push_back(name);
    }
    at = end + 1;
  }
  return open.empty() ? "" : str("<", open.back(), "> is not closed");
}

}  // namespace nestling::testing
