// svg_plot.h - lines and points over two axes, as one inline SVG without script, font or address.
//
// Colours       are classes c0, c1, ... of the page's style sheet, so that a figure follows a light or a
//               dark page; past the last colour they begin anew, dashed.
// Not finite    values break the line and stand as a cross on the upper edge: never dropped, never 0.
// Many points   (over kMostPoints a series) are thinned to the least and the greatest of every stretch.
// Text          is escaped here; callers pass it as it is.
// Determinism   the same plot is the same bytes.
#pragma once
#include <string>
#include <vector>

#include "trainer/run/svg_scale.h"

namespace nestling {

inline constexpr size_t kColors = 7;  // c0 to c6; a series of color -1 is grey
inline constexpr size_t kMostPoints = 800;
std::string color_class(int color);  // "c3", "c0 dash"

struct PlotPoint {
  double x = 0, y = 0;
};

struct PlotSeries {
  std::string name;  // written at its end; "" for none
  int color = 0;
  std::vector<PlotPoint> points;
};

// One thing measured twice, or once: hollow before, filled after, an arrow from one to the other.
struct PlotMove {
  std::string name;
  int color = 0;
  std::vector<PlotPoint> before;  // none or one
  PlotPoint after;
  double low = 0, high = 0;  // interval of after.y; equal: none
};

struct PlotBand {  // a stretch of the x axis
  double from = 0, to = 0;
  std::string label;
};

struct PlotMark {  // a place on the x axis
  double x = 0;
  std::string label;
};

struct Plot {
  std::string title;  // for who cannot see it
  std::string x_label, y_label;
  double width = 720, height = 300;
  Scale::Options x = {.exact = true}, y = {};
  std::vector<PlotSeries> series = {};
  std::vector<PlotMove> moves = {};
  std::vector<PlotBand> bands = {};
  std::vector<PlotMark> marks = {};
  double shade_from = 0, shade_to = 0;  // of the y axis: what is within is shaded; equal: nothing
};

std::string plot_svg(const Plot& plot);

}  // namespace nestling
