#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nestling {

double learning_rate(const OptimizerConfig& c, int64_t tokens_seen, int64_t tokens_total) {
  const auto seen = static_cast<double>(tokens_seen);
  const auto warmup = static_cast<double>(c.warmup_tokens);
  if (seen < warmup) return c.lr * seen / warmup;
  const double span = std::max(1.0, static_cast<double>(tokens_total) - warmup);
  const double progress = std::min(1.0, (seen - warmup) / span);
  const double low = c.lr * c.min_lr_ratio;
  if (c.schedule == "constant") return c.lr;
  if (c.schedule == "linear") return c.lr + (low - c.lr) * progress;
  if (c.schedule == "cosine")
    return low + (c.lr - low) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  if (c.schedule == "wsd") {
    const double into = std::max(0.0, (progress - (1.0 - c.decay_share)) / c.decay_share);
    return c.lr + (low - c.lr) * into;
  }
  throw Error(str("optimizer.schedule: '", c.schedule, "', needs cosine, linear, constant or wsd"),
              ErrorKind::kInput);
}

}  // namespace nestling
