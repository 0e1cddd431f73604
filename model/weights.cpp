#include "model/weights.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/core/rng.h"
#include "kernels/ops/elementwise.h"

namespace nestling {

namespace {

constexpr int64_t kDrawnAtOnce = 4096;   // values, at least, a thread
constexpr int64_t kAlignElements = 128;  // 256 bytes of bf16, 512 of f32

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

int64_t padded(const ParameterSpec& spec) {
  return (spec.size() + kAlignElements - 1) / kAlignElements * kAlignElements;
}

// Shape of a spec as a view's extents.
View shaped(std::byte* data, DType dtype, Device device, const ParameterSpec& spec) {
  Extents shape{};
  for (size_t d = 0; d < spec.dims.size(); ++d) shape[d] = spec.dims[d].extent;
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

Weights::Weights(const ModelConfig& config, Device device, WeightsOptions options)
    : config_(config), device_(device), options_(options), specs_(parameter_list(config)) {
  NESTLING_CHECK(options.compute == DType::kF32 || options.compute == DType::kBF16,
                 "compute precision ", dtype_name(options.compute), ", needs f32 or bf16");
  int64_t total = 0;
  offsets_.resize(specs_.size());
  for (const bool by_product : {true, false}) {
    beside_products_ = total;
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].gradient_by_product != by_product) continue;
      offsets_[i] = total;
      total += padded(specs_[i]);
    }
  }
  master_offsets_ = offsets_;
  const auto pool = [&](DType dtype, Pool of, const char* name) {
    return Tensor(device, dtype, {total}, {of, name});
  };
  master_ = pool(DType::kF32, Pool::kWeights, options.teacher ? "teacher weights" : "masters");
  if (options.gradients) grads_ = pool(DType::kF32, Pool::kOptimizer, "gradients");
  if (options.compute == DType::kBF16)
    low_ =
        pool(DType::kBF16, Pool::kWeights, options.teacher ? "teacher low copies" : "low copies");
}

View Weights::at(Tensor& pool, const std::vector<int64_t>& offsets, int64_t i, DType dtype) {
  const auto index = static_cast<size_t>(i);
  std::byte* base = pool.view().data();
  if (base != nullptr) base += offsets[index] * dtype_bytes(dtype);
  return shaped(base, dtype, device_, specs_[index]);
}

View Weights::master(int64_t i) {
  if (dropped_ && specs_[static_cast<size_t>(i)].product) return {};
  return at(master_, master_offsets_, i, DType::kF32);
}

View Weights::grad(int64_t i) {
  if (!grads_ || !specs_[static_cast<size_t>(i)].trained) return {};
  return at(grads_, offsets_, i, DType::kF32);
}

View Weights::low(int64_t i) {
  if (!low_ || !specs_[static_cast<size_t>(i)].product) return {};
  return at(low_, offsets_, i, DType::kBF16);
}

ModelParams<ConstView> Weights::params() {
  return bind_parameters<ConstView>(config_, [&](int64_t i) -> ConstView {
    const View copy = low(i);
    return copy ? copy : master(i);
  });
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
    const View all = master(i).reshape({spec.size()});
    copy(all.prefix(0, host.size()), host.view());
    repeat(all, host.size());
  }
  Context ctx(device_);
  refresh_low(ctx);
}

void Weights::refresh_low(Context& ctx) {
  for (int64_t i = 0; i < count(); ++i)
    if (const View copy = low(i)) cast(ctx, copy, master(i));
}

void Weights::drop_masters() {
  NESTLING_CHECK(low_ && !grads_,
                 "masters are dropped of weights with low copies and no gradients");
  if (dropped_) return;
  std::vector<int64_t> kept_offsets;
  int64_t total = 0;
  for (const ParameterSpec& spec : specs_) {
    kept_offsets.push_back(total);
    if (!spec.product) total += padded(spec);
  }
  Tensor kept(device_, DType::kF32, {total},
              {Pool::kWeights, options_.teacher ? "teacher weights" : "masters"});
  for (int64_t i = 0; i < count(); ++i)
    if (!specs_[static_cast<size_t>(i)].product)
      copy(at(kept, kept_offsets, i, DType::kF32), master(i));
  master_ = std::move(kept);
  master_offsets_ = std::move(kept_offsets);
  dropped_ = true;
}

void Weights::take_masters(Context& ctx, const Weights& from) {
  NESTLING_CHECK(!dropped_ && !from.dropped_, "the masters are dropped");
  copy(master_.view(), from.master_.view());
  refresh_low(ctx);
}

Weights Weights::on(Device device, DType compute) const {
  Weights there(config_, device, {.compute = compute});
  Context ctx(device);
  there.take_masters(ctx, *this);
  return there;
}

Weights Weights::extents() const {
  return {config_, Device::kNull, options_};
}

void Weights::zero_gradients() {
  if (grads_) fill_zero(grads_.view());
}

void Weights::zero_gradients_beside_products() {
  if (grads_) fill_zero(grads_.view().slice(0, beside_products_, grads_.size() - beside_products_));
}

Weights::Bytes Weights::allocated() const {
  return {.masters = master_.allocated_bytes(),
          .gradients = grads_.allocated_bytes(),
          .low = low_.allocated_bytes()};
}

int64_t Weights::parameter_count() const {
  int64_t n = 0;
  for (const ParameterSpec& spec : specs_) n += spec.size();
  return n;
}

}  // namespace nestling
