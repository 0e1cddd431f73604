#include "trainer/run/svg_rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "trainer/run/html_text.h"

namespace nestling {

namespace {

constexpr double kLetter = 7;
constexpr size_t kLongestLabel = 18;
constexpr size_t kMostSteps = 96;  // of a curve: wider than that nobody sees

std::string px(double v) {
  return fixed_number(v, 1);
}

std::string head(double width, double height, const std::string& title) {
  return str("<svg viewBox=\"0 0 ", px(width), " ", px(height), "\" role=\"img\" aria-label=\"",
             escape_html(title), "\">");
}

std::string text_at(double x, double y, const char* anchor, const char* style,
                    const std::string& text) {
  return str("<text x=\"", px(x), "\" y=\"", px(y), "\" text-anchor=\"", anchor, "\" class=\"",
             style, "\">", escape_html(text), "</text>");
}

template <class Row>
double label_room(const std::vector<Row>& rows) {
  size_t longest = 0;
  for (const Row& r : rows) longest = std::max(longest, std::min(r.label.size(), kLongestLabel));
  return 12 + kLetter * static_cast<double>(longest);
}

std::string x_axis(const Scale& scale, double left, double right, double top, double bottom,
                   const char* unit) {
  std::string out;
  for (const double t : scale.ticks()) {
    const double x = scale.at(t);
    out += str("<line x1=\"", px(x), "\" y1=\"", px(top), "\" x2=\"", px(x), "\" y2=\"", px(bottom),
               "\" class=\"grid\"/>");
    out += text_at(x, bottom + 15, "middle", "tick", short_number(t) + unit);
  }
  return out + str("<line x1=\"", px(left), "\" y1=\"", px(bottom), "\" x2=\"", px(right),
                   "\" y2=\"", px(bottom), "\" class=\"axis\"/>");
}

// At most kMostSteps values: means of equal stretches.
std::vector<double> stretches(const std::vector<double>& all) {
  if (all.size() <= kMostSteps) return all;
  std::vector<double> means;
  for (size_t s = 0; s < kMostSteps; ++s) {
    const size_t begin = s * all.size() / kMostSteps, end = (s + 1) * all.size() / kMostSteps;
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += all[i];
    means.push_back(sum / static_cast<double>(end - begin));
  }
  return means;
}

// Steps filled down to the row's floor. A value that is not finite leaves a gap.
std::string curve(const CurveRow& row, double left, double right, double top, double floor) {
  const std::vector<double> values = stretches(row.values);
  double most = 0;
  for (const double v : values)
    if (std::isfinite(v)) most = std::max(most, v);
  if (most <= 0 || values.empty()) return {};
  const double wide = (right - left) / static_cast<double>(values.size());
  std::string path = str("M", px(left), " ", px(floor));
  for (size_t i = 0; i < values.size(); ++i) {
    const double share = std::isfinite(values[i]) ? std::max(0.0, values[i] / most) : 0;
    const double x = left + wide * static_cast<double>(i);
    path += str("L", px(x), " ", px(floor - share * (floor - top)), "L", px(x + wide), " ",
                px(floor - share * (floor - top)));
  }
  path += str("L", px(right), " ", px(floor), "Z");
  return str("<path d=\"", path, "\" class=\"area\"><title>", escape_html(row.label),
             "</title></path>");
}

}  // namespace

std::string bars_svg(const BarChart& chart) {
  constexpr double kBar = 11, kGap = 9, kFoot = 36, kTop = 4;
  const double left = label_room(chart.rows);
  const double right = chart.width - 12 - kLetter * chart.longest_text;
  std::vector<double> values;
  double height = kTop;
  for (const BarRow& r : chart.rows) {
    for (const Bar& b : r.bars) values.push_back(b.value);
    height += kBar * static_cast<double>(r.bars.size()) + kGap;
  }
  const Scale x(values, left, right, {.zero = true, .exact = true});
  std::string out = head(chart.width, height + kFoot, chart.title);
  out += x_axis(x, left, right, kTop, height, "");
  double y = kTop + kGap / 2;
  for (const BarRow& r : chart.rows) {
    const double middle = y + kBar * static_cast<double>(r.bars.size()) / 2;
    out += text_at(left - 8, middle + 4, "end", "name", shortened(r.label, kLongestLabel));
    for (const Bar& b : r.bars) {
      const double end = std::isfinite(b.value) ? x.at(b.value) : left;
      out += str("<rect x=\"", px(left), "\" y=\"", px(y + 1), "\" width=\"", px(end - left),
                 "\" height=\"", px(kBar - 2), "\" class=\"dot ", color_class(b.color),
                 "\"><title>", escape_html(b.name), "</title></rect>");
      out += text_at(end + 6, y + kBar - 2, "start", "tick", b.text);
      y += kBar;
    }
    y += kGap;
  }
  return out + text_at((left + right) / 2, height + kFoot - 5, "middle", "label", chart.x_label) +
         "</svg>";
}

std::string curves_svg(const CurveChart& chart) {
  constexpr double kRow = 26, kFoot = 36, kTop = 4;
  const double left = label_room(chart.rows);
  double room = 0;
  for (const CurveRow& r : chart.rows) room = std::max(room, static_cast<double>(r.text.size()));
  const double right = chart.width - 14 - kLetter * room;
  const double height = kTop + kRow * static_cast<double>(chart.rows.size());
  constexpr double kEnds[] = {0, 100};
  const Scale x(kEnds, left, right, {.zero = true, .exact = true, .most_ticks = 5});
  std::string out = head(chart.width, height + kFoot, chart.title);
  out += x_axis(x, left, right, kTop, height, "%");
  double y = kTop;
  for (const CurveRow& r : chart.rows) {
    out += text_at(left - 8, y + kRow - 6, "end", "name", shortened(r.label, kLongestLabel));
    out += curve(r, left, right, y + 3, y + kRow);
    out += str("<line x1=\"", px(left), "\" y1=\"", px(y + kRow), "\" x2=\"", px(right), "\" y2=\"",
               px(y + kRow), "\" class=\"axis\"/>");
    out += text_at(right + 6, y + kRow - 6, "start", "tick", r.text);
    y += kRow;
  }
  for (size_t i = 0; i < chart.cuts.size(); ++i) {
    const CurveChart::Cut& c = chart.cuts[i];
    double at = x.at(100 * c.share);
    for (size_t j = 0; j < i; ++j)  // side by side where sizes cut at the same place
      if (chart.cuts[j].share == c.share) at += 2.2;
    out += str("<line x1=\"", px(at), "\" y1=\"", px(kTop), "\" x2=\"", px(at), "\" y2=\"",
               px(height), "\" class=\"cut ", color_class(c.color), "\"><title>",
               escape_html(c.name), "</title></line>");
  }
  return out + text_at((left + right) / 2, height + kFoot - 5, "middle", "label", chart.x_label) +
         "</svg>";
}

}  // namespace nestling
