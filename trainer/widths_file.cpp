#include "trainer/widths_file.h"

#include <array>

#include "model/choices.h"
#include "trainer/config_fields.h"
#include "trainer/config_visitors.h"

namespace nestling {

template <class V, FieldsOf<WrittenSize> C>
void visit_fields(V& v, C& c) {
  const TextRule width{.width = true};
  v.field("name", c.name, "of the size, for --size", TextRule{.file_name = true, .required = true});
  v.field("hidden", c.hidden, "channels of the residual stream", width);
  v.field("mamba_heads", c.mamba_heads,
          "Mamba-2 heads: the first ones of every group, as many of each", width);
  v.field("mamba_channels", c.mamba_channels,
          "channels of a Mamba-2 head: the first ones of every head", width);
  v.field("state", c.state, "SSM state: the first ones of every group", width);
  v.field("query_heads", c.query_heads,
          "query heads: the first ones of every KV head, as many of each", width);
  v.field("ffn", c.ffn, "channels of dense feed-forward layers", width);
  v.field("experts", c.experts, "routed experts; how many a token goes to stays", width);
  v.field("expert_ffn", c.expert_ffn, "channels of a routed expert: the first ones of every expert",
          width);
  v.field("shared_ffn", c.shared_ffn, "channels of the shared expert", width);
  v.field("layers_left_out", c.layers_left_out, "layers that the size does not have",
          TextsRule{"layers, counted from 0 as in the names of tensors: [3, 7]"});
}

template <class V, FieldsOf<WidthsFile> C>
void visit_fields(V& v, C& c) {
  v.list("sizes", c.sizes,
         "largest first, each a prefix of the one before; the first is the whole model. An axis "
         "that is not named is the whole model's",
         ListRule{.required = true});
}

namespace {

struct WrittenAxis {
  Axis axis;
  std::string WrittenSize::*text;
};
constexpr std::array kWritten = {
    WrittenAxis{Axis::kHidden, &WrittenSize::hidden},
    WrittenAxis{Axis::kMambaHeads, &WrittenSize::mamba_heads},
    WrittenAxis{Axis::kMambaChannels, &WrittenSize::mamba_channels},
    WrittenAxis{Axis::kState, &WrittenSize::state},
    WrittenAxis{Axis::kQueryHeads, &WrittenSize::query_heads},
    WrittenAxis{Axis::kFfn, &WrittenSize::ffn},
    WrittenAxis{Axis::kExperts, &WrittenSize::experts},
    WrittenAxis{Axis::kExpertFfn, &WrittenSize::expert_ffn},
    WrittenAxis{Axis::kSharedFfn, &WrittenSize::shared_ffn},
};

void leave_out(const Texts& layers, Widths& widths, const std::string& where) {
  const int64_t last = std::ssize(widths.layers) - 1;
  for (const std::string& text : layers) {
    const std::optional<int64_t> layer = parse_integer(text);
    NESTLING_CHECK_INPUT(layer && *layer >= 0 && *layer <= last, where, ".layers_left_out: '", text,
                         "' is no layer; needs 0 to ", last);
    int64_t& kept = width_of(widths, *layer, Axis::kLayers);
    NESTLING_CHECK_INPUT(kept != 0, where, ".layers_left_out: layer ", text, " is there twice");
    kept = 0;
  }
}

Widths widths_of(const WrittenSize& size, const ModelConfig& config, const std::string& where) {
  Widths widths = full_widths(config);
  for (const auto& [axis, text] : kWritten) {
    if ((size.*text).empty()) continue;
    const std::string key = str(where, ".", axis_name(axis));
    const int64_t width = resolve_width(config, axis, parse_width(size.*text, key), key);
    if (axis == Axis::kHidden) widths.hidden = width;
    for (int64_t l = 0; l < config.layers() && axis != Axis::kHidden; ++l)
      if (width_of(widths, l, axis) != 0) width_of(widths, l, axis) = width;
  }
  leave_out(size.layers_left_out, widths, where);
  int64_t kept = 0;
  for (const LayerWidths& layer : widths.layers) kept += layer.kept;
  NESTLING_CHECK_INPUT(kept > 0, where, ".layers_left_out: leaves no layer");
  return widths;
}

void check_prefix(const ModelConfig& config, const Size& larger, const Size& size,
                  const std::string& where) {
  const auto check = [&](int64_t layer, Axis axis) {
    const int64_t most = width_of(larger.widths, layer, axis);
    const int64_t width = width_of(size.widths, layer, axis);
    NESTLING_CHECK_INPUT(width <= most, where, ".", axis_name(axis), ": ", width,
                         " is wider than the ", most, " of '", larger.name,
                         "' before it; every size is a prefix of the one before");
  };
  check(0, Axis::kHidden);
  for (int64_t l = 0; l < config.layers(); ++l) {
    NESTLING_CHECK_INPUT(
        width_of(size.widths, l, Axis::kLayers) <= width_of(larger.widths, l, Axis::kLayers), where,
        ".layers_left_out: needs layer ", l, ", which '", larger.name, "' before it leaves out");
    for (const Axis axis : axes_of(config, config.kind(l))) check(l, axis);
  }
}

}  // namespace

WidthsFile read_widths_file(const std::filesystem::path& file) {
  return read_fields<WidthsFile>(read_yaml(file), file.string());
}

std::string widths_file_reference() {
  return R"(# Widths of `nestling import`

One YAML file a model. A key that is not here, or a value that is not allowed, is refused with file and line. `N` stands
for a place in a list, from 0. *needed*: there is no default. Written by `nestling import --help-config` from the list of
fields that it parses; what the sizes of a published model are, and how to find out: [import](import.md).

)" + field_table(list_fields<WidthsFile>());
}

std::vector<Size> sizes_of(const WidthsFile& file, const ModelConfig& config,
                           const std::string& where) {
  const CostFunction cost(config, {});
  const double whole = cost(expected(full_widths(config)));
  std::vector<Size> sizes;
  for (size_t i = 0; i < file.sizes.size(); ++i) {
    const WrittenSize& written = file.sizes[i];
    const std::string key = str(where, ": sizes.", i);
    Size size{.name = written.name, .target = {}, .widths = widths_of(written, config, key)};
    size.budget = cost(expected(size.widths)) / whole;
    for (const Size& other : sizes)
      NESTLING_CHECK_INPUT(other.name != size.name, key, ".name: '", size.name,
                           "' is the name of another size");
    NESTLING_CHECK_INPUT(i > 0 || size.widths == full_widths(config), key, ": '", size.name,
                         "' is narrower than the model; the first size is the whole of it, and "
                         "names no width");
    if (i > 0) {
      check_prefix(config, sizes.back(), size, key);
      NESTLING_CHECK_INPUT(size.budget < sizes.back().budget, key, ": '", size.name,
                           "' touches as many parameters as '", sizes.back().name,
                           "' before it; sizes fall");
    }
    sizes.push_back(std::move(size));
  }
  return sizes;
}

}  // namespace nestling
