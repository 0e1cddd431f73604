#include "model/choices.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "model/published_names.h"

namespace nestling {

namespace {

bool is_contracted(Axis axis) {
  switch (axis) {
    case Axis::kHidden:
    case Axis::kMambaChannels:
    case Axis::kState:
    case Axis::kFfn:
    case Axis::kExpertFfn:
    case Axis::kSharedFfn:
      return true;
    default:
      return false;
  }
}

WidthRule rule_of(const ModelConfig& config, Axis axis, int64_t multiple_of) {
  WidthRule rule = width_rule(config, axis);
  if (is_contracted(axis) && rule.extent % kBlock == 0)
    rule.step = rule.least = std::min(multiple_of, rule.extent);
  return rule;
}

// The layers an entry speaks of; -1 stands for what no layer owns.
template <class Fn>
void for_layers(const ElasticSpace& space, const AxisChoices& choices, Fn fn) {
  if (choices.axis == Axis::kHidden) return fn(-1);
  for (int64_t l = 0; l < space.config.layers(); ++l) {
    if (choices.layer >= 0 && choices.layer != l) continue;
    const std::vector<Axis> axes = axes_of(space.config, space.config.kind(l));
    if (std::find(axes.begin(), axes.end(), choices.axis) != axes.end()) fn(l);
  }
}

int64_t resolve(const WrittenWidth& written, const WidthRule& rule, const std::string& where) {
  const double width =
      written.percent ? written.value / 100.0 * static_cast<double>(rule.extent) : written.value;
  const int64_t nearest = rule.nearest(width);
  const bool good = static_cast<double>(nearest) == width && nearest >= rule.least &&
                    (nearest == rule.extent || (nearest - rule.least) % rule.step == 0);
  NESTLING_CHECK_INPUT(
      good, where, ": a width of ", width, " does not fit: it must be ", rule.least, " to ",
      rule.extent, " in steps of ", rule.step, "; the nearest good one is ", nearest, " (",
      100.0 * static_cast<double>(nearest) / static_cast<double>(rule.extent), "%)");
  return nearest;
}

AxisChoices resolve(const ModelConfig& config, const WrittenChoices& written, int64_t multiple_of) {
  const std::string where = str("choices: ", axis_name(written.axis),
                                written.layer >= 0 ? str(" of layer ", written.layer) : "");
  const WidthRule rule = rule_of(config, written.axis, multiple_of);
  NESTLING_CHECK_INPUT(rule.extent > 0, where, ": the parent has no such axis");
  if (is_contracted(written.axis) && written.widths.size() > 1 && multiple_of > kBlock)
    NESTLING_CHECK_INPUT(rule.extent % kBlock == 0 && rule.extent >= multiple_of, where,
                         ": multiple_of ", multiple_of, " cannot hold in the parent's width of ",
                         rule.extent, "; it must be a multiple of ", kBlock, " and no less");
  AxisChoices choices{.axis = written.axis, .layer = written.layer, .widths = {}};
  for (const WrittenWidth& w : written.widths) choices.widths.push_back(resolve(w, rule, where));
  NESTLING_CHECK_INPUT(!choices.widths.empty() && choices.widths[0] == rule.extent, where,
                       ": the first choice must be the parent's width, ", rule.extent, " or 100%");
  for (size_t i = 1; i < choices.widths.size(); ++i)
    NESTLING_CHECK_INPUT(choices.widths[i] < choices.widths[i - 1], where, ": widths must fall; ",
                         choices.widths[i], " follows ", choices.widths[i - 1]);
  return choices;
}

}  // namespace

std::optional<WrittenWidth> read_width(const std::string& text) {
  WrittenWidth w;
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, w.value);
  w.percent = rest + 1 == end && *rest == '%';
  const bool good =
      status == std::errc() && (rest == end || w.percent) && w.value > 0 && std::isfinite(w.value);
  return good ? std::optional(w) : std::nullopt;
}

WrittenWidth parse_width(const std::string& text, const std::string& where) {
  const std::optional<WrittenWidth> w = read_width(text);
  NESTLING_CHECK_INPUT(w, where, ": '", text, "' is no width; write 48 or 75%");
  return *w;
}

int64_t resolve_width(const ModelConfig& config, Axis axis, const WrittenWidth& written,
                      const std::string& where) {
  bool there = axis == Axis::kHidden;
  for (int64_t l = 0; l < config.layers() && !there; ++l) {
    const std::vector<Axis> axes = axes_of(config, config.kind(l));
    there = std::find(axes.begin(), axes.end(), axis) != axes.end();
  }
  NESTLING_CHECK_INPUT(there, where, ": the parent has no such axis");
  return resolve(written, rule_of(config, axis, kBlock), where);
}

ElasticSpace make_space(const ModelConfig& config, const std::vector<WrittenChoices>& written,
                        int64_t multiple_of, const std::vector<int64_t>& layer_order) {
  NESTLING_CHECK_INPUT(multiple_of >= kBlock && multiple_of % kBlock == 0, "multiple_of ",
                       multiple_of, " must be a multiple of ", kBlock);
  ElasticSpace space{.config = config, .axes = {}, .layer_order = layer_order};
  for (const WrittenChoices& w : written) {
    const std::string where = str("choices: ", axis_name(w.axis));
    for (const AxisChoices& other : space.axes)
      NESTLING_CHECK_INPUT(
          other.axis != w.axis || (other.layer >= 0 && w.layer >= 0 && other.layer != w.layer),
          where, ": given twice");
    NESTLING_CHECK_INPUT(w.layer < config.layers() && (w.axis != Axis::kHidden || w.layer < 0),
                         where, ": no layer ", w.layer, " has it");
    AxisChoices choices = resolve(config, w, multiple_of);
    if (choices.widths.size() > 1) space.axes.push_back(std::move(choices));
  }
  for (const AxisChoices& c : space.axes)
    NESTLING_CHECK_INPUT(c.axis != Axis::kLayers || std::ssize(layer_order) == config.layers(),
                         "choices: layers needs the importance of every layer");
  return space;
}

Widths widths_of(const ElasticSpace& space, const Selection& selection) {
  NESTLING_CHECK(selection.size() == space.axes.size(), "a selection of ", selection.size(),
                 " axes in a space of ", space.axes.size());
  Widths widths = full_widths(space.config);
  for (size_t a = 0; a < space.axes.size(); ++a) {
    const AxisChoices& c = space.axes[a];
    const int64_t width = c.widths.at(static_cast<size_t>(selection[a]));
    if (c.axis == Axis::kLayers)
      for (size_t rank = 0; rank < space.layer_order.size(); ++rank)
        width_of(widths, space.layer_order[rank], Axis::kLayers) = std::cmp_less(rank, width);
    else
      for_layers(space, c, [&](int64_t l) { width_of(widths, l, c.axis) = width; });
  }
  return widths;
}

namespace {

// The number of a config that a width of the whole model is; null: none that its published form depends on.
int64_t* published_width(ModelConfig& config, const AxisChoices& axis) {
  if (axis.layer >= 0) return nullptr;
  switch (axis.axis) {
    case Axis::kHidden:
      return &config.hidden;
    case Axis::kQueryHeads:
      return &config.query_heads;
    case Axis::kMambaHeads:
      return &config.mamba_heads;
    case Axis::kMambaChannels:
      return &config.mamba_head_dim;
    default:
      return nullptr;
  }
}

// Of every combination of the axes from `axis` on.
void check_published_widths(const ElasticSpace& space, size_t axis, ModelConfig config) {
  if (axis == space.axes.size())
    return check_published_form(config, "of the widths of elastic.choices");
  const AxisChoices& c = space.axes[axis];
  int64_t* width = published_width(config, c);
  if (width == nullptr) return check_published_widths(space, axis + 1, config);
  for (const int64_t w : c.widths) {
    *width = w;
    check_published_widths(space, axis + 1, config);
  }
}

}  // namespace

std::string unpublished_widths(const ElasticSpace& space) {
  try {
    check_published_widths(space, 0, space.config);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

ExpectedWidths expected_widths(const ElasticSpace& space, const Probabilities& p) {
  ExpectedWidths widths = expected(full_widths(space.config));
  for (size_t a = 0; a < space.axes.size(); ++a) {
    const AxisChoices& c = space.axes[a];
    if (c.axis == Axis::kLayers) {
      for (size_t rank = 0; rank < space.layer_order.size(); ++rank) {
        double kept = 0;
        for (size_t i = 0; i < c.widths.size(); ++i)
          if (std::cmp_less(rank, c.widths[i])) kept += p[a][i];
        width_of(widths, space.layer_order[rank], Axis::kLayers) = kept;
      }
      continue;
    }
    double mean = 0;
    for (size_t i = 0; i < c.widths.size(); ++i) mean += p[a][i] * static_cast<double>(c.widths[i]);
    for_layers(space, c, [&](int64_t l) { width_of(widths, l, c.axis) = mean; });
  }
  return widths;
}

void expected_widths_backward(const ElasticSpace& space, const ExpectedWidths& gradient,
                              Probabilities& dp) {
  for (size_t a = 0; a < space.axes.size(); ++a) {
    const AxisChoices& c = space.axes[a];
    for (size_t i = 0; i < c.widths.size(); ++i) {
      if (c.axis == Axis::kLayers) {
        for (size_t rank = 0; rank < space.layer_order.size(); ++rank)
          if (std::cmp_less(rank, c.widths[i]))
            dp[a][i] += width_of(gradient, space.layer_order[rank], Axis::kLayers);
      } else {
        for_layers(space, c, [&](int64_t l) {
          dp[a][i] += width_of(gradient, l, c.axis) * static_cast<double>(c.widths[i]);
        });
      }
    }
  }
}

Probabilities one_hot(const ElasticSpace& space, const Selection& selection) {
  Probabilities p;
  for (size_t a = 0; a < space.axes.size(); ++a) {
    p.emplace_back(space.axes[a].widths.size(), 0.0);
    p[a].at(static_cast<size_t>(selection[a])) = 1.0;
  }
  return p;
}

}  // namespace nestling
