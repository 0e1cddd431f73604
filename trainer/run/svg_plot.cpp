#include "trainer/run/svg_plot.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "trainer/run/html_text.h"

namespace nestling {

namespace {

constexpr double kTop = 26, kBottom = 40, kLetter = 7, kLine = 14;
constexpr size_t kLongestLabel = 22;

std::string px(double v) {
  return fixed_number(v, 1);
}

std::string text_at(double x, double y, const char* anchor, const char* style,
                    const std::string& text) {
  return str("<text x=\"", px(x), "\" y=\"", px(y), "\" text-anchor=\"", anchor, "\" class=\"",
             style, "\">", escape_html(text), "</text>");
}

std::string line_at(double x1, double y1, double x2, double y2, const std::string& style) {
  return str("<line x1=\"", px(x1), "\" y1=\"", px(y1), "\" x2=\"", px(x2), "\" y2=\"", px(y2),
             "\" class=\"", style, "\"/>");
}

std::string dot_at(double x, double y, double r, const std::string& style,
                   const std::string& title) {
  return str("<circle cx=\"", px(x), "\" cy=\"", px(y), "\" r=\"", px(r), "\" class=\"", style,
             "\"><title>", escape_html(title), "</title></circle>");
}

// Least and greatest of every stretch, and what is not finite in it, in their order.
std::vector<PlotPoint> thinned(const std::vector<PlotPoint>& all) {
  if (all.size() <= kMostPoints) return all;
  const size_t stretches = kMostPoints / 2;
  std::vector<PlotPoint> kept;
  for (size_t s = 0; s < stretches; ++s) {
    const size_t begin = s * all.size() / stretches, end = (s + 1) * all.size() / stretches;
    size_t least = begin, greatest = begin;
    for (size_t i = begin; i < end; ++i) {
      if (!(all[least].y <= all[i].y)) least = i;
      if (!(all[greatest].y >= all[i].y)) greatest = i;
    }
    for (size_t i = begin; i < end; ++i)
      if (i == least || i == greatest || !std::isfinite(all[i].y)) kept.push_back(all[i]);
  }
  return kept;
}

std::vector<double> values_of(const Plot& p, bool y) {
  std::vector<double> values;
  const auto add = [&](const PlotPoint& q) { values.push_back(y ? q.y : q.x); };
  for (const PlotSeries& s : p.series)
    for (const PlotPoint& q : s.points) add(q);
  for (const PlotMove& m : p.moves) {
    for (const PlotPoint& q : m.before) add(q);
    add(m.after);
    if (y && m.low < m.high) values.insert(values.end(), {m.low, m.high});
  }
  if (y && p.shade_from < p.shade_to) values.insert(values.end(), {p.shade_from, p.shade_to});
  if (!y)
    for (const PlotBand& b : p.bands) values.insert(values.end(), {b.from, b.to});
  return values;
}

// All ticks of an axis of thousands in thousands.
std::string tick_text(double tick, const Scale& scale) {
  const bool thousands = scale.high() >= 1e4 && tick >= 1e3 && tick < 1e4;
  return thousands ? short_number(tick / 1e3) + "k" : short_number(tick);
}

double room_for_ticks(const Scale& scale) {
  size_t longest = 1;
  for (const double t : scale.ticks()) longest = std::max(longest, tick_text(t, scale).size());
  return 14 + kLetter * static_cast<double>(longest);
}

double room_for_names(const Plot& p) {
  size_t longest = 0;
  for (const PlotSeries& s : p.series)
    longest = std::max(longest, std::min(s.name.size(), kLongestLabel));
  return longest == 0 ? 14 : 22 + kLetter * static_cast<double>(longest);
}

class Drawing {
 public:
  explicit Drawing(const Plot& plot)
      : plot_(plot),
        y_(values_of(plot, true), plot.height - kBottom, kTop, plot.y),
        left_(room_for_ticks(y_)),
        right_(plot.width - room_for_names(plot)),
        x_(values_of(plot, false), left_, right_, plot.x) {}

  std::string svg() {
    out_ = str("<svg viewBox=\"0 0 ", px(plot_.width), " ", px(plot_.height),
               "\" role=\"img\" aria-label=\"", escape_html(plot_.title), "\">");
    background();
    axes();
    for (const PlotSeries& s : plot_.series) series(s);
    moves();
    marks();
    end_labels();
    return out_ + "</svg>";
  }

 private:
  double bottom() const { return plot_.height - kBottom; }
  bool visible(const PlotPoint& p) const { return !std::isnan(p.x) && std::isfinite(p.y); }
  void background();
  void axes();
  void marks();
  void series(const PlotSeries& s);
  void line(const std::vector<PlotPoint>& points, const std::string& style);
  struct Box {
    double x1, x2, y1, y2;
  };
  void moves();
  void move_name(const PlotMove& m, std::vector<Box>& taken);
  void arrow(const PlotPoint& from, const PlotPoint& to, const std::string& style);
  void end_labels();

  const Plot& plot_;
  Scale y_;
  double left_, right_;
  Scale x_;
  std::string out_;
};

void Drawing::background() {
  const auto rect = [&](double x1, double y1, double x2, double y2, const char* style) {
    out_ += str("<rect x=\"", px(x1), "\" y=\"", px(y1), "\" width=\"", px(x2 - x1), "\" height=\"",
                px(y2 - y1), "\" class=\"", style, "\"/>");
  };
  for (size_t i = 0; i < plot_.bands.size(); ++i)
    rect(x_.at(plot_.bands[i].from), kTop, x_.at(plot_.bands[i].to), bottom(),
         i % 2 == 0 ? "band0" : "band1");
  if (plot_.shade_from < plot_.shade_to)
    rect(left_, y_.at(plot_.shade_to), right_, y_.at(plot_.shade_from), "shade");
}

void Drawing::axes() {
  for (const double t : y_.ticks()) {
    const double y = y_.at(t);
    out_ += line_at(left_, y, right_, y, t == 0 ? "zero" : "grid");
    out_ += text_at(left_ - 7, y + 4, "end", "tick", tick_text(t, y_));
  }
  for (const double t : x_.ticks()) {
    const double x = x_.at(t);
    out_ += line_at(x, bottom(), x, bottom() + 4, "axis");
    out_ += text_at(x, bottom() + 17, "middle", "tick", tick_text(t, x_));
  }
  out_ += line_at(left_, bottom(), right_, bottom(), "axis");
  out_ += text_at(0, 12, "start", "label", plot_.y_label);
  out_ += text_at((left_ + right_) / 2, plot_.height - 5, "middle", "label", plot_.x_label);
}

// Over the lines, so that they can be read.
void Drawing::marks() {
  for (const PlotBand& b : plot_.bands)
    if (!b.label.empty())
      out_ +=
          text_at(x_.at(b.from) + 5, kTop + 13, "start", "note", shortened(b.label, kLongestLabel));
  const double y = kTop + (plot_.bands.empty() ? 13 : 28);
  for (const PlotMark& m : plot_.marks) {
    const double x = x_.at(m.x);
    const bool late = x > left_ + 0.7 * (right_ - left_);
    out_ += line_at(x, kTop, x, bottom(), "mark");
    out_ += text_at(late ? x - 5 : x + 5, y, late ? "end" : "start", "note", m.label);
  }
}

void Drawing::line(const std::vector<PlotPoint>& points, const std::string& style) {
  if (points.size() == 1) {
    out_ += dot_at(x_.at(points[0].x), y_.at(points[0].y), 2.5, "dot " + style,
                   str(short_number(points[0].x), ", ", short_number(points[0].y)));
    return;
  }
  std::string path;
  for (const PlotPoint& p : points)
    path += str(path.empty() ? "M" : "L", px(x_.at(p.x)), " ", px(y_.at(p.y)));
  out_ += str("<path d=\"", path, "\" class=\"line ", style, "\"/>");
}

void Drawing::series(const PlotSeries& s) {
  const std::string style = color_class(s.color);
  std::vector<PlotPoint> unbroken;
  out_ += "<g>";
  if (!s.name.empty()) out_ += "<title>" + escape_html(s.name) + "</title>";
  for (const PlotPoint& p : thinned(s.points)) {
    if (visible(p)) {
      unbroken.push_back(p);
      continue;
    }
    if (!unbroken.empty()) line(unbroken, style);
    unbroken.clear();
    if (std::isnan(p.x)) continue;
    const double x = x_.at(p.x);
    out_ += str("<path d=\"M", px(x - 3), " ", px(kTop - 3), "l6 6m0 -6l-6 6\" class=\"line ",
                style, "\"><title>not finite at ", short_number(p.x), "</title></path>");
  }
  if (!unbroken.empty()) line(unbroken, style);
  out_ += "</g>";
}

void Drawing::arrow(const PlotPoint& from, const PlotPoint& to, const std::string& style) {
  constexpr double kHead = 7, kGap = 6;
  const double x1 = x_.at(from.x), y1 = y_.at(from.y), x2 = x_.at(to.x), y2 = y_.at(to.y);
  const double length = std::hypot(x2 - x1, y2 - y1);
  if (length < 2 * kGap + kHead) return;  // the two circles say it
  const double ux = (x2 - x1) / length, uy = (y2 - y1) / length;
  const double ax = x2 - ux * kGap, ay = y2 - uy * kGap;  // where the head ends
  const double bx = ax - ux * kHead, by = ay - uy * kHead;
  out_ += line_at(x1 + ux * kGap, y1 + uy * kGap, bx, by, "arrow " + style);
  out_ += str("<path d=\"M", px(ax), " ", px(ay), "L", px(bx - uy * 3.5), " ", px(by + ux * 3.5),
              "L", px(bx + uy * 3.5), " ", px(by - ux * 3.5), "Z\" class=\"dot ", style, "\"/>");
}

// The name of a move beside its point: the first place that is free of names and other points.
void Drawing::move_name(const PlotMove& m, std::vector<Box>& taken) {
  const double x = x_.at(m.after.x), y = y_.at(m.after.y);
  const std::string name = shortened(m.name, kLongestLabel);
  const double wide = kLetter * static_cast<double>(name.size());
  struct Place {
    bool left;
    double dy;
  };
  constexpr Place kPlaces[] = {{false, -6},  {false, 15}, {true, -6},  {true, 15},
                               {false, -20}, {true, -20}, {false, 29}, {true, 29}};
  for (const bool forced : {false, true})
    for (const Place& p : kPlaces) {
      const double x1 = p.left ? x - 8 - wide : x + 8;
      const Box box = {x1, x1 + wide, y + p.dy - 10, y + p.dy + 2};
      const bool inside =
          box.x1 >= left_ && box.x2 <= plot_.width && box.y1 >= 14 && box.y2 <= bottom();
      const bool hit = std::any_of(taken.begin(), taken.end(), [&](const Box& o) {
        return o.x1 < box.x2 && box.x1 < o.x2 && o.y1 < box.y2 && box.y1 < o.y2;
      });
      if (!forced && (!inside || hit)) continue;
      taken.push_back(box);
      out_ += text_at(p.left ? box.x2 : box.x1, y + p.dy, p.left ? "end" : "start", "name", name);
      return;
    }
}

void Drawing::moves() {
  std::vector<Box> taken;
  const auto dot = [&](const PlotPoint& p, double r, const std::string& style,
                       const std::string& what) {
    const double x = x_.at(p.x), y = y_.at(p.y);
    taken.push_back({x - 6, x + 6, y - 6, y + 6});
    out_ += dot_at(x, y, r, style, str(what, short_number(p.x), ", ", short_number(p.y)));
  };
  for (const PlotMove& m : plot_.moves) {
    const std::string style = color_class(m.color);
    for (const PlotPoint& b : m.before) {
      if (!visible(b)) continue;
      if (visible(m.after)) arrow(b, m.after, style);
      dot(b, 4, "hollow " + style, m.name + " before: ");
    }
    if (!visible(m.after)) continue;
    const double x = x_.at(m.after.x);
    if (m.low < m.high) out_ += line_at(x, y_.at(m.low), x, y_.at(m.high), "whisker " + style);
    dot(m.after, 4.5, "dot " + style, m.name + ": ");
  }
  for (const PlotMove& m : plot_.moves)
    if (visible(m.after)) move_name(m, taken);
}

// Names at the ends of their lines, pushed apart where the lines end together.
void Drawing::end_labels() {
  struct Label {
    double y;
    const PlotSeries* series;
  };
  std::vector<Label> labels;
  for (const PlotSeries& s : plot_.series) {
    const auto last = std::find_if(s.points.rbegin(), s.points.rend(),
                                   [&](const PlotPoint& p) { return visible(p); });
    if (!s.name.empty()) labels.push_back({last == s.points.rend() ? kTop : y_.at(last->y), &s});
  }
  std::stable_sort(labels.begin(), labels.end(),
                   [](const Label& a, const Label& b) { return a.y < b.y; });
  for (size_t i = 1; i < labels.size(); ++i)
    labels[i].y = std::max(labels[i].y, labels[i - 1].y + kLine);
  double limit = bottom();
  for (size_t i = labels.size(); i-- > 0; limit -= kLine)
    labels[i].y = std::min(labels[i].y, limit);
  for (const Label& l : labels) {
    out_ += dot_at(right_ + 9, l.y, 3.5, "dot " + color_class(l.series->color), l.series->name);
    out_ +=
        text_at(right_ + 16, l.y + 4, "start", "name", shortened(l.series->name, kLongestLabel));
  }
}

}  // namespace

std::string color_class(int color) {
  if (color < 0) return "grey";
  const auto c = static_cast<size_t>(color);
  return str("c", c % kColors, c >= kColors ? " dash" : "");
}

std::string plot_svg(const Plot& plot) {
  return Drawing(plot).svg();
}

}  // namespace nestling
