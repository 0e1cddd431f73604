#include "model/order.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "kernels/core/parallel.h"
#include "model/widths.h"

namespace nestling {

namespace {

using List = std::vector<int64_t>;

// Units of an axis may change places with those of the same group.
int64_t group_of(const ModelConfig& c, Axis axis, int64_t unit) {
  switch (axis) {
    case Axis::kMambaHeads:
    case Axis::kState:
      return unit % c.groups;
    case Axis::kQueryHeads:
      return unit % c.kv_heads;
    case Axis::kExperts:
      return unit / (c.experts / c.gate.groups);  // the gate deals groups by index
    case Axis::kExpertFfn:
      return unit / c.expert_ffn;
    default:
      return 0;
  }
}

// The places of every group filled with its units, in the order of their keys.
List sorted_within_groups(const std::vector<double>& scores,
                          const std::function<int64_t(int64_t)>& group) {
  const auto n = std::ssize(scores);
  List units(scores.size());
  std::iota(units.begin(), units.end(), 0);
  List places = units;
  const auto by_group = [&](int64_t a, int64_t b) { return group(a) < group(b); };
  std::stable_sort(places.begin(), places.end(), by_group);
  std::stable_sort(units.begin(), units.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  std::stable_sort(units.begin(), units.end(), by_group);
  List order(scores.size());
  for (int64_t i = 0; i < n; ++i)
    order[static_cast<size_t>(places[static_cast<size_t>(i)])] = units[static_cast<size_t>(i)];
  return order;
}

// Expert e of the sorted model takes its channels from the block of experts[e].
void follow_experts(const ModelConfig& c, const List& experts, List& expert_ffn) {
  const List of_parent = expert_ffn;
  for (int64_t e = 0; e < c.experts; ++e)
    std::copy_n(of_parent.begin() + experts[static_cast<size_t>(e)] * c.expert_ffn, c.expert_ffn,
                expert_ffn.begin() + e * c.expert_ffn);
}

List iota(int64_t n) {
  List list(static_cast<size_t>(n));
  std::iota(list.begin(), list.end(), 0);
  return list;
}

List inverted(const List& order) {
  List undo(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    undo[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return undo;
}

std::string place(Axis axis, int64_t layer) {
  return str(axis_name(axis), layer >= 0 ? str(" of layer ", layer) : "");
}

// Calls fn(axis, layer, list) for every list the architecture has; throws where one is missing, too
// many or of another length.
template <class UnitsOfT, class Fn>
void each_list(const ModelConfig& c, UnitsOfT& units, const std::string& where, const Fn& fn) {
  const auto visit = [&](Axis axis, int64_t layer, auto& list) {
    NESTLING_CHECK_INPUT(std::ssize(list) == unit_count(c, axis), where, ": ", place(axis, layer),
                         ": ", list.size(), " units, the architecture has ", unit_count(c, axis));
    fn(axis, layer, list);
  };
  NESTLING_CHECK_INPUT(std::ssize(units.layers) == c.layers(), where, ": units of ",
                       units.layers.size(), " layers for a model of ", c.layers());
  visit(Axis::kHidden, -1, units.hidden);
  visit(Axis::kLayers, -1, units.depth);
  for (int64_t l = 0; l < c.layers(); ++l) {
    auto& layer = units.layers[static_cast<size_t>(l)];
    const std::vector<Axis> axes = axes_of(c, c.kind(l));
    NESTLING_CHECK_INPUT(layer.size() == axes.size(), where, ": layer ", l, ": units of ",
                         layer.size(), " axes, its kind has ", axes.size());
    for (const Axis axis : axes) {
      const auto at = layer.find(axis);
      NESTLING_CHECK_INPUT(at != layer.end(), where, ": ", place(axis, l), ": no units");
      visit(axis, l, at->second);
    }
  }
}

void check_list(const ModelConfig& c, const Order& order, const std::string& where, Axis axis,
                int64_t layer, const List& list) {
  std::vector<bool> seen(list.size());
  for (int64_t i = 0; i < std::ssize(list); ++i) {
    const int64_t unit = list[static_cast<size_t>(i)];
    NESTLING_CHECK_INPUT(unit >= 0 && unit < std::ssize(list) && !seen[static_cast<size_t>(unit)],
                         where, ": ", place(axis, layer), ": unit ", unit, " in place ", i,
                         " makes no permutation");
    seen[static_cast<size_t>(unit)] = true;
    int64_t wanted = group_of(c, axis, i);
    if (axis == Axis::kExpertFfn)
      wanted =
          order.layers[static_cast<size_t>(layer)].at(Axis::kExperts)[static_cast<size_t>(wanted)];
    NESTLING_CHECK_INPUT(group_of(c, axis, unit) == wanted, where, ": ", place(axis, layer),
                         ": unit ", unit, " in place ", i, " is of group ", group_of(c, axis, unit),
                         ", needs ", wanted);
  }
}

// A dimension of a dense tensor on its way into another order.
struct Mapped {
  int64_t extent = 0;
  int64_t stride = 0;
  const List* map = nullptr;  // source of every place; absent: its own
  Axis axis = Axis::kNone;
};

std::vector<Mapped> mapped_dims(const ParameterSpec& spec, const Order& order) {
  std::vector<Mapped> dims;
  for (size_t d = 0; d < spec.dims.size(); ++d) {
    Mapped m{.extent = spec.dims[d].extent, .stride = 1, .axis = spec.dims[d].axis};
    if (m.axis == Axis::kHidden) m.map = &order.hidden;
    if (m.axis != Axis::kHidden && m.axis != Axis::kNone)
      m.map = &order.layers[static_cast<size_t>(spec.layer)].at(m.axis);
    if (m.axis == Axis::kState) m.extent *= spec.dims[++d].extent;  // (state, group) is one list
    dims.push_back(m);
  }
  for (size_t d = dims.size(); d-- > 1;) dims[d - 1].stride = dims[d].stride * dims[d].extent;
  return dims;
}

// Writes dims d onward of one place of the outer dims, read from `from`; returns the end.
// `expert` is the place in dim 0 where that is the experts, whose channels have lists of their own.
float* gather(const std::vector<Mapped>& dims, size_t d, int64_t expert, const float* from,
              float* to) {
  if (d == dims.size()) {
    *to = *from;
    return to + 1;
  }
  const Mapped& m = dims[d];
  const int64_t* map = m.map != nullptr ? m.map->data() : nullptr;
  if (m.axis == Axis::kExpertFfn) map += expert * m.extent;
  for (int64_t i = 0; i < m.extent; ++i) {
    int64_t source = map != nullptr ? map[i] : i;
    if (m.axis == Axis::kExpertFfn) source %= m.extent;
    to = gather(dims, d + 1, expert, from + source * m.stride, to);
  }
  return to;
}

}  // namespace

int64_t unit_count(const ModelConfig& c, Axis axis) {
  int64_t count = width_rule(c, axis).extent;
  if (axis == Axis::kState) count *= c.groups;
  if (axis == Axis::kExpertFfn) count *= c.experts;
  return count;
}

Order identity_order(const ModelConfig& c) {
  Order order{.hidden = iota(c.hidden), .layers = {}, .depth = iota(c.layers())};
  for (int64_t l = 0; l < c.layers(); ++l) {
    auto& layer = order.layers.emplace_back();
    for (const Axis axis : axes_of(c, c.kind(l))) layer[axis] = iota(unit_count(c, axis));
  }
  return order;
}

Order order_from_scores(const ModelConfig& c, const Scores& scores, const std::string& where) {
  Order order = identity_order(c);
  each_list(c, scores, where, [&](Axis axis, int64_t layer, const std::vector<double>& list) {
    for (size_t i = 0; i < list.size(); ++i)
      NESTLING_CHECK(std::isfinite(list[i]), where, ": ", place(axis, layer), ": score ", list[i],
                     " of unit ", i);
    List sorted = sorted_within_groups(list, [&](int64_t i) { return group_of(c, axis, i); });
    if (axis == Axis::kHidden) {
      order.hidden = std::move(sorted);
    } else if (axis == Axis::kLayers) {
      order.depth = std::move(sorted);
    } else {
      order.layers[static_cast<size_t>(layer)][axis] = std::move(sorted);
    }
  });
  for (auto& layer : order.layers)
    if (const auto experts = layer.find(Axis::kExperts); experts != layer.end())
      follow_experts(c, experts->second, layer.at(Axis::kExpertFfn));
  return order;
}

Order inverse(const ModelConfig& c, const Order& order) {
  check_order(c, order);
  Order undo = order;
  undo.hidden = inverted(order.hidden);
  for (auto& layer : undo.layers)
    for (auto& [axis, list] : layer) list = inverted(list);
  return undo;
}

void check_order(const ModelConfig& c, const Order& order, const std::string& where) {
  each_list(c, order, where, [&](Axis axis, int64_t layer, const List& list) {
    check_list(c, order, where, axis, layer, list);
  });
}

void permute(const ParameterSpec& spec, const Order& order, View tensor) {
  const int64_t n = spec.size();
  Tensor from(Device::kCpu, DType::kF32, {n}), to(Device::kCpu, DType::kF32, {n});
  copy(from.view(), tensor.reshape({n}));
  const std::vector<Mapped> dims = mapped_dims(spec, order);
  const Mapped& outer = dims.front();
  parallel_for(outer.extent, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t source = outer.map != nullptr ? (*outer.map)[static_cast<size_t>(i)] : i;
      gather(dims, 1, i, from.ptr<float>() + source * outer.stride,
             to.ptr<float>() + i * outer.stride);
    }
  });
  copy(tensor.reshape({n}), to.view());
}

void apply_order(const ModelConfig& config, const Order& order, Weights& weights) {
  check_order(config, order);
  NESTLING_CHECK(weights.master(0).device() != Device::kNull, "the null device holds no weights");
  for (int64_t i = 0; i < weights.count(); ++i)
    permute(weights.specs()[static_cast<size_t>(i)], order, weights.master(i));
  Context ctx(weights.master(0).device());
  weights.refresh_low(ctx);
  ctx.synchronize();
}

}  // namespace nestling
