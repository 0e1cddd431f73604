// asked_size.h - the size for a budget between those that were trained: the router is asked again.
//
// Budget        "65%" of the parent's cost, or "1.8e6" in its units, of the kind of cost that the file's
//               sizes were given in; sizes of several kinds: refused. The full size has every kind.
// Answer        u between the neighbouring sizes (interpolated_input); of the whole-number combinations within
//               the router's dead zone of the budget (of memory and latency: below it) the most probable; none: within
//               kAskedTolerance; none: refused, naming the nearest two.
// Probabilities without the schedules (Router::preferences): combinations rank by probability as they do
//               at every temperature and scale, and at the end of the schedules most underflow to 0.
// Trained       the budget of a size (up to kSameBudget) is that size itself.
// Errors        kInput: a budget outside those of the sizes (naming the range), a file without a
//               router, a text that is neither a size nor a budget.
// Determinism   a function of the file and the text.
#pragma once
#include <limits>

#include "model/elastic_model.h"

namespace nestling {

inline constexpr double kAskedTolerance = 0.05;  // of the budget
// A budget and the same one written as a share went through a product and two quotients each.
inline constexpr double kSameBudget = 6 * std::numeric_limits<double>::epsilon();

// `text` names no size of `sizes`. The result is called `text`.
Size asked_size(const ModelConfig& config, const std::vector<Size>& sizes, const RouterBlob& router,
                const std::string& text, const std::string& where);

}  // namespace nestling
