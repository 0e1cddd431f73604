// widths.h - how wide one size is, and the parameters of a size as prefix views of the parent's.
//
// Widths        an extent an axis, of the whole model (hidden) or of each layer (the rest). A layer holds
//               the extents of the axes its kind has; the others are zero. A layer that is not kept
//               passes the residual stream through.
// Prefix        unit e of an axis is alive in a size of width w when e < w: memory is slot-major, so the
//               first heads of every group are a prefix too.
// Steps         a width is good when it is a multiple of its axis' step: Mamba heads of the number of B/C
//               groups, query heads of the KV heads, experts of the gate's groups and at least top_k;
//               everything a product contracts a multiple of kBlock where the parent's is.
// Errors        check_widths throws kInput naming layer, axis, width and the nearest good width.
#pragma once
#include <string>
#include <vector>

#include "model/config.h"
#include "model/parameters.h"

namespace nestling {

// Axes whose units products contract are cut in blocks of this many: NVFP4's block, a cache line of
// f32.
inline constexpr int64_t kBlock = 16;

template <class T>  // int64_t, or double for expectations and gradients
struct BasicLayerWidths {
  T mamba_heads = 0, mamba_channels = 0, state = 0;
  T query_heads = 0;
  T ffn = 0;
  T experts = 0, expert_ffn = 0, shared_ffn = 0;
  T kept = 1;  // 1 or 0; in an expectation the probability
  bool operator==(const BasicLayerWidths&) const = default;
};

template <class T>
struct BasicWidths {
  T hidden = 0;
  std::vector<BasicLayerWidths<T>> layers;
  bool operator==(const BasicWidths&) const = default;
};
using LayerWidths = BasicLayerWidths<int64_t>;
using Widths = BasicWidths<int64_t>;
using ExpectedWidths = BasicWidths<double>;

Widths full_widths(const ModelConfig& config);
ExpectedWidths expected(const Widths& widths);  // the same numbers

// The extent of `axis` in layer `layer`; kHidden asks no layer, kLayers is `kept`, kNone throws.
template <class T>
T& width_of(BasicWidths<T>& widths, int64_t layer, Axis axis);
template <class T>
T width_of(const BasicWidths<T>& widths, int64_t layer, Axis axis) {
  return width_of(const_cast<BasicWidths<T>&>(widths), layer, axis);
}

// The axes that exist in layers of this kind, kHidden and kLayers left out.
std::vector<Axis> axes_of(const ModelConfig& config, LayerKind kind);
const char* axis_name(Axis axis);          // as written in configs: hidden, mamba_heads, ...
Axis parse_axis(const std::string& name);  // throws kInput with the nearest name

// What widths of an axis must be a multiple of, and the least they may be.
struct WidthRule {
  int64_t extent;  // of the parent
  int64_t step;
  int64_t least;
  // The good width nearest to `width`; the smaller of two equally near.
  int64_t nearest(double width) const;
};
WidthRule width_rule(const ModelConfig& config, Axis axis);
void check_widths(const ModelConfig& config, const Widths& widths, const std::string& where);

// The parent's parameters (or their gradients) cut to their prefixes; a layer that is not kept keeps
// its place with absent views. V is View or ConstView.
template <class V>
ModelParams<V> prefix_parameters(const ModelConfig& config, const Widths& widths,
                                 const ModelParams<V>& parent);

// A size in which every layer is alike, as the config of a model that stands alone: kept layers only.
// Throws where layers of one kind differ, since a published config has one number for all.
ModelConfig cut_config(const ModelConfig& config, const Widths& widths);

}  // namespace nestling
