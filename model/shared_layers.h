// shared_layers.h - the matrices of layers, held by ranks in shares and brought together a layer at a time: stage 3 of
// ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), known as fully sharded data parallelism.
//
// What          every parameter of a layer that products read (ParameterSpec::product). Of its master, low copy and
//               gradient a rank holds its share (shares.h). Norms, convolutions, gates and all that lies outside of layers
//               stay whole, in Weights.
// In hand       one window shows the values of one layer, as products read them, another its gradients in f32. Views
//               of every layer are into the same windows: bring() makes them those of one layer.
// Codes         of a parameter that is trained as codes (options.codes) the values are nowhere in hand: layers read its
//               codes, which are whole on every rank (model/weights.h). A layer that has no others is not brought.
// Gradients     backward adds to the window after clear_gradients(); add_gradients() sums it over the ranks, in their
//               order, and adds that to the shares.
// Ranks         bring, add_gradients and gather are collectives, the same calls in the same order on every rank. Sizes are
//               drawn alike on all ranks: a layer that a size leaves out is left out by all.
// Layout        the shares of all layers of a rank lie one behind another: masters(), low(), gradients() alike.
// Ownership     owns shares and windows; borrows the communicator.
// Determinism   values are moved, never changed; the same ranks give the same bits.
// Threads       one at a time. Null device: extents, and the collectives are counted.
#pragma once
#include <span>
#include <vector>

#include "kernels/comm/comm.h"
#include "kernels/core/tensor.h"
#include "model/parameters.h"
#include "model/shares.h"

namespace nestling {

struct SharedLayersOptions {
  DType compute = DType::kF32;   // kF32 or kBF16: of the window
  bool gradients = false;        // their memory but for the window by take_gradients()
  bool teacher = false;          // how the memory is named
  std::vector<bool> codes = {};  // of every parameter; empty: none
};

class SharedLayers {
 public:
  SharedLayers(std::span<const ParameterSpec> specs, Device device,
               const SharedLayersOptions& options, Comm& comm);

  // Whether a parameter is one that ranks share; only of those may the rest be asked.
  static bool holds(const ParameterSpec& spec) { return spec.product && spec.layer >= 0; }

  View value(int64_t i);  // of the window
  View grad(int64_t i);   // of the window of gradients; absent without
  void bring(Context& ctx, size_t layer);
  void clear_gradients(Context& ctx, size_t layer);
  void add_gradients(Context& ctx, size_t layer);

  // This rank's shares, [size()]; absent where there are none.
  View masters() { return masters_.view(); }
  View low() { return low_.view(); }
  View gradients() { return gradients_.view(); }
  int64_t size() const { return size_; }
  struct Run {
    ParameterRun of;
    int64_t at;  // in the shares
  };
  const std::vector<Run>& runs() const { return runs_; }  // by layer

  void take_gradients();  // zeros
  void zero_gradients();
  void drop_masters();  // where there are low copies
  // f32 on the host, all of parameter i: what of it this rank holds becomes its master.
  void take(int64_t i, ConstView values);
  void take_masters(Context& ctx, const SharedLayers& from);  // of the same ranks
  void refresh_low(Context& ctx);

  // A layer of what is laid out as masters(), in the memory of the gradients' window, where grad(i) shows it.
  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
  const std::vector<PlacedParameter>& places(int64_t layer) const;
  void gather(Context& ctx, ConstView shares, int64_t layer);

  struct Bytes {
    int64_t masters, low, gradients;  // of gradients the window too
    int64_t in_hand;
  };
  Bytes allocated() const;

 private:
  struct Layer {
    std::vector<PlacedParameter> places;
    int64_t total = 0;
    bool brought = false;       // holds what is not codes
    std::vector<Share> shares;  // one a rank
    int64_t at = 0;             // of this rank's share, in the shares of all layers
  };
  Layer& layer(int64_t l) { return layers_.at(static_cast<size_t>(l)); }
  const Share& own(const Layer& l) const { return l.shares[static_cast<size_t>(comm_->rank())]; }
  std::vector<View> pieces(View window, const Layer& l) const;
  View shaped(View window, int64_t i) const;

  std::vector<ParameterSpec> specs_;
  Device device_;
  SharedLayersOptions options_;
  Comm* comm_;
  std::vector<Layer> layers_;
  std::vector<int64_t> offsets_;  // of every parameter in its layer; -1: not one of these
  std::vector<Run> runs_;
  int64_t size_ = 0;  // elements of the shares
  Tensor masters_, low_, gradients_;
  Tensor window_, gradient_window_;  // of the largest layer
};

}  // namespace nestling
