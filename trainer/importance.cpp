#include "trainer/importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/core/host_view.h"
#include "kernels/core/parallel.h"
#include "trainer/state_score.h"

namespace nestling {

namespace {

// A view's elements on the CPU: the view itself, or a copy of one that lives elsewhere.
class OnHost {
 public:
  explicit OnHost(ConstView v) : view_(v) {
    if (v.device() == Device::kCpu) return;
    copy_ = Tensor(Device::kCpu, v.dtype(), {v.size()});
    Extents shape{};
    for (int d = 0; d < v.rank(); ++d) shape[static_cast<size_t>(d)] = v.dim(d);
    const View whole(copy_.view().data(), v.dtype(), Device::kCpu, shape, v.rank());
    copy(whole, v);
    view_ = whole;
  }
  operator ConstView() const { return view_; }  // NOLINT(google-explicit-constructor)
  const ConstView* operator->() const { return &view_; }

 private:
  Tensor copy_;
  ConstView view_;
};

// sums[c] += sum over rows [begin, end) of |x[row, c]|; a column is summed by one thread, in order.
void add_columns(std::span<double> sums, ConstView x, int64_t begin, int64_t end) {
  constexpr int64_t kColumns = 64;
  const float* data = x.ptr<float>();
  const int64_t pitch = x.stride(0);
  parallel_for(x.dim(1), kColumns, [&](int64_t first, int64_t last) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = first; c < last; ++c)
        sums[static_cast<size_t>(c)] += std::abs(double{data[r * pitch + c]});
  });
}

void add_columns(std::span<double> sums, ConstView x) {
  NESTLING_CHECK(std::ssize(sums) == x.dim(1), "importance: ", sums.size(),
                 " units, the activation is ", x.describe(),
                 ": scores are taken from the whole parent");
  const OnHost host(x);
  add_columns(sums, host, 0, x.dim(0));
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// The sum of f(row) over rows: rows are dealt to threads, their values added in order.
template <class F>
double sum_rows(int64_t rows, const F& f) {
  std::vector<double> values(static_cast<size_t>(rows));
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) values[static_cast<size_t>(r)] = f(r);
  });
  return std::accumulate(values.begin(), values.end(), 0.0);
}

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

std::vector<size_t> first_indices(size_t n) {
  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

Importance::Importance(const ModelConfig& config) : config_(config) {
  const ModelConfig& c = config_;
  make(-1, Sum::kTokens, 1);
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
}

void Importance::make(int64_t layer, Sum sum, int64_t size) {
  blocks_[{layer, sum}] = {.begin = sums_.size(), .size = static_cast<size_t>(size)};
  sums_.resize(sums_.size() + static_cast<size_t>(size));
}

std::span<double> Importance::at(int64_t layer, Sum sum) {
  const Block& b = blocks_.at({layer, sum});
  return std::span(sums_).subspan(b.begin, b.size);
}

std::vector<double> Importance::mean(int64_t layer, Sum sum) const {
  const Block& b = blocks_.at({layer, sum});
  const auto begin = sums_.begin() + static_cast<std::ptrdiff_t>(b.begin);
  std::vector<double> values(begin, begin + static_cast<std::ptrdiff_t>(b.size));
  const double count = std::max<double>(1, static_cast<double>(tokens()));
  for (double& v : values) v /= count;
  return values;
}

int64_t Importance::tokens() const {
  return static_cast<int64_t>(sums_[blocks_.at({-1, Sum::kTokens}).begin]);
}

std::vector<double> Importance::routed(int64_t layer) const {
  const Block& b = blocks_.at({layer, Sum::kRouted});
  return {sums_.begin() + static_cast<std::ptrdiff_t>(b.begin),
          sums_.begin() + static_cast<std::ptrdiff_t>(b.begin + b.size)};
}

void Importance::add(const ModelActs& acts, const ModelParams<ConstView>& w,
                     const Segments& segments) {
  NESTLING_CHECK(std::ssize(acts.layers) == config_.layers(), "importance: activations of ",
                 acts.layers.size(), " layers, the model has ", config_.layers(),
                 ": the forward must save them");
  const auto norm_of = [&](size_t l) -> const NormActs& {
    if (l == acts.layers.size()) return acts.final_norm;
    return std::visit([](const auto& a) -> const NormActs& { return a.norm; }, acts.layers[l]);
  };
  for (size_t l = 0; l < acts.layers.size(); ++l) {
    const auto layer = static_cast<int64_t>(l);
    NESTLING_CHECK(norm_of(l).normed, "importance: layer ", l, " was left out");
    add_norm(norm_of(l));
    add_change(layer, norm_of(l).input, norm_of(l + 1).input);
    if (const auto* m = std::get_if<MambaActs>(&acts.layers[l])) {
      add_layer(layer, *m, std::get<MambaParams<ConstView>>(w.layers[l]), segments);
    } else if (const auto* a = std::get_if<AttentionActs>(&acts.layers[l])) {
      add_layer(layer, *a);
    } else if (const auto* f = std::get_if<FfnActs>(&acts.layers[l])) {
      add_layer(layer, *f);
    } else {
      add_layer(layer, std::get<MoeActs>(acts.layers[l]));
    }
  }
  add_norm(acts.final_norm);
  at(-1, Sum::kTokens)[0] += static_cast<double>(segments.tokens());
}

void Importance::add_norm(const NormActs& norm) {
  add_columns(at(-1, Sum::kHidden), norm.normed);
}

void Importance::add_change(int64_t layer, ConstView before, ConstView after) {
  const OnHost in(before), out(after);
  const int64_t width = before.dim(1);
  at(layer, Sum::kChange)[0] += sum_rows(before.dim(0), [&](int64_t t) {
    const float* a = in->ptr<float>() + t * in->stride(0);
    const float* b = out->ptr<float>() + t * out->stride(0);
    const double norms = std::sqrt(dot(a, a, width) * dot(b, b, width));
    return norms > 0 ? 1 - dot(a, b, width) / norms : 0.0;  // a stream of zeros has no direction
  });
}

void Importance::add_layer(int64_t layer, const MambaActs& a, const MambaParams<ConstView>& w,
                           const Segments& segments) {
  add_columns(at(layer, Sum::kMamba), a.x_raw);
  const OnHost x(a.x), dt(a.dt), B(a.B), C(a.C), A_log(w.A_log), dt_bias(w.dt_bias);
  add_state_score({.score = at(layer, Sum::kState),
                   .x = x,
                   .dt_raw = dt,
                   .B = B,
                   .C = C,
                   .A_log = A_log,
                   .dt_bias = dt_bias,
                   .segments = segments});
}

void Importance::add_layer(int64_t layer, const AttentionActs& a) {
  add_columns(at(layer, Sum::kQuery), merge_cols(ConstView(a.y)));
}

void Importance::add_layer(int64_t layer, const FfnActs& a) {
  add_columns(at(layer, Sum::kFfn), a.act);
}

void Importance::add_layer(int64_t layer, const MoeActs& a) {
  if (a.shared.act) add_columns(at(layer, Sum::kSharedFfn), a.shared.act);
  const OnHost offsets(a.offsets), order(a.order), weight(a.weight), down(a.down), act(a.act);
  const std::span<double> channels = at(layer, Sum::kExpertFfn);
  const auto width = static_cast<size_t>(a.act.dim(1));
  NESTLING_CHECK(channels.size() == static_cast<size_t>(config_.experts) * width &&
                     a.offsets.dim(0) == config_.experts + 1,
                 "importance: experts of layer ", layer, " are not those of the whole parent");
  const int64_t hidden = a.down.dim(1), k = a.weight.dim(1);
  for (int64_t e = 0; e < config_.experts; ++e) {
    const int64_t begin = offsets->ptr<int32_t>()[e], end = offsets->ptr<int32_t>()[e + 1];
    const auto index = static_cast<size_t>(e);
    at(layer, Sum::kRouted)[index] += static_cast<double>(end - begin);
    add_columns(channels.subspan(index * width, width), act, begin, end);
    at(layer, Sum::kExperts)[index] += sum_rows(end - begin, [&](int64_t i) {
      const int32_t pair = order->ptr<int32_t>()[begin + i];
      const float* row = down->ptr<float>() + (begin + i) * down->stride(0);
      const double gate = weight->ptr<float>()[pair / k * weight->stride(0) + pair % k];
      return gate * std::sqrt(dot(row, row, hidden));
    });
  }
}

void Importance::merge(const Importance& other) {
  NESTLING_CHECK(sums_.size() == other.sums_.size() && config_.pattern == other.config_.pattern,
                 "importance: merging runs of two architectures");
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
}

void Importance::all_reduce(Context& ctx, Comm& comm) {
  const View host = host_view(sums_);
  Tensor shared(ctx.device(), DType::kF64, {std::ssize(sums_)});
  copy(shared.view(), host);
  comm.all_reduce(ctx, shared.view(), Reduce::kSum);
  ctx.synchronize();
  copy(host, shared.view());
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
    const double scale = count[e] > 0 ? static_cast<double>(tokens()) / count[e] : 0.0;
    experts[e] *= scale;
    for (size_t f = 0; f < width; ++f) channels[e * width + f] *= scale;
  }
  std::map<Axis, std::vector<double>> scores = {{Axis::kExperts, std::move(experts)},
                                                {Axis::kExpertFfn, std::move(channels)}};
  if (config_.shared_ffn > 0) scores[Axis::kSharedFfn] = mean(layer, Sum::kSharedFfn);
  return scores;
}

Scores Importance::scores(int64_t head_channels) const {
  NESTLING_CHECK(tokens() > 0, "importance: no token was added");
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
