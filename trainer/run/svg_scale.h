// svg_scale.h - from values to places on an axis, and where its ticks stand.
//
// Range         of the finite values, widened to ticks; one value, or none, still makes an axis. A
//               logarithmic axis spans at most kMostDecades: smaller values, zero and below lie on its
//               lower edge.
#pragma once
#include <span>
#include <vector>

namespace nestling {

enum class ScaleKind : unsigned char { kLinear, kLog };

inline constexpr double kMostDecades = 5;

// Multiples of 1, 2 or 5 times a power of ten that cover low..high; about `most` at the most.
std::vector<double> nice_ticks(double low, double high, int most);

class Scale {
 public:
  struct Options {
    ScaleKind kind = ScaleKind::kLinear;
    bool zero = false;   // a linear axis has 0 on it
    bool exact = false;  // the range ends where the values end
    int most_ticks = 6;
  };
  // `from` and `to` are pixels; from > to for an axis that grows upwards.
  Scale(std::span<const double> values, double from, double to, const Options& options);
  double at(double value) const;  // pixel, clamped to the axis; value is not NaN
  double low() const { return low_; }
  double high() const { return high_; }
  const std::vector<double>& ticks() const { return ticks_; }  // within low..high

 private:
  void linear(const Options& options);
  void logarithmic(const Options& options);
  ScaleKind kind_;
  double low_ = 0, high_ = 1;
  double from_, to_;
  std::vector<double> ticks_;
};

}  // namespace nestling
