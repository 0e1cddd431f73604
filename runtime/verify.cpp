#include "runtime/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "data/gguf_reader.h"
#include "data/hdf5_file.h"
#include "model/elastic_layout.h"
#include "model/model.h"
#include "model/router_record.h"
#include "model/soft_masks.h"
#include "runtime/loaded_model.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

constexpr double kBudgetShare = 0.02;
constexpr int64_t kTokens = 24;

// f32 logits [T, V] of a fixed sequence.
Tensor logits_of(Context& ctx, const ModelConfig& config, const ModelParams<Weight>& w,
                 const ModelMasks* masks = nullptr) {
  Tensor ids(Device::kCpu, DType::kI32, {kTokens});
  for (int64_t t = 0; t < kTokens; ++t)
    ids.ptr<int32_t>()[t] = static_cast<int32_t>((t * t * 31 + 7 * t + 3) % config.vocab);
  const int32_t offsets[] = {0, kTokens};
  Arena arena(Device::kCpu);
  LayerRun run{.ctx = ctx,
               .arena = arena,
               .config = config,
               .segments = Segments(offsets),
               .save = false,
               .masks = masks};
  const ModelActs acts = model_forward(run, w, ids.view());
  Tensor logits(Device::kCpu, DType::kF32, {kTokens, config.vocab});
  model_logits(ctx, w, acts.final_norm.normed, logits.view());
  return logits;
}

double relative_l2(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = a.ptr<float>()[i], y = b.ptr<float>()[i];
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / norm);
}

// Two choices on every axis that the size narrows: the parent's width and its own.
ElasticSpace space_of(const ElasticModel& file, const Widths& widths) {
  const ModelConfig& config = file.config;
  const Widths full = full_widths(config);
  ElasticSpace space{.config = config, .axes = {}, .layer_order = file.order.depth};
  const auto add = [&](Axis axis, int64_t layer, int64_t whole, int64_t part) {
    if (part < whole) space.axes.push_back({.axis = axis, .layer = layer, .widths = {whole, part}});
  };
  add(Axis::kHidden, -1, full.hidden, widths.hidden);
  int64_t kept = 0;
  for (int64_t l = 0; l < config.layers(); ++l) kept += width_of(widths, l, Axis::kLayers);
  add(Axis::kLayers, -1, config.layers(), kept);
  for (int64_t l = 0; l < config.layers(); ++l)
    for (const Axis axis : axes_of(config, config.kind(l)))
      add(axis, l, width_of(full, l, axis), width_of(widths, l, axis));
  return space;
}

// The inner dimensions of all products of a config.
double product_bound(const ModelConfig& c) {
  const int64_t widest = std::max({c.hidden, c.inner(), c.query_heads * c.head_dim, c.ffn,
                                   c.top_k * c.expert_ffn, c.shared_ffn});
  const auto products = static_cast<double>(2 * c.layers() + 1);
  return 2 * products * static_cast<double>(std::numeric_limits<float>::epsilon()) *
         std::sqrt(static_cast<double>(widest));
}

// Activations that differ by rounding may fall to neighbouring codes. A value v that is off by d |v|, less than
// the step s of the codes around it, crosses into the next with probability d |v| / s and is then off by s: the
// mean square of the difference is d |v| s.
//   E4M3    s <= |v|/8: d/8 of v^2.
//   NVFP4   a step is half of v on the mean of a block (2 between 4 and 6, where its largest is): d/2. The scale
//           of the block, E4M3 too, falls to its neighbour with probability 16 d at most, and 16 values are
//           rounded anew, off by 2 s^2/12 on the mean: 16 d / 24. Together 7d/6.
// Flips of one product do not depend on those of another, and their squares add, over two products a layer; d is
// what rounding alone makes of it, since few elements flip.
double logits_bound(const ModelConfig& c, const std::optional<Quantization>& q) {
  const double rounding = product_bound(c);
  if (!q) return rounding;
  const double rate = q->format == WeightFormat::kFp8 ? 1.0 / 8 : 7.0 / 6;
  return rounding + std::sqrt(static_cast<double>(2 * c.layers()) * rate * rounding);
}

bool same_bits(ConstView full, ConstView part) {
  if (!part || !full) return !part && !full;
  if (part.rank() == 1)
    return std::memcmp(full.data(), part.data(), static_cast<size_t>(part.bytes())) == 0;
  for (int64_t i = 0; i < part.dim(0); ++i) {
    const auto row = [&](ConstView v) {
      v = v.slice(0, i, 1);
      return part.rank() == 2 ? v.reshape({v.dim(1)}) : v.reshape({v.dim(1), v.dim(2)});
    };
    if (!same_bits(row(full), row(part))) return false;
  }
  return true;
}

// Values, or codes and all their scales.
bool same_bits(const Weight& full, const Weight& part) {
  return same_bits(full.stored, part.stored) && full.scale == part.scale &&
         full.input_scale == part.input_scale && same_bits(full.block_scales, part.block_scales) &&
         same_bits(full.expert_scales, part.expert_scales);
}

// The name of the first parameter of the size that is no prefix of the whole's; "" if all are.
std::string first_difference(Weights& whole, Weights& part, const Widths& widths) {
  int64_t next = 0;
  for (const SizedParameter& p : sized_parameters(whole.specs(), widths)) {
    Weight full = whole.weight(p.index);
    for (size_t d = 0; d < p.extents.size(); ++d)
      full = full.prefix(static_cast<int>(d), p.extents[d]);
    if (!same_bits(full, part.weight(next++)))
      return whole.specs()[static_cast<size_t>(p.index)].name;
  }
  return "";
}

class ElasticVerifier {
 public:
  ElasticVerifier(Context& ctx, fs::path path) : ctx_(ctx), path_(std::move(path)) {}

  std::vector<Check> run() {
    if (!check("checksums", [&] { return contents(); })) return checks_;
    ElasticHeader header = read_elastic_header(path_);
    header_ = std::move(header.model);
    bound_ = logits_bound(header_.config, header.quantization);
    whole_.emplace(path_, DType::kF32);
    check("nested", [&] { return nested(); });
    check("slice", [&] { return sliced(); });
    check("mask", [&] { return masked(); });
    check("budgets", [&] { return budgets(); });
    return checks_;
  }

 private:
  // What fails throws; what holds says what it saw.
  bool check(const std::string& name, const std::function<std::string()>& what) {
    try {
      checks_.push_back({name, true, what()});
    } catch (const Error& e) {
      checks_.push_back({name, false, e.what()});
    }
    return checks_.back().ok;
  }
  std::string contents() {
    const ElasticContents c = check_elastic_contents(path_);
    return str(c.datasets, " datasets, ", c.bytes, " bytes, ", c.weight_bytes, " of weights");
  }
  std::string nested() {
    for (const Size& s : header_.sizes) {
      LoadedSize alone = load_elastic(path_, s.name, DType::kF32);
      const std::string different = first_difference(whole_->weights(), alone.weights, s.widths);
      NESTLING_CHECK_INPUT(different.empty(), "size ", s.name, ": ", different,
                           " is no prefix of the whole file's");
    }
    return str(header_.sizes.size(), " sizes, each bit for bit a prefix of the whole");
  }
  std::string sliced() {
    double most = 0;
    for (const Size& s : header_.sizes) {
      LoadedSize alone = load_elastic(path_, s.name, DType::kF32);
      whole_->select(s.name);
      const Tensor view = logits_of(ctx_, whole_->config(), whole_->params());
      const Tensor cut = logits_of(ctx_, alone.config, alone.weights.params());
      const double off = relative_l2(view, cut);
      NESTLING_CHECK_INPUT(off <= bound_, "size ", s.name, ": logits of the view are ", off,
                           " (relative L2) from those of the size cut out, needs ", bound_);
      most = std::max(most, off);
    }
    return str("views against sizes cut out: relative L2 at most ", most, ", bound ", bound_);
  }
  std::string masked() {
    double most = 0;
    for (const Size& s : header_.sizes) {
      whole_->select(s.name);
      const Tensor view = logits_of(ctx_, whole_->config(), whole_->params());
      const ElasticSpace space = space_of(header_, s.widths);
      SoftMasks masks(space, Device::kCpu);
      masks.set(ctx_, one_hot(space, Selection(space.axes.size(), 1)));
      const Tensor under =
          logits_of(ctx_, whole_->config(), whole_->weights().params(), &masks.masks());
      const double off = relative_l2(view, under);
      NESTLING_CHECK_INPUT(off <= bound_, "size ", s.name, ": logits of the view are ", off,
                           " (relative L2) from those of the whole under its masks, needs ",
                           bound_);
      most = std::max(most, off);
    }
    return str("views against the whole under masks: relative L2 at most ", most, ", bound ",
               bound_);
  }
  // What training may miss a budget by: the router that the file keeps was trained with its own.
  double allowed_miss() const {
    if (header_.router.json.empty()) return kBudgetShare;
    const RecordedRouter recorded =
        recorded_router(header_.config, std::ssize(header_.sizes), header_.router, path_.string());
    return std::max(kBudgetShare, recorded.router.options().dead_zone);
  }
  std::string budgets() {
    std::string text;
    const double allowed = allowed_miss();
    for (const Size& s : header_.sizes) {
      const CostFunction cost(header_.config, s.target);
      const double share = cost(expected(s.widths)) / cost(expected(full_widths(header_.config)));
      NESTLING_CHECK_INPUT(std::abs(share / s.budget - 1) <= allowed, "size ", s.name, " costs ",
                           100 * share, "% of the parent's ", target_text(s.target),
                           ", its budget is ", 100 * s.budget, "%, needs within ", 100 * allowed,
                           "% of it");
      text +=
          str(text.empty() ? "" : "; ", s.name, ": ", 100 * share, "% of ", 100 * s.budget, "%");
    }
    return text;
  }

  Context& ctx_;
  fs::path path_;
  ElasticModel header_;
  double bound_ = 0;  // of logits
  std::optional<LoadedModel> whole_;
  std::vector<Check> checks_;
};

}  // namespace

std::vector<Check> verify_model(Context& ctx, const fs::path& path) {
  NESTLING_CHECK_INPUT(fs::exists(path), path.string(), ": not found");
  const bool one_size = fs::is_directory(path) || is_gguf(path);
  NESTLING_CHECK_INPUT(one_size || is_hdf5(path), path.string(),
                       ": not an HDF5 file; needs an elastic .h5, a Hugging Face directory or a "
                       ".gguf");
  if (!one_size) return ElasticVerifier(ctx, path).run();
  try {
    LoadedModel model(path, DType::kF32);
    return {{"tensors", true, str(model.cost().total, " parameters, all finite")}};
  } catch (const Error& e) {
    return {{"tensors", false, e.what()}};
  }
}

}  // namespace nestling
