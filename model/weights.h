// weights.h - the memory behind the parameter list.
//
// Pools         one allocation each for master weights, gradients and low-precision copies; every
//               tensor starts on a 256-byte boundary, those whose gradients products make before the rest.
//               `flat_gradients` is all gradients as one view, `flat_masters` all masters, laid out alike: what data
//               parallelism moves between ranks.
// Precision     master and gradient f32. With compute bf16 every product operand also has a bf16
//               copy, which the products read; refresh_low() rounds the masters into it.
// Quantized     parameters of options.quantization are codes and scales (model/weight.h), which products read in place of
//               a low copy. Without gradients they are nothing else: no master. With gradients they are trained:
//               master and gradient are f32 as others' are, and refresh_low() makes the codes of the masters.
// Frozen        weights that are only read need no masters where there is a low copy: with options.masters_dropped
//               they never have any, and drop_masters() gives that memory back. master(i) of a product operand is
//               absent then.
// Shared        with options.layers_shared_by the matrices of layers are held in shares by those ranks
//               (model/shared_layers.h): views of them are of the layer in hand, master() and low() are absent, and only
//               a model's forward and backward may look through them. Codes that are trained stay whole, and
//               refresh_low(), refresh_whole() and refresh_codes() are collectives then. All else is as ever.
// Null device   extents only.
// Threads       one writer at a time.
#pragma once
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/tensor.h"
#include "model/parameters.h"
#include "model/quantization.h"
#include "model/shared_layers.h"

namespace nestling {

struct WeightsOptions {
  DType compute = DType::kF32;  // kF32 or kBF16
  bool gradients = false;
  bool gradients_later = false;  // of those that have them: their memory by take_gradients()
  bool masters_dropped = false;  // with compute bf16 and without gradients
  bool teacher = false;          // how the memory is named
  std::optional<Quantization> quantization = {};
  Comm* layers_shared_by = nullptr;  // borrowed
};

class Weights {
 public:
  Weights(const ModelConfig& config, Device device, const WeightsOptions& options);

  Device device() const { return device_; }
  const ModelConfig& config() const { return config_; }
  const std::vector<ParameterSpec>& specs() const { return specs_; }
  int64_t count() const { return static_cast<int64_t>(specs_.size()); }
  View master(int64_t i);  // absent where dropped, shared, or quantized and not trained
  ConstView master(int64_t i) const { return const_cast<Weights*>(this)->master(i); }
  View grad(int64_t i);  // absent for a buffer, or without gradients
  View low(int64_t i);  // absent in f32, where shared, or where the parameter is no product operand
  // Of a quantized parameter; else absent. What they hold is their owner's to write.
  View codes(int64_t i);  // f8_e4m3 of its shape; NVFP4: u8, half as many in the last dimension
  View block_scales(int64_t i);  // NVFP4: f8_e4m3, a sixteenth
  ConstView codes(int64_t i) const { return const_cast<Weights*>(this)->codes(i); }
  ConstView block_scales(int64_t i) const { return const_cast<Weights*>(this)->block_scales(i); }
  const std::optional<Quantization>& quantization() const { return options_.quantization; }
  // Of what is whole on every rank.
  View flat_gradients() { return grads_.view(); }
  View flat_masters() { return master_.view(); }  // laid out so as long as none were dropped
  int64_t offset(int64_t i) const { return offsets_[static_cast<size_t>(i)]; }  // in both, elements
  int64_t flat_size() const { return flat_size_; }
  std::vector<PlacedParameter> flat_places() const;  // in the order of their offsets
  bool shared(int64_t i) const {
    return shared_ && SharedLayers::holds(specs_[static_cast<size_t>(i)]);
  }
  SharedLayers* shared_layers() { return shared_.get(); }  // or nullptr

  // What the layers read: codes, else the low copy where there is one, else the master.
  Weight weight(int64_t i);
  // Of all. `largest_inputs` [count] f32, on the same device: a place a parameter, raised by products to the largest
  // |activation| they saw (model/layers/product.h); absent: nothing.
  ModelParams<Weight> params(View largest_inputs = {});
  ModelParams<View> grads();

  // Fresh weights by each spec's Init; refreshes the low copies. Of a tensor, `distinct` values are drawn (on the
  // host), and repeat: benchmarks of billions of parameters need no more.
  void initialize(uint64_t seed, int64_t distinct = std::numeric_limits<int64_t>::max());
  // Calls make(values), which writes all of parameter i, f32 on the host, of its shape: in place where its master is
  // there, else beside the weights, to be its master, or the low copy where that is dropped. Low copies of masters are for
  // refresh_low().
  void fill(int64_t i, const std::function<void(View)>& make);
  void refresh_low(Context& ctx);    // and the codes of what is trained
  void refresh_whole(Context& ctx);  // the same of what is whole on every rank
  void refresh_codes(Context& ctx);  // these alone
  void take_gradients();             // once, where options.gradients_later: zeros
  void zero_gradients();
  void zero_gradients_beside_products();  // for a backward with LayerRun::fresh
  void drop_masters();                    // for good; with low copies only
  // Of the same model, on any device. Codes too, or where these are trained those of the masters.
  void take_masters(Context& ctx, const Weights& from);
  // A copy there, without gradients; of what is trained no codes; of shared layers the shares.
  Weights on(Device device, DType compute) const;
  Weights extents() const;          // the same on the null device
  int64_t parameter_count() const;  // trained or not, buffers included
  struct Bytes {
    int64_t masters, gradients, low, codes;
    int64_t in_hand;  // the window on the layer in hand
  };
  Bytes allocated() const;

 private:
  const std::optional<TensorScales>& scales(int64_t i) const;
  void share_layers();
  Tensor kept_masters();
  void take(int64_t i, ConstView values);
  void place_codes();
  void make_codes_of(Context& ctx, int64_t i, ConstView values);
  View at(Tensor& pool, const std::vector<int64_t>& offsets, int64_t i, DType dtype);
  View packed(int64_t offset, int64_t i, DType dtype, int64_t last);
  View expert_scales(int64_t i);
  ModelConfig config_;
  Device device_;
  WeightsOptions options_;
  std::vector<ParameterSpec> specs_;
  bool trains_codes() const { return options_.gradients && options_.quantization; }
  std::vector<int64_t> offsets_;         // elements into masters and gradients
  std::vector<int64_t> low_offsets_;     // into low copies
  std::vector<int64_t> master_offsets_;  // into the masters; the same unless they are dropped
  int64_t flat_size_ = 0;                // elements of masters and of gradients
  int64_t beside_products_ = 0;          // where gradients begin that no product makes
  bool dropped_ = false;
  Tensor master_, grads_, low_;
  std::unique_ptr<SharedLayers> shared_;
  struct CodePlaces {
    int64_t codes = 0, block_scales = 0, expert_scales = 0;  // bytes into codes_
  };
  std::vector<CodePlaces> code_places_;  // empty where nothing is quantized
  Tensor codes_;
};

}  // namespace nestling
