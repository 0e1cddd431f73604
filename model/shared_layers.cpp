#include "model/shared_layers.h"

#include <algorithm>

#include "kernels/core/span.h"
#include "kernels/ops/elementwise.h"

namespace nestling {

SharedLayers::SharedLayers(std::span<const ParameterSpec> specs, Device device,
                           const SharedLayersOptions& options, Comm& comm)
    : specs_(specs.begin(), specs.end()),
      device_(device),
      options_(options),
      comm_(&comm),
      offsets_(specs.size(), -1) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    if (!holds(specs_[i])) continue;
    const auto l = static_cast<size_t>(specs_[i].layer);
    if (layers_.size() <= l) layers_.resize(l + 1);
    Layer& of = layers_[l];
    offsets_[i] = of.total;
    of.places.push_back({static_cast<int64_t>(i), of.total, specs_[i].size(), specs_[i].trained});
    of.total += specs_[i].padded_size();
    of.brought |= options.codes.empty() || !options.codes[i];
  }
  int64_t widest = 0, widest_brought = 0;
  for (Layer& l : layers_) {
    l.shares = shares_of(l.places, l.total, comm.size());
    l.at = size_;
    widest = std::max(widest, l.total);
    if (l.brought) widest_brought = std::max(widest_brought, l.total);
    for (const ParameterRun& run : own(l).runs)
      runs_.push_back(
          {run, size_ + offsets_[static_cast<size_t>(run.parameter)] + run.begin - own(l).begin});
    size_ += own(l).count;
  }
  const bool bf16 = options.compute == DType::kBF16;
  const char* name = options.teacher ? "teacher weights" : "masters";
  masters_ = Tensor(device, DType::kF32, {size_}, {Pool::kWeights, name});
  if (bf16)
    low_ = Tensor(device, DType::kBF16, {size_},
                  {Pool::kWeights, options.teacher ? "teacher low copies" : "low copies"});
  window_ = Tensor(device, options.compute, {widest_brought}, {Pool::kWeights, "layer in hand"});
  if (options.gradients)
    gradient_window_ = Tensor(device, DType::kF32, {widest}, {Pool::kOptimizer, "gradients"});
}

const std::vector<PlacedParameter>& SharedLayers::places(int64_t layer) const {
  return layers_.at(static_cast<size_t>(layer)).places;
}

std::vector<View> SharedLayers::pieces(View window, const Layer& l) const {
  std::vector<View> all;
  for (const Share& share : l.shares) all.push_back(window.slice(0, share.begin, share.count));
  return all;
}

View SharedLayers::shaped(View window, int64_t i) const {
  const ParameterSpec& spec = specs_[static_cast<size_t>(i)];
  const int64_t at = offsets_[static_cast<size_t>(i)];
  NESTLING_CHECK(at >= 0, spec.name, " is not shared");
  std::byte* data = window.data();
  if (data != nullptr) data += at * dtype_bytes(window.dtype());
  return spec.view_of(data, window.dtype(), device_);
}

View SharedLayers::value(int64_t i) {
  return shaped(window_.view(), i);
}

View SharedLayers::grad(int64_t i) {
  return gradient_window_ ? shaped(gradient_window_.view(), i) : View();
}

void SharedLayers::bring(Context& ctx, size_t layer) {
  const Layer& l = layers_.at(layer);
  if (!l.brought) return;
  const Span span(ctx, "gather of a layer");
  const View held = low_ ? low_.view() : masters_.view();
  comm_->all_gather(ctx, pieces(window_.view(), l), held.slice(0, l.at, own(l).count));
}

void SharedLayers::clear_gradients(Context& ctx, size_t layer) {
  fill_zero(ctx, gradient_window_.view().prefix(0, layers_.at(layer).total));
}

void SharedLayers::add_gradients(Context& ctx, size_t layer) {
  const Span span(ctx, "reduction of a layer");
  const Layer& l = layers_.at(layer);
  const std::vector<View> all = pieces(gradient_window_.view(), l);
  const View mine = all[static_cast<size_t>(comm_->rank())];
  comm_->reduce_scatter(ctx, mine, std::vector<ConstView>(all.begin(), all.end()), Reduce::kSum);
  if (mine.size() == 0) return;
  const View sum = gradients_.view().slice(0, l.at, mine.size());
  add(ctx, sum, sum, mine);
}

void SharedLayers::take_gradients() {
  NESTLING_CHECK(options_.gradients && !gradients_, "gradients of layers that have none, or twice");
  gradients_ = Tensor(device_, DType::kF32, {size_}, {Pool::kOptimizer, "gradients"});
}

void SharedLayers::zero_gradients() {
  fill_zero(gradients_.view());
}

void SharedLayers::drop_masters() {
  NESTLING_CHECK(low_ && !options_.gradients,
                 "masters are dropped of weights with low copies and no gradients");
  masters_ = Tensor();
}

void SharedLayers::take(int64_t i, ConstView values) {
  const ConstView flat = values.reshape({values.size()});
  for (const Run& run : runs_)
    if (run.of.parameter == i)
      copy(masters_.view().slice(0, run.at, run.of.count),
           flat.slice(0, run.of.begin, run.of.count));
}

void SharedLayers::take_masters(Context& ctx, const SharedLayers& from) {
  NESTLING_CHECK(from.size_ == size_ && from.comm_->size() == comm_->size(),
                 "layers that other ranks share");
  NESTLING_CHECK(masters_ && from.masters_, "the masters are dropped");
  copy(masters_.view(), from.masters_.view());
  refresh_low(ctx);
}

void SharedLayers::refresh_low(Context& ctx) {
  if (low_ && masters_ && size_ > 0) cast(ctx, low_.view(), masters_.view());
}

void SharedLayers::gather(Context& ctx, ConstView shares, int64_t l) {
  const Layer& of = layer(l);
  comm_->all_gather(ctx, pieces(gradient_window_.view(), of),
                    shares.slice(0, of.at, own(of).count));
}

SharedLayers::Bytes SharedLayers::allocated() const {
  return {.masters = masters_.allocated_bytes(),
          .low = low_.allocated_bytes(),
          .gradients = gradients_.allocated_bytes() + gradient_window_.allocated_bytes(),
          .in_hand = window_.allocated_bytes()};
}

}  // namespace nestling
