// svg_rows.h - figures of labelled rows: groups of horizontal bars, and small curves one below another.
//
// Text, colours, determinism: as in svg_plot.h. A value that is not finite has no bar; its text says so.
#pragma once
#include <string>
#include <vector>

#include "trainer/run/svg_plot.h"

namespace nestling {

struct Bar {
  std::string name;  // of what it is, for who points at it
  int color = 0;
  double value = 0;  // >= 0
  std::string text;  // written behind it
};

struct BarRow {
  std::string label;
  std::vector<Bar> bars;
};

struct BarChart {
  std::string title, x_label;
  double width = 720;
  double longest_text = 12;  // characters
  std::vector<BarRow> rows;
};
std::string bars_svg(const BarChart& chart);

struct CurveRow {
  std::string label;
  std::vector<double> values;  // over equal steps of the x axis, which is 0 to 100%
  std::string text;            // behind it
};

struct CurveChart {
  std::string title, x_label;
  double width = 348;
  std::vector<CurveRow> rows;  // each from 0 to its own greatest value
  struct Cut {
    double share = 1;  // of the x axis
    int color = 0;
    std::string name;
  };
  std::vector<Cut> cuts;  // vertical lines through all rows
};
std::string curves_svg(const CurveChart& chart);

}  // namespace nestling
