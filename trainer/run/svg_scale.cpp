#include "trainer/run/svg_scale.h"

#include <algorithm>
#include <cmath>

namespace nestling {

namespace {

// The least of 1, 2, 5 times a power of ten that is not below `rough`.
double nice_step(double rough) {
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double m : {1.0, 2.0, 5.0})
    if (m * power >= rough * (1 - 1e-9)) return m * power;
  return 10 * power;
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int most) {
  const double step = nice_step((high - low) / std::max(1, most - 1));
  const auto first = std::llround(std::floor(low / step + 1e-9));
  const auto last = std::llround(std::ceil(high / step - 1e-9));
  std::vector<double> ticks;
  for (auto k = first; k <= last; ++k) ticks.push_back(static_cast<double>(k) * step);
  return ticks;
}

Scale::Scale(std::span<const double> values, double from, double to, const Options& options)
    : kind_(options.kind), from_(from), to_(to) {
  bool any = false;
  for (const double v : values) {
    // Beyond this, the width of the range or a tick could overflow.
    if (!(std::fabs(v) < 1e300) || (v != 0 && std::fabs(v) < 1e-290)) continue;
    if (kind_ == ScaleKind::kLog && v <= 0) continue;
    low_ = any ? std::min(low_, v) : v;
    high_ = any ? std::max(high_, v) : v;
    any = true;
  }
  if (!any) {
    low_ = kind_ == ScaleKind::kLog ? 0.1 : 0;
    high_ = 1;
  }
  if (kind_ == ScaleKind::kLog)
    logarithmic(options);
  else
    linear(options);
}

void Scale::linear(const Options& options) {
  if (options.zero) {
    low_ = std::min(low_, 0.0);
    high_ = std::max(high_, 0.0);
  }
  // One value stands in the middle of an axis as wide as a tenth of it. Below that share doubles
  // have no room for ticks.
  const double least = 1e-9 * std::max(std::fabs(low_), std::fabs(high_));
  if (high_ - low_ <= least) {
    const double room = low_ == 0 ? 1 : 0.1 * std::fabs(low_);
    if (options.zero || low_ != 0) low_ -= options.zero && low_ >= 0 ? 0 : room;
    high_ += room;
  }
  ticks_ = nice_ticks(low_, high_, options.most_ticks);
  if (!options.exact) {
    low_ = ticks_.front();
    high_ = ticks_.back();
    return;
  }
  const double slack = 1e-9 * (high_ - low_);
  std::erase_if(ticks_, [&](double t) { return t < low_ - slack || t > high_ + slack; });
}

void Scale::logarithmic(const Options& options) {
  low_ = std::max(low_, high_ * std::pow(10.0, -kMostDecades));
  if (high_ / low_ < 1.25) {
    low_ /= 2;
    high_ *= 2;
  }
  const int bottom = static_cast<int>(std::floor(std::log10(low_) + 1e-9));
  const int top = static_cast<int>(std::ceil(std::log10(high_) - 1e-9));
  const bool decades = top - bottom > 2;
  for (int power = bottom; power <= top; ++power)
    for (const double m : {1.0, 2.0, 5.0})
      if (m == 1 || !decades) ticks_.push_back(m * std::pow(10.0, power));
  while (std::ssize(ticks_) > 2 && ticks_[1] <= low_ * (1 + 1e-9)) ticks_.erase(ticks_.begin());
  while (std::ssize(ticks_) > 2 && ticks_[ticks_.size() - 2] >= high_ * (1 - 1e-9))
    ticks_.pop_back();
  low_ = std::min(low_, ticks_.front());
  high_ = std::max(high_, ticks_.back());
  // Too many for the axis: every second, third, ... from the top.
  const auto every = (std::ssize(ticks_) + options.most_ticks) / (options.most_ticks + 1);
  std::vector<double> kept;
  for (auto i = std::ssize(ticks_) - 1; i >= 0; i -= every)
    kept.insert(kept.begin(), ticks_[static_cast<size_t>(i)]);
  ticks_ = kept;
}

double Scale::at(double value) const {
  double share = 0;
  if (kind_ == ScaleKind::kLog)
    share = value <= low_ ? 0 : std::log(value / low_) / std::log(high_ / low_);
  else
    share = (value - low_) / (high_ - low_);
  return from_ + std::clamp(share, 0.0, 1.0) * (to_ - from_);
}

}  // namespace nestling
