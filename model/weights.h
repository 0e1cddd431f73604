// weights.h - the memory behind the parameter list.
//
// Pools         one allocation each for master weights, gradients and low-precision copies; every
//               tensor starts on a 256-byte boundary, those whose gradients products make before the rest.
//               `flat_gradients` is all gradients as one view, which is what data parallelism reduces.
// Precision     master and gradient f32. With compute bf16 every product operand also has a bf16
//               copy, which the products read; refresh_low() rounds the masters into it.
// Frozen        weights that are only read need no masters where there is a low copy: drop_masters()
//               gives that memory back. From then on master(i) of a product operand is absent.
// Null device   extents only.
// Threads       one writer at a time.
#pragma once
#include <limits>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/tensor.h"
#include "model/parameters.h"

namespace nestling {

struct WeightsOptions {
  DType compute = DType::kF32;  // kF32 or kBF16
  bool gradients = false;
  bool teacher = false;  // how the memory is named
};

class Weights {
 public:
  Weights(const ModelConfig& config, Device device, WeightsOptions options);

  Device device() const { return device_; }
  const std::vector<ParameterSpec>& specs() const { return specs_; }
  int64_t count() const { return static_cast<int64_t>(specs_.size()); }
  View master(int64_t i);
  ConstView master(int64_t i) const { return const_cast<Weights*>(this)->master(i); }
  View grad(int64_t i);  // absent for a buffer, or without gradients
  View low(int64_t i);   // absent in f32, or where the parameter is no product operand
  View flat_gradients() { return grads_.view(); }

  // What the layers read: the low copy where there is one, else the master.
  ModelParams<ConstView> params();
  ModelParams<View> grads();

  // Fresh weights by each spec's Init; refreshes the low copies. Of a tensor, `distinct` values are drawn (on the
  // host), and repeat: benchmarks of billions of parameters need no more.
  void initialize(uint64_t seed, int64_t distinct = std::numeric_limits<int64_t>::max());
  void refresh_low(Context& ctx);
  void zero_gradients();
  void zero_gradients_beside_products();                 // for a backward with LayerRun::fresh
  void drop_masters();                                   // for good; with low copies only
  void take_masters(Context& ctx, const Weights& from);  // of the same model, on any device
  Weights on(Device device, DType compute) const;        // a copy there, without gradients
  Weights extents() const;                               // the same on the null device
  int64_t parameter_count() const;                       // trained or not, buffers included
  struct Bytes {
    int64_t masters, gradients, low;
  };
  Bytes allocated() const;

 private:
  View at(Tensor& pool, const std::vector<int64_t>& offsets, int64_t i, DType dtype);
  ModelConfig config_;
  Device device_;
  WeightsOptions options_;
  std::vector<ParameterSpec> specs_;
  std::vector<int64_t> offsets_;         // elements into each pool
  std::vector<int64_t> master_offsets_;  // into the masters; the same until they are dropped
  int64_t beside_products_ = 0;          // where gradients begin that no product makes
  bool dropped_ = false;
  Tensor master_, grads_, low_;
};

}  // namespace nestling
