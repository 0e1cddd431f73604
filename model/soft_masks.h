// soft_masks.h - the masks of a model from the probabilities of its choices, and back (DESIGN law 5).
//
//   m_e = sum of p_i over the choices i wider than e      (of kLayers: than the layer's rank)
//
// A mask of two axes is the product of theirs: Mamba heads and channels, hidden channels and the
// probability that the layer is kept. An axis with one choice has no mask.
//
// Order         of the choices of an axis, and of the axes: no difference in any bit. One-hot
//               probabilities give exact zeros and ones.
// Precision     masks and gradients are f32 on the device; sums over units and choices in double.
// Ownership     owns masks and gradients; the views of masks() and grads() live as long as it does.
// Errors        two lists for one axis of one layer throw.
#pragma once
#include "model/choices.h"
#include "model/masks.h"

namespace nestling {

class SoftMasks {
 public:
  SoftMasks(ElasticSpace space, Device device);  // as if every choice were the parent's

  void set(const Probabilities& p);  // one vector for each of the space's axes
  const ModelMasks& masks() const { return masks_; }
  const ModelMaskGrads& grads() const { return grads_; }
  void zero_gradients();
  // Adds the gradients of the probabilities `set` was given.
  void backward(Probabilities& dp);

 private:
  // `extent` units of one of the space's axes from unit `begin` on; no axis: ones.
  struct Factor {
    int64_t axis = -1;
    int64_t begin = 0, extent = 1;
  };
  // The mask a b^T [a.extent, b.extent], or the scaled sum of its elements.
  struct Product {
    Factor a = {}, b = {};
    bool sum = false;
    double scale = 1;
    int64_t at = 0;  // where its elements begin in the pools
    int64_t size() const { return sum ? 1 : a.extent * b.extent; }
  };

  int64_t find(Axis axis, int64_t layer) const;  // -1: one choice
  void check_once() const;
  void plan_layer(int64_t layer);
  // Where a product's views go; absent where no factor has an axis. `rank` of the views is 1 or 2.
  struct Place {
    int rank;
    ConstView* mask;
    View* gradient;
  };
  void add(Product product, int rank, ConstView& mask, View& gradient);
  void allocate();
  double value(const Factor& f, int64_t i) const;
  void fill(const Product& p, float* to) const;
  // units += the gradients of the units of p's factors.
  void spread(const Product& p, const float* gradient, Probabilities& units) const;

  ElasticSpace space_;
  Device device_;
  std::vector<Product> products_;
  std::vector<Place> places_;  // one a product
  Tensor values_, gradients_;  // of all products: one copy to the device, one back
  Probabilities units_;        // the mask of every axis, one value a unit
  ModelMasks masks_;
  ModelMaskGrads grads_;
};

}  // namespace nestling
