// linear.h - y = x W^T, and its two gradients.
//
// Shapes        x [T, K]   w [N, K]   y [T, N]      T tokens, K in, N out
// Dtypes        w f32:  x, y f32 (on CUDA x may be bf16, and is widened); products in f32.
//               w bf16: products bf16 x bf16 with f32 sums. An f32 x or dy is rounded to bf16 first (to
//               nearest even); y and dx may be f32 or bf16. A CPU without bf16 products multiplies the same
//               rounded operands in f32: the same products, added in another order.
//               dw is always f32.
// Elasticity    K and N come from the views. Pass w.prefix(0, n).prefix(1, k) to run a smaller
//               model: nothing is copied, and a gradient view cut the same way leaves its
//               surroundings untouched.
// Alignment     any; CUDA is fastest where base pointers and row pitches are multiples of 16 bytes.
// Determinism   Same inputs, shapes, threads and device: same bits.
#pragma once
#include <memory>

#include "kernels/core/context.h"
#include "kernels/core/view.h"

namespace nestling {

struct LinearForward {
  View y;                   // [T, N] overwritten, unless accumulate
  ConstView x;              // [T, K]
  ConstView w;              // [N, K]
  ConstView bias = {};      // [N]    f32, optional
  bool accumulate = false;  // y += instead of y = (y f32)
};

struct LinearBackward {
  View dx = {};     // [T, K] overwritten, unless accumulate_dx; leave out where not needed
  View dw = {};     // [N, K] accumulated, unless told otherwise; leave out for a frozen weight
  View dbias = {};  // [N]    accumulated
  ConstView dy;     // [T, N]
  ConstView x;      // [T, K] saved by forward
  ConstView w;      // [N, K]
  bool accumulate_dx = false;
  bool accumulate_dw = true;  // false: overwritten, whatever it held
};

void linear_forward(Context& ctx, const LinearForward& a);
void linear_backward(Context& ctx, const LinearBackward& a);

// A frozen weight packed once into the layout that suits the CPU's products. w is copied: it may be freed once
// the constructor returns. A narrower prefix needs a PackedWeight of its own.
class PackedWeight {
 public:
  PackedWeight(Context& ctx, ConstView w);  // w [N, K] f32 or bf16
  ~PackedWeight();
  PackedWeight(PackedWeight&&) noexcept;
  PackedWeight& operator=(PackedWeight&&) noexcept;
  // y [T, N] = x [T, K] W^T, by the rules of linear_forward.
  void forward(Context& ctx, View y, ConstView x) const;
  int64_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

namespace cpu {
void run(Context& ctx, const LinearForward& a);
void run(Context& ctx, const LinearBackward& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const LinearForward& a);
void run(Context& ctx, const LinearBackward& a);
}  // namespace cuda

}  // namespace nestling
