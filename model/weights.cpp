#include "model/weights.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/core/rng.h"
#include "kernels/ops/elementwise.h"
#include "model/interleave.h"
#include "model/quantize.h"

namespace nestling {

namespace {

constexpr int64_t kDrawnAtOnce = 4096;  // values, at least, a thread
constexpr int64_t kAlignBytes = 256;

// Numbers of 64 bits that one value takes.
uint64_t draws(Init init) {
  switch (init) {
    case Init::kNormal:
    case Init::kNormalResidual:
      return 2;
    case Init::kConv:
    case Init::kALog:
    case Init::kDtBias:
      return 1;
    case Init::kOne:
    case Init::kZero:
      return 0;
  }
  throw Error("unknown initialisation");
}

double draw(const ParameterSpec& spec, const ModelConfig& config, Rng& rng) {
  switch (spec.init) {
    case Init::kNormal:
      return 0.02 * rng.normal();
    case Init::kNormalResidual:
      return 0.02 / std::sqrt(static_cast<double>(config.layers())) * rng.normal();
    case Init::kOne:
      return 1.0;
    case Init::kZero:
      return 0.0;
    case Init::kConv: {
      const double bound = 1.0 / std::sqrt(static_cast<double>(config.conv_kernel));
      return rng.uniform(-bound, bound);
    }
    case Init::kALog:
      return std::log(rng.uniform(1.0, 16.0));
    case Init::kDtBias: {
      const double dt = std::exp(rng.uniform(std::log(1e-3), std::log(1e-1)));
      return dt + std::log(-std::expm1(-dt));  // softplus of this is dt
    }
  }
  throw Error("unknown initialisation");
}

int64_t last_extent(const ParameterSpec& spec) {
  return spec.dims.back().extent;
}

// Shape of a spec as a view's extents, but for the last.
View shaped(std::byte* data, DType dtype, Device device, const ParameterSpec& spec, int64_t last) {
  Extents shape{};
  for (size_t d = 0; d < spec.dims.size(); ++d) shape[d] = spec.dims[d].extent;
  shape[spec.dims.size() - 1] = last;
  return {data, dtype, device, shape, static_cast<int>(spec.dims.size())};
}

// Repeats the first `period` values of a tensor through all of it.
void repeat(View all, int64_t period) {
  for (int64_t done = period; done < all.size();) {
    const int64_t n = std::min(done, all.size() - done);
    copy(all.slice(0, done, n), all.prefix(0, n));
    done += n;
  }
}

}  // namespace

Weights::Weights(const ModelConfig& config, Device device, const WeightsOptions& options)
    : config_(config), device_(device), options_(options), specs_(parameter_list(config)) {
  NESTLING_CHECK(options.compute == DType::kF32 || options.compute == DType::kBF16,
                 "compute precision ", dtype_name(options.compute), ", needs f32 or bf16");
  if (options.layers_shared_by != nullptr) share_layers();
  int64_t total = 0, low_total = 0;
  offsets_.resize(specs_.size());
  low_offsets_.resize(specs_.size());
  for (const bool by_product : {true, false}) {
    beside_products_ = total;
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].gradient_by_product != by_product || shared(static_cast<int64_t>(i))) continue;
      const bool codes = scales(static_cast<int64_t>(i)).has_value();
      offsets_[i] = total;
      low_offsets_[i] = low_total;
      if (!codes || options.gradients) total += specs_[i].padded_size();
      if (!codes) low_total += specs_[i].padded_size();
    }
  }
  flat_size_ = total;
  NESTLING_CHECK(!options.masters_dropped || (options.compute == DType::kBF16 &&
                                              !options.gradients && !options.layers_shared_by),
                 "masters are dropped of weights with low copies and no gradients");
  dropped_ = options.masters_dropped;
  master_offsets_ = offsets_;
  master_ = dropped_ ? kept_masters()
                     : Tensor(device, DType::kF32, {total},
                              {Pool::kWeights, options.teacher ? "teacher weights" : "masters"});
  if (options.gradients && !options.gradients_later) take_gradients();
  if (options.compute == DType::kBF16)
    low_ = Tensor(device, DType::kBF16, {low_total},
                  {Pool::kWeights, options.teacher ? "teacher low copies" : "low copies"});
  if (options_.quantization) place_codes();
}

void Weights::share_layers() {
  NESTLING_CHECK(!options_.quantization || options_.gradients,
                 "codes that are not trained are whole on every rank, and so are their layers");
  std::vector<bool> codes;
  for (int64_t i = 0; options_.quantization && i < count(); ++i)
    codes.push_back(scales(i).has_value());
  shared_ = std::make_unique<SharedLayers>(specs_, device_,
                                           SharedLayersOptions{.compute = options_.compute,
                                                               .gradients = options_.gradients,
                                                               .teacher = options_.teacher,
                                                               .codes = std::move(codes)},
                                           *options_.layers_shared_by);
}

std::vector<PlacedParameter> Weights::flat_places() const {
  std::vector<PlacedParameter> places;
  for (int64_t i = 0; i < count(); ++i)
    if (const ParameterSpec& spec = specs_[static_cast<size_t>(i)]; !shared(i))
      places.push_back({i, offset(i), spec.size(), spec.trained});
  std::ranges::sort(places, {}, &PlacedParameter::offset);
  return places;
}

const std::optional<TensorScales>& Weights::scales(int64_t i) const {
  static const std::optional<TensorScales> none;
  if (!options_.quantization) return none;
  return options_.quantization->parameters.at(static_cast<size_t>(i));
}

// One pool: of every quantized parameter its codes, the scales of its blocks and those of its experts.
void Weights::place_codes() {
  const Quantization& q = *options_.quantization;
  NESTLING_CHECK(std::ssize(q.parameters) == count(), "scales of ", q.parameters.size(),
                 " parameters for ", count());
  const bool nvfp4 = q.format == WeightFormat::kNvfp4;
  code_places_.resize(specs_.size());
  int64_t total = 0;
  const auto take = [&](int64_t bytes) {
    const int64_t at = total;
    total += (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
    return at;
  };
  for (int64_t i = 0; i < count(); ++i) {
    if (!scales(i)) continue;
    const ParameterSpec& spec = specs_[static_cast<size_t>(i)];
    const int64_t tensors = published_matrix(spec).count;
    NESTLING_CHECK(std::ssize(scales(i)->weight) == tensors, spec.name, ": ",
                   scales(i)->weight.size(), " scales of weights, needs ", tensors);
    NESTLING_CHECK(!nvfp4 || last_extent(spec) % kNvfp4Block == 0, spec.name, ": ",
                   last_extent(spec), " columns are no whole blocks of ", kNvfp4Block);
    CodePlaces& at = code_places_[static_cast<size_t>(i)];
    at.codes = take(nvfp4 ? spec.size() / 2 : spec.size());
    if (nvfp4) at.block_scales = take(spec.size() / kNvfp4Block);
    if (spec.stacked()) at.expert_scales = take(tensors * dtype_bytes(DType::kF32));
  }
  codes_ = Tensor(device_, DType::kU8, {total}, {Pool::kWeights, "codes"});
  if (device_ == Device::kNull) return;
  for (int64_t i = 0; i < count(); ++i) {
    const View to = expert_scales(i);
    if (!to) continue;
    Tensor host(Device::kCpu, DType::kF32, {to.size()});
    std::ranges::copy(scales(i)->weight, host.ptr<float>());
    copy(to, host.view());
  }
}

View Weights::at(Tensor& pool, const std::vector<int64_t>& offsets, int64_t i, DType dtype) {
  const auto index = static_cast<size_t>(i);
  std::byte* base = pool.view().data();
  if (base != nullptr) base += offsets[index] * dtype_bytes(dtype);
  return specs_[index].view_of(base, dtype, device_);
}

// A parameter's shape at a place of the pool of codes, with another last dimension.
View Weights::packed(int64_t offset, int64_t i, DType dtype, int64_t last) {
  std::byte* base = codes_.view().data();
  return shaped(base == nullptr ? base : base + offset, dtype, device_,
                specs_[static_cast<size_t>(i)], last);
}

View Weights::codes(int64_t i) {
  if (!scales(i)) return {};
  const bool nvfp4 = options_.quantization->format == WeightFormat::kNvfp4;
  const int64_t last = last_extent(specs_[static_cast<size_t>(i)]);
  return packed(code_places_[static_cast<size_t>(i)].codes, i, nvfp4 ? DType::kU8 : DType::kF8E4M3,
                nvfp4 ? last / 2 : last);
}

View Weights::block_scales(int64_t i) {
  if (!scales(i) || options_.quantization->format != WeightFormat::kNvfp4) return {};
  return packed(code_places_[static_cast<size_t>(i)].block_scales, i, DType::kF8E4M3,
                last_extent(specs_[static_cast<size_t>(i)]) / kNvfp4Block);
}

View Weights::expert_scales(int64_t i) {
  const ParameterSpec& spec = specs_[static_cast<size_t>(i)];
  if (!scales(i) || !spec.stacked()) return {};
  std::byte* base = codes_.view().data();
  if (base != nullptr) base += code_places_[static_cast<size_t>(i)].expert_scales;
  return {base, DType::kF32, device_, {spec.dims[0].extent}};
}

Weight Weights::weight(int64_t i) {
  if (const View quantized = codes(i)) {
    Weight w(quantized);
    w.block_scales = block_scales(i);
    w.expert_scales = expert_scales(i);
    w.scale = scales(i)->weight.front();
    w.input_scale = scales(i)->input;
    return w;
  }
  if (shared(i)) return shared_->value(i);
  const View copy = low(i);
  return copy ? copy : master(i);
}

View Weights::master(int64_t i) {
  const bool codes_alone = scales(i) && !options_.gradients;
  const bool dropped = dropped_ && specs_[static_cast<size_t>(i)].product;
  if (codes_alone || dropped || shared(i)) return {};
  return at(master_, master_offsets_, i, DType::kF32);
}

View Weights::grad(int64_t i) {
  if (shared(i)) return shared_->grad(i);
  if (!grads_ || !specs_[static_cast<size_t>(i)].trained) return {};
  return at(grads_, offsets_, i, DType::kF32);
}

View Weights::low(int64_t i) {
  if (!low_ || scales(i) || shared(i) || !specs_[static_cast<size_t>(i)].product) return {};
  return at(low_, low_offsets_, i, DType::kBF16);
}

ModelParams<Weight> Weights::params(View largest_inputs) {
  NESTLING_CHECK(!largest_inputs || largest_inputs.size() == count(), "ranges of ",
                 largest_inputs.describe(), " parameters for ", count());
  auto params = bind_parameters<Weight>(config_, [&](int64_t i) {
    Weight w = weight(i);
    if (largest_inputs) w.largest_input = largest_inputs.slice(0, i, 1);
    return w;
  });
  params.shared = shared_.get();
  return params;
}

ModelParams<View> Weights::grads() {
  return bind_parameters<View>(config_, [&](int64_t i) { return grad(i); });
}

void Weights::initialize(uint64_t seed, int64_t distinct) {
  NESTLING_CHECK(device_ != Device::kNull, "the null device holds no weights to initialise");
  for (int64_t i = 0; i < count(); ++i) {
    const ParameterSpec& spec = specs_[static_cast<size_t>(i)];
    Tensor host(Device::kCpu, DType::kF32, {std::min(spec.size(), distinct)});
    parallel_for(host.size(), kDrawnAtOnce, [&](int64_t begin, int64_t end) {
      Rng rng(seed, static_cast<uint64_t>(i));
      rng.seek(static_cast<uint64_t>(begin) * draws(spec.init));
      for (int64_t k = begin; k < end; ++k)
        host.ptr<float>()[k] = static_cast<float>(draw(spec, config_, rng));
    });
    if (shared(i)) {
      Tensor whole(Device::kCpu, DType::kF32, {spec.size()});
      copy(whole.view().prefix(0, host.size()), host.view());
      repeat(whole, host.size());
      shared_->take(i, whole);
      continue;
    }
    const View all = master(i).reshape({spec.size()});
    copy(all.prefix(0, host.size()), host.view());
    repeat(all, host.size());
  }
  Context ctx(device_);
  refresh_low(ctx);
}

void Weights::take(int64_t i, ConstView values) {
  if (shared(i)) return shared_->take(i, values);
  const auto flat = [](auto v) { return v.reshape({v.size()}); };
  if (const View to = master(i)) return copy(flat(to), flat(values));
  Tensor rounded(Device::kCpu, DType::kBF16, {values.size()});
  Context host(Device::kCpu);
  cast(host, rounded, flat(values));
  copy(flat(low(i)), rounded);
}

void Weights::fill(int64_t i, const std::function<void(View)>& make) {
  const View there = master(i);
  if (there && device_ == Device::kCpu) return make(there);
  const ParameterSpec& spec = specs_[static_cast<size_t>(i)];
  Tensor values(Device::kCpu, DType::kF32, {spec.size()});
  make(spec.view_of(values.view().data(), DType::kF32, Device::kCpu));
  take(i, values);
}

void Weights::refresh_low(Context& ctx) {
  if (shared_) shared_->refresh_low(ctx);
  refresh_whole(ctx);
}

void Weights::refresh_whole(Context& ctx) {
  for (int64_t i = 0; i < count(); ++i)
    if (const View to = low(i), from = master(i); to && from) cast(ctx, to, from);
  refresh_codes(ctx);
}

void Weights::make_codes_of(Context& ctx, int64_t i, ConstView values) {
  const View to = codes(i);
  if (!to) return;
  make_codes(ctx, {.spec = specs_[static_cast<size_t>(i)],
                   .codes = to,
                   .block_scales = block_scales(i),
                   .values = values,
                   .scales = scales(i)->weight});
}

void Weights::refresh_codes(Context& ctx) {
  if (!trains_codes()) return;
  for (int64_t i = 0; i < count(); ++i)
    if (!shared(i)) make_codes_of(ctx, i, master(i));
  for (int64_t l = 0; shared_ && l < shared_->layers(); ++l) {
    if (std::ranges::none_of(shared_->places(l), [&](const PlacedParameter& p) {
          return scales(p.parameter).has_value();
        }))
      continue;
    shared_->gather(ctx, shared_->masters(), l);
    for (const PlacedParameter& p : shared_->places(l))
      make_codes_of(ctx, p.parameter, shared_->grad(p.parameter));
  }
}

void Weights::drop_masters() {
  NESTLING_CHECK(low_ && !options_.gradients,
                 "masters are dropped of weights with low copies and no gradients");
  if (dropped_) return;
  if (shared_) shared_->drop_masters();
  const std::vector<int64_t> before = master_offsets_;
  Tensor kept = kept_masters();
  for (int64_t i = 0; i < count(); ++i)
    if (!specs_[static_cast<size_t>(i)].product)
      copy(at(kept, master_offsets_, i, DType::kF32), at(master_, before, i, DType::kF32));
  master_ = std::move(kept);
  dropped_ = true;
}

// Room for the masters that stay when those of product operands are dropped, and their places.
Tensor Weights::kept_masters() {
  int64_t total = 0;
  for (size_t i = 0; i < specs_.size(); ++i) {
    master_offsets_[i] = total;
    if (!specs_[i].product) total += specs_[i].padded_size();
  }
  return {device_,
          DType::kF32,
          {total},
          {Pool::kWeights, options_.teacher ? "teacher weights" : "masters"}};
}

void Weights::take_masters(Context& ctx, const Weights& from) {
  NESTLING_CHECK(!dropped_ && !from.dropped_, "the masters are dropped");
  NESTLING_CHECK(static_cast<bool>(shared_) == static_cast<bool>(from.shared_),
                 "masters of weights that ranks share, and of weights that they do not");
  if (shared_) shared_->take_masters(ctx, *from.shared_);
  copy(master_.view(), from.master_.view());
  if (codes_ && !trains_codes()) copy(codes_.view(), from.codes_.view());
  refresh_low(ctx);
}

Weights Weights::on(Device device, DType compute) const {
  Weights there(config_, device,
                {.compute = compute,
                 .quantization = trains_codes() ? std::nullopt : options_.quantization,
                 .layers_shared_by = options_.layers_shared_by});
  Context ctx(device);
  there.take_masters(ctx, *this);
  return there;
}

Weights Weights::extents() const {
  return {config_, Device::kNull, options_};
}

void Weights::take_gradients() {
  NESTLING_CHECK(options_.gradients && !grads_, "gradients of weights that have none, or twice");
  grads_ = Tensor(device_, DType::kF32, {flat_size_}, {Pool::kOptimizer, "gradients"});
  if (shared_) shared_->take_gradients();
}

void Weights::zero_gradients() {
  if (!grads_) return;
  fill_zero(grads_.view());
  if (shared_) shared_->zero_gradients();
}

void Weights::zero_gradients_beside_products() {
  if (!grads_) return;
  fill_zero(grads_.view().slice(0, beside_products_, grads_.size() - beside_products_));
  if (shared_) shared_->zero_gradients();
}

Weights::Bytes Weights::allocated() const {
  const SharedLayers::Bytes layers = shared_ ? shared_->allocated() : SharedLayers::Bytes{};
  return {.masters = master_.allocated_bytes() + layers.masters,
          .gradients = grads_.allocated_bytes() + layers.gradients,
          .low = low_.allocated_bytes() + layers.low,
          .codes = codes_.allocated_bytes(),
          .in_hand = layers.in_hand};
}

int64_t Weights::parameter_count() const {
  int64_t n = 0;
  for (const ParameterSpec& spec : specs_) n += spec.size();
  return n;
}

}  // namespace nestling
