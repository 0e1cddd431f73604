#include "runtime/jinja_print.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "data/regex.h"
#include "data/utf8.h"
#include "runtime/jinja_text.h"

namespace nestling::jinja {

namespace {

using Kind = Value::Kind;

// The shortest digits that read back the same; with an exponent where Python writes one.
std::string fraction_text(double d, const char* infinity, const char* nan) {
  if (std::isnan(d)) return nan;
  if (std::isinf(d)) return (d < 0 ? "-" : "") + std::string(infinity);
  const double size = std::abs(d);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  std::array<char, 64> room{};
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(room.data(), room.data() + room.size(), d, format).ptr;
  std::string text(room.data(), end);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string hex(uint32_t value, size_t digits) {
  std::string text(digits, '0');
  for (size_t i = digits; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

// What stands behind the backslash of a control character that has a letter; 0: it has none.
char letter_of(char c, std::string_view known) {
  constexpr std::string_view kFrom = "\n\r\t\b\f", kTo = "nrtbf";
  const size_t at = known.find(c);
  return at == std::string_view::npos ? '\0' : kTo[kFrom.find(c)];
}

void need_utf8(const std::string& text, const char* what) {
  if (find_invalid_utf8(text) != std::string::npos) refuse(std::string(what) + " of no UTF-8");
}

bool is_printable(std::string_view character) {
  static const Regex kUnprintable(R"([^\p{L}\p{M}\p{N}\p{P}\p{S} ])");
  return !RegexMatcher(kUnprintable).next(character, 0);
}

std::string quoted(const std::string& text) {
  need_utf8(text, "repr()");
  const bool apostrophe = text.find('\'') != std::string::npos;
  const char quote = apostrophe && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const std::string_view c : characters(text)) {
    if (c[0] == quote || c[0] == '\\') {
      (out += '\\') += c;
    } else if (const char letter = letter_of(c[0], "\n\r\t"); letter != 0) {
      (out += '\\') += letter;
    } else if ((c.size() == 1 && c[0] >= ' ' && c[0] < 0x7F) || is_printable(c)) {
      out += c;
    } else {
      const char32_t point = utf8_decode(c);
      const size_t digits = point < 0x100 ? 2 : point < 0x10000 ? 4 : 8;
      out += (digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U") + hex(point, digits);
    }
  }
  return out + quote;
}

std::string repr(const Value& v);

std::string repr_items(const Items& items) {
  std::string out;
  for (const Value& one : items) out += (out.empty() ? "" : ", ") + repr(one);
  return out;
}

std::string repr(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kText:
      return quoted(v.text());
    case Kind::kMarkup:
      return "Markup(" + quoted(v.text()) + ")";
    case Kind::kList:
      return "[" + repr_items(v.items()) + "]";
    case Kind::kTuple:
      return "(" + repr_items(v.items()) + (v.items().size() == 1 ? ",)" : ")");
    case Kind::kDict: {
      std::string out;
      for (const auto& [key, value] : v.fields())
        out += (out.empty() ? "" : ", ") + repr(key) + ": " + repr(value);
      return "{" + out + "}";
    }
    default:
      return printed(v);
  }
}

std::string json_string(const std::string& text, bool ascii) {
  need_utf8(text, "JSON");
  std::string out = "\"";
  for (const std::string_view c : characters(text)) {
    const auto byte = static_cast<unsigned char>(c[0]);
    if (c[0] == '"' || c[0] == '\\') {
      (out += '\\') += c;
    } else if (const char letter = letter_of(c[0], "\n\r\t\b\f"); letter != 0) {
      (out += '\\') += letter;
    } else if (byte >= ' ' && (byte < 0x7F || !ascii)) {
      out += c;
    } else {
      const char32_t point = utf8_decode(c);
      if (point >= 0x10000) out += "\\u" + hex(0xD800 + ((point - 0x10000) >> 10), 4);
      out += "\\u" + hex(point >= 0x10000 ? 0xDC00 + ((point - 0x10000) & 0x3FF) : point, 4);
    }
  }
  return out + '"';
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}
  void write(const Value& v) {
    switch (v.kind()) {
      case Kind::kNone:
        out_ += "null";
        return;
      case Kind::kBoolean:
        out_ += v.boolean() ? "true" : "false";
        return;
      case Kind::kInteger:
        out_ += std::to_string(v.integer());
        return;
      case Kind::kFloat:
        out_ += fraction_text(v.fraction(), "Infinity", "NaN");
        return;
      case Kind::kText:
      case Kind::kMarkup:
        out_ += json_string(v.text(), style_.ascii);
        return;
      case Kind::kList:
      case Kind::kTuple:
        return between(v.items(), "[]", [this](const Value& one) { write(one); });
      case Kind::kDict:
        return dict({v.fields().begin(), v.fields().end()});
      default:
        refuse(std::string("JSON of ") + kind_name(v));
    }
  }
  std::string text() { return std::move(out_); }

 private:
  void dict(std::vector<std::pair<Value, Value>> fields) {
    const auto before = [](const auto& a, const auto& b) { return less(a.first, b.first); };
    if (style_.sorted) std::sort(fields.begin(), fields.end(), before);
    between(fields, "{}", [this](const auto& field) {
      key(field.first);
      out_ += style_.behind_key;
      write(field.second);
    });
  }
  void key(const Value& v) {
    if (v.is_text()) return write(v);
    out_ += '"';
    write(v);
    out_ += '"';
  }
  template <class All, class One>
  void between(const All& all, const char* brackets, One one) {
    out_ += brackets[0];
    ++depth_;
    for (size_t i = 0; i < all.size(); ++i) {
      if (i > 0) out_ += style_.between;
      line();
      one(all[i]);
    }
    --depth_;
    if (!all.empty()) line();
    out_ += brackets[1];
  }
  void line() {
    if (!style_.indent) return;
    out_ += '\n';
    for (int i = 0; i < depth_; ++i) out_ += *style_.indent;
  }

  const JsonStyle& style_;
  int depth_ = 0;
  std::string out_;
};

}  // namespace

std::string printed(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "";
    case Kind::kNone:
      return "None";
    case Kind::kBoolean:
      return v.boolean() ? "True" : "False";
    case Kind::kInteger:
      return std::to_string(v.integer());
    case Kind::kFloat:
      return fraction_text(v.fraction(), "inf", "nan");
    case Kind::kText:
    case Kind::kMarkup:
      return v.text();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return repr(v);
    default:
      refuse(std::string("printing ") + kind_name(v));
  }
}

std::string json_text(const Value& v, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(v);
  return writer.text();
}

}  // namespace nestling::jinja
