#include "runtime/decode_state.h"

namespace nestling {

namespace {

// Calls fn(view) for every tensor that a layer's cache has.
template <class Fn>
void for_each_view(LayerCache& cache, const Fn& fn) {
  MambaCache& m = cache.mamba;
  for (View* v :
       {&m.conv_x, &m.conv_B, &m.conv_C, &m.state, &cache.attention.k, &cache.attention.v})
    if (*v) fn(*v);
}

// Copies what convolutions and scans carry, of `count` sequences from `first` on.
void copy_states(Context& ctx, const std::vector<LayerCache>& to,
                 const std::vector<LayerCache>& from, int64_t first, int64_t count) {
  for (size_t l = 0; l < to.size(); ++l) {
    const MambaCache &t = to[l].mamba, &f = from[l].mamba;
    if (!t.state) continue;
    for (const auto& [into, out] : {std::pair{t.conv_x, f.conv_x}, std::pair{t.conv_B, f.conv_B},
                                    std::pair{t.conv_C, f.conv_C}, std::pair{t.state, f.state}})
      copy(ctx, into.slice(0, first, count), out.slice(0, first, count));
  }
}

std::vector<LayerCache> rows_of(std::vector<LayerCache> caches, int64_t begin, int64_t count) {
  for (LayerCache& cache : caches)
    for_each_view(cache, [&](View& v) { v = v.slice(0, begin, count); });
  return caches;
}

}  // namespace

View DecodeState::take(DType dtype, std::initializer_list<int64_t> shape) {
  memory_.emplace_back(device_, dtype, shape);
  return memory_.back().view();
}

DecodeState::DecodeState(Device device, const ModelConfig& config, const ModelParams<Weight>& w,
                         int64_t batch, int64_t capacity, DType activations)
    : device_(device), rows_(batch), capacity_(capacity), lengths_(static_cast<size_t>(batch), 0) {
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
    whole_.push_back(cache);
  }
  caches_ = whole_;
}

int64_t DecodeState::bytes() const {
  int64_t total = 0;
  for (const Tensor& t : memory_) total += t.allocated_bytes();
  return total;
}

void DecodeState::set_lengths(const Segments& segments) {
  const int64_t first = batch() - segments.count();
  NESTLING_CHECK(first >= 0, "prefill of ", segments.count(), " sequences into a state of ",
                 batch());
  for (int64_t i = 0; i < segments.count(); ++i) {
    NESTLING_CHECK(segments.length(i) <= capacity_, "sequence ", first + i, " has ",
                   segments.length(i), " tokens, the state holds ", capacity_);
    lengths_[static_cast<size_t>(first + i)] = static_cast<int32_t>(segments.length(i));
  }
}

void DecodeState::advance() {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    NESTLING_CHECK(lengths_[b] < capacity_, "sequence ", b, " is at its capacity of ", capacity_,
                   " tokens");
    ++lengths_[b];
  }
}

void DecodeState::advance(std::span<const int32_t> counts) {
  NESTLING_CHECK(std::ssize(counts) == batch(), counts.size(), " counts for a state of ", batch());
  for (size_t b = 0; b < lengths_.size(); ++b) {
    NESTLING_CHECK(lengths_[b] + int64_t{counts[b]} <= capacity_, "sequence ", b, " of ",
                   lengths_[b], " tokens and ", counts[b], " more, the state holds ", capacity_);
    lengths_[b] += counts[b];
  }
}

void DecodeState::remember(Context& ctx, size_t slot) {
  while (slots_.size() <= slot) slots_.push_back(take_slot());
  copy_states(ctx, slots_[slot].states, whole_, 0, batch());
  slots_[slot].lengths = lengths_;
}

DecodeState::Slot DecodeState::take_slot() {
  Slot slot;
  for (const LayerCache& cache : whole_) {
    const MambaCache& m = cache.mamba;
    const auto like = [&](const View& v) {
      return take(v.dtype(), {v.dim(0), v.dim(1), v.dim(2)});
    };
    LayerCache& states = slot.states.emplace_back();
    if (m.state)
      states.mamba = {.conv_x = like(m.conv_x),
                      .conv_B = like(m.conv_B),
                      .conv_C = like(m.conv_C),
                      .state = take(m.state.dtype(), {m.state.dim(0), m.state.dim(1),
                                                      m.state.dim(2), m.state.dim(3)})};
  }
  return slot;
}

void DecodeState::go_back(Context& ctx, int64_t b, size_t slot) {
  NESTLING_CHECK(slot < slots_.size() && b < std::ssize(slots_[slot].lengths),
                 "going back to slot ", slot, ", which holds no sequence ", b);
  copy_states(ctx, whole_, slots_[slot].states, b, 1);
  lengths_[static_cast<size_t>(b)] = slots_[slot].lengths[static_cast<size_t>(b)];
}

void DecodeState::drop(Context& ctx, int64_t b) {
  const int64_t last = batch() - 1;
  NESTLING_CHECK(0 <= b && b <= last, "dropping sequence ", b, " of ", batch());
  for (LayerCache& cache : caches_)
    for_each_view(cache, [&](View& v) {
      if (b < last) copy(ctx, v.slice(0, b, 1), v.slice(0, last, 1));
    });
  lengths_[static_cast<size_t>(b)] = lengths_.back();
  lengths_.pop_back();
  caches_ = rows_of(whole_, 0, last);
}

void DecodeState::clear() {
  lengths_.clear();
  caches_ = rows_of(whole_, 0, 0);
}

std::vector<LayerCache> DecodeState::join(int64_t count) {
  const int64_t first = batch();
  NESTLING_CHECK(1 <= count && count <= free_rows(), count, " sequences join ", first,
                 " in a state of ", rows_, " rows");
  lengths_.resize(static_cast<size_t>(first + count), 0);
  caches_ = rows_of(whole_, 0, batch());
  return rows_of(whole_, first, count);
}

void DecodeState::reset() {
  for (Tensor& t : memory_) fill_zero(t.view());
  for (int32_t& n : lengths_) n = 0;
}

}  // namespace nestling
