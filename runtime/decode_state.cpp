#include "runtime/decode_state.h"

namespace nestling {

View DecodeState::take(DType dtype, std::initializer_list<int64_t> shape) {
  memory_.emplace_back(device_, dtype, shape);
  return memory_.back().view();
}

DecodeState::DecodeState(Device device, const ModelConfig& config, const ModelParams<Weight>& w,
                         int64_t batch, int64_t capacity, DType activations)
    : device_(device), capacity_(capacity), lengths_(static_cast<size_t>(batch), 0) {
  NESTLING_CHECK(batch >= 1 && capacity >= 1, "decode state for ", batch, " sequences of ",
                 capacity, " tokens");
  const int64_t window = config.conv_kernel - 1;
  for (const LayerParams<Weight>& layer : w.layers) {
    LayerCache cache;
    if (!is_kept(layer)) {
      // no state
    } else if (const auto* m = std::get_if<MambaParams<Weight>>(&layer)) {
      const int64_t H = m->x.dim(0), P = m->x.dim(1), N = m->B.dim(0), G = m->B.dim(1);
      cache.mamba = {.conv_x = take(DType::kF32, {batch, H * P, window}),
                     .conv_B = take(DType::kF32, {batch, N * G, window}),
                     .conv_C = take(DType::kF32, {batch, N * G, window}),
                     .state = take(DType::kF32, {batch, H, P, N})};
    } else if (const auto* a = std::get_if<AttentionParams<Weight>>(&layer)) {
      const int64_t width = a->k.dim(0) * a->k.dim(1);
      cache.attention = {.k = take(activations, {batch, capacity, width}),
                         .v = take(activations, {batch, capacity, width})};
    }
    caches_.push_back(cache);
  }
}

int64_t DecodeState::bytes() const {
  int64_t total = 0;
  for (const Tensor& t : memory_) total += t.allocated_bytes();
  return total;
}

void DecodeState::set_lengths(const Segments& segments) {
  NESTLING_CHECK(segments.count() == batch(), "prefill of ", segments.count(),
                 " sequences into a state of ", batch());
  for (int64_t b = 0; b < batch(); ++b) {
    NESTLING_CHECK(segments.length(b) <= capacity_, "sequence ", b, " has ", segments.length(b),
                   " tokens, the state holds ", capacity_);
    lengths_[static_cast<size_t>(b)] = static_cast<int32_t>(segments.length(b));
  }
}

void DecodeState::advance() {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    NESTLING_CHECK(lengths_[b] < capacity_, "sequence ", b, " is at its capacity of ", capacity_,
                   " tokens");
    ++lengths_[b];
  }
}

void DecodeState::drop(Context& ctx, int64_t b) {
  const int64_t last = batch() - 1;
  NESTLING_CHECK(0 <= b && b <= last, "dropping sequence ", b, " of ", batch());
  const auto shrink = [&](View& v) {
    if (!v) return;
    if (b < last) copy(ctx, v.slice(0, b, 1), v.slice(0, last, 1));
    v = v.prefix(0, last);
  };
  for (LayerCache& cache : caches_) {
    MambaCache& m = cache.mamba;
    for (View* v : {&m.conv_x, &m.conv_B, &m.conv_C, &m.state}) shrink(*v);
    for (View* v : {&cache.attention.k, &cache.attention.v}) shrink(*v);
  }
  lengths_[static_cast<size_t>(b)] = lengths_.back();
  lengths_.pop_back();
}

void DecodeState::reset() {
  for (Tensor& t : memory_) fill_zero(t.view());
  for (int32_t& n : lengths_) n = 0;
}

}  // namespace nestling
