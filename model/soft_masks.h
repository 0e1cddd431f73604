// soft_masks.h - the masks of a model from the probabilities of its choices, and back.
//
//   m_e = sum of p_i over the choices i wider than e      (of kLayers: than the layer's rank)
//
// A mask of two axes is the product of theirs: Mamba heads and channels, hidden channels and the
// probability that the layer is kept. An axis with one choice has no mask.
//
// Order         of the choices of an axis, and of the axes: no difference in any bit. One-hot
//               probabilities give exact zeros and ones.
// Precision     masks and gradients are f32 on the device; sums over units and choices in double.
// Draws         a step sets one draw after another and waits for none: the masks of the draw before are
//               overwritten behind the kernels that read them, its gradients lie where the caller
//               said, and backward() of every draw may come when the step is over.
// Ownership     owns the masks, and the views of masks() live as long as it does; gradients are the
//               caller's.
// Errors        two lists for one axis of one layer throw.
#pragma once
#include <functional>

#include "kernels/core/context.h"
#include "model/choices.h"
#include "model/masks.h"

namespace nestling {

class SoftMasks {
 public:
  SoftMasks(ElasticSpace space, Device device);  // as if every choice were the parent's

  void set(Context& ctx, const Probabilities& p);  // one vector for each of the space's axes
  const ModelMasks& masks() const { return masks_; }

  int64_t size() const { return size_; }  // of the gradients of one draw, floats
  // Where backward passes accumulate those of a draw: `gradients` [size()] f32, zero at first.
  ModelMaskGrads grads(View gradients) const;
  // Adds the gradients of the probabilities p; `gradients` [size()] f32 are those of their masks, on
  // the host. From the null device: zeros.
  void backward(const Probabilities& p, ConstView gradients, Probabilities& dp) const;

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
  // The field that is a product, in the masks and in their gradients, of rank 1 or 2.
  struct Place {
    int rank;
    std::function<ConstView&(ModelMasks&)> mask;
    std::function<View&(ModelMaskGrads&)> gradient;
  };
  // Nothing where no factor has an axis: the field stays absent.
  template <class Field>
  void add(Product product, int rank, Field field);
  View shaped(View pool, size_t product) const;
  Probabilities units(const Probabilities& p) const;  // the mask of every axis, one value a unit
  std::vector<float> values(const Probabilities& p) const;
  double value(const Factor& f, const Probabilities& units, int64_t i) const;
  void fill(const Product& p, const Probabilities& units, float* to) const;
  // dunits += the gradients of the units of p's factors.
  void spread(const Product& p, const Probabilities& units, const float* gradient,
              Probabilities& dunits) const;

  ElasticSpace space_;
  std::vector<Product> products_;
  std::vector<Place> places_;  // one a product
  int64_t size_ = 0;
  Tensor values_;  // of all products: one copy to the device
  ModelMasks masks_;
};

}  // namespace nestling
