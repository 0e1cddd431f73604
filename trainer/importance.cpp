#include "trainer/importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/core/host_view.h"
#include "kernels/ops/state_score.h"
#include "kernels/ops/sum.h"
#include "kernels/ops/unit_sums.h"

namespace nestling {

namespace {

// Rows of x [n, m]: the L2 norm of each over the columns listed.
std::vector<double> row_norms(const std::vector<double>& x, const std::vector<size_t>& columns,
                              size_t m) {
  std::vector<double> norms(x.size() / m);
  for (size_t r = 0; r < norms.size(); ++r) {
    double sum = 0;
    for (const size_t c : columns) sum += x[r * m + c] * x[r * m + c];
    norms[r] = std::sqrt(sum);
  }
  return norms;
}

const NormActs& norm_of(const LayerActs& acts) {
  return std::visit([](const auto& a) -> const NormActs& { return a.norm; }, acts);
}

std::vector<size_t> first_indices(size_t n) {
  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

Importance::Importance(Context& ctx, const ModelConfig& config) : ctx_(ctx), config_(config) {
  const ModelConfig& c = config_;
  make(-1, Sum::kHidden, c.hidden);
  for (int64_t l = 0; l < c.layers(); ++l) {
    make(l, Sum::kChange, 1);
    switch (c.kind(l)) {
      case LayerKind::kMamba:
        make(l, Sum::kMamba, c.inner());
        make(l, Sum::kState, c.state * c.groups);
        break;
      case LayerKind::kAttention:
        make(l, Sum::kQuery, c.query_heads * c.head_dim);
        break;
      case LayerKind::kDense:
        make(l, Sum::kFfn, c.ffn);
        break;
      case LayerKind::kMoe:
        make(l, Sum::kExperts, c.experts);
        make(l, Sum::kRouted, c.experts);
        make(l, Sum::kExpertFfn, c.experts * c.expert_ffn);
        make(l, Sum::kSharedFfn, c.shared_ffn);
        break;
    }
  }
  sums_ = Tensor(ctx.device(), DType::kF64, {size_});
}

void Importance::make(int64_t layer, Sum sum, int64_t size) {
  blocks_[{layer, sum}] = {.begin = size_, .size = size};
  size_ += size;
}

View Importance::at(int64_t layer, Sum sum) {
  const Block& b = blocks_.at({layer, sum});
  return sums_.view().slice(0, b.begin, b.size);
}

std::vector<double> Importance::values(int64_t layer, Sum sum) const {
  const Block& b = blocks_.at({layer, sum});
  const Tensor host = on_host(sums_.view().slice(0, b.begin, b.size));
  return {host.ptr<double>(), host.ptr<double>() + host.size()};
}

std::vector<double> Importance::mean(int64_t layer, Sum sum) const {
  std::vector<double> all = values(layer, sum);
  const double count = std::max<double>(1, static_cast<double>(tokens_));
  for (double& v : all) v /= count;
  return all;
}

void Importance::add(const ModelActs& acts, const ModelParams<Weight>& w,
                     const Segments& segments) {
  NESTLING_CHECK(std::ssize(acts.layers) == config_.layers(), "importance: activations of ",
                 acts.layers.size(), " layers, the model has ", config_.layers(),
                 ": the forward must save them");
  for (size_t l = 0; l < acts.layers.size(); ++l) {
    const bool last = l + 1 == acts.layers.size();
    add_layer(l, acts.layers[l], last ? acts.final_norm.input : norm_of(acts.layers[l + 1]).input,
              w, segments);
  }
  add_end(acts.final_norm, segments);
}

void Importance::add_layer(size_t l, const LayerActs& acts, ConstView output,
                           const ModelParams<Weight>& w, const Segments& segments) {
  const auto layer = static_cast<int64_t>(l);
  NESTLING_CHECK(norm_of(acts).normed, "importance: layer ", l, " was left out");
  add_magnitudes(-1, Sum::kHidden, norm_of(acts).normed);
  add_cosine_distances(ctx_,
                       {.sum = at(layer, Sum::kChange), .a = norm_of(acts).input, .b = output});
  if (const auto* m = std::get_if<MambaActs>(&acts))
    add_mamba(layer, *m, std::get<MambaParams<Weight>>(w.layers[l]), segments);
  else if (const auto* a = std::get_if<AttentionActs>(&acts))
    add_magnitudes(layer, Sum::kQuery, merge_cols(ConstView(a->y)));
  else if (const auto* f = std::get_if<FfnActs>(&acts))
    add_magnitudes(layer, Sum::kFfn, f->act);
  else
    add_moe(layer, std::get<MoeActs>(acts));
  ++layers_added_;
}

void Importance::add_end(const NormActs& final_norm, const Segments& segments) {
  NESTLING_CHECK(layers_added_ == config_.layers(), "importance: a forward of ", layers_added_,
                 " layers, the model has ", config_.layers());
  layers_added_ = 0;
  add_magnitudes(-1, Sum::kHidden, final_norm.normed);
  tokens_ += segments.tokens();
}

void Importance::add_magnitudes(int64_t layer, Sum sum, ConstView x) {
  const View sums = at(layer, sum);
  NESTLING_CHECK(sums.size() == x.dim(1), "importance: ", sums.size(), " units, the activation is ",
                 x.describe(), ": scores are taken from the whole parent");
  nestling::add_magnitudes(ctx_, {.sums = sums, .x = x});
}

void Importance::add_mamba(int64_t layer, const MambaActs& a, const MambaParams<Weight>& w,
                           const Segments& segments) {
  add_magnitudes(layer, Sum::kMamba, a.x_raw);
  add_state_score(ctx_, {.score = at(layer, Sum::kState).reshape({config_.state, config_.groups}),
                         .x = a.x,
                         .dt_raw = a.dt,
                         .B = a.B,
                         .C = a.C,
                         .A_log = w.A_log,
                         .dt_bias = w.dt_bias,
                         .segments = segments});
}

void Importance::add_moe(int64_t layer, const MoeActs& a) {
  if (a.shared.act) add_magnitudes(layer, Sum::kSharedFfn, a.shared.act);
  const int64_t experts = config_.experts, width = config_.expert_ffn;
  NESTLING_CHECK(a.act.dim(1) == width && a.offsets.dim(0) == experts + 1,
                 "importance: experts of layer ", layer, " are not those of the whole parent");
  count_rows(ctx_, {.counts = at(layer, Sum::kRouted), .offsets = a.offsets});
  nestling::add_magnitudes(ctx_, {.sums = at(layer, Sum::kExpertFfn).reshape({experts, width}),
                                  .x = a.act,
                                  .offsets = a.offsets});
  add_expert_norms(ctx_, {.sums = at(layer, Sum::kExperts),
                          .rows = a.down,
                          .weight = a.weight,
                          .order = a.order,
                          .offsets = a.offsets});
}

void Importance::all_reduce(Comm& comm) {
  comm.all_reduce(ctx_, sums_.view(), Reduce::kSum);
  ctx_.synchronize();  // where faults and deadlines show
  std::vector<int64_t> tokens = {tokens_};
  comm.all_reduce(ctx_, host_view(ctx_, tokens), Reduce::kSum);
  tokens_ = tokens[0];
}

std::map<Axis, std::vector<double>> Importance::mamba_scores(int64_t layer,
                                                             int64_t head_channels) const {
  const auto heads = static_cast<size_t>(config_.mamba_heads);
  const auto width = static_cast<size_t>(config_.mamba_head_dim);
  const std::vector<double> s = mean(layer, Sum::kMamba);  // [H, P]
  std::vector<double> transposed(s.size());
  for (size_t h = 0; h < heads; ++h)
    for (size_t p = 0; p < width; ++p) transposed[p * heads + h] = s[h * width + p];
  std::vector<double> channels = row_norms(transposed, first_indices(heads), heads);
  std::vector<size_t> best = first_indices(width);
  std::stable_sort(best.begin(), best.end(),
                   [&](size_t a, size_t b) { return channels[a] > channels[b]; });
  if (head_channels > 0) best.resize(static_cast<size_t>(head_channels));
  return {{Axis::kMambaHeads, row_norms(s, best, width)},
          {Axis::kMambaChannels, std::move(channels)},
          {Axis::kState, mean(layer, Sum::kState)}};
}

std::map<Axis, std::vector<double>> Importance::moe_scores(int64_t layer) const {
  std::vector<double> experts = mean(layer, Sum::kExperts);
  std::vector<double> channels = mean(layer, Sum::kExpertFfn);
  const std::vector<double> count = routed(layer);
  const size_t width = channels.size() / experts.size();
  for (size_t e = 0; e < experts.size(); ++e) {  // means over the expert's tokens, not all
    const double scale = count[e] > 0 ? static_cast<double>(tokens_) / count[e] : 0.0;
    experts[e] *= scale;
    for (size_t f = 0; f < width; ++f) channels[e * width + f] *= scale;
  }
  std::map<Axis, std::vector<double>> scores = {{Axis::kExperts, std::move(experts)},
                                                {Axis::kExpertFfn, std::move(channels)}};
  if (config_.shared_ffn > 0) scores[Axis::kSharedFfn] = mean(layer, Sum::kSharedFfn);
  return scores;
}

Scores Importance::scores(int64_t head_channels) const {
  NESTLING_CHECK(tokens_ > 0, "importance: no token was added");
  NESTLING_CHECK(head_channels >= 0 && head_channels <= config_.mamba_head_dim,
                 "importance: ", head_channels, " head channels of ", config_.mamba_head_dim);
  Scores s{.hidden = mean(-1, Sum::kHidden), .layers = {}, .depth = {}};
  for (int64_t l = 0; l < config_.layers(); ++l) {
    s.depth.push_back(mean(l, Sum::kChange)[0]);
    auto& layer = s.layers.emplace_back();
    switch (config_.kind(l)) {
      case LayerKind::kMamba:
        layer = mamba_scores(l, head_channels);
        break;
      case LayerKind::kAttention: {
        const auto width = static_cast<size_t>(config_.head_dim);
        layer[Axis::kQueryHeads] = row_norms(mean(l, Sum::kQuery), first_indices(width), width);
        break;
      }
      case LayerKind::kDense:
        layer[Axis::kFfn] = mean(l, Sum::kFfn);
        break;
      case LayerKind::kMoe:
        layer = moe_scores(l);
        break;
    }
  }
  return s;
}

}  // namespace nestling
