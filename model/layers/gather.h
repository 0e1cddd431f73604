// gather.h - a weight two of whose dims a product reads as one, also where they are not one run.
//
// Runs          dims `first` and `first` + 1 of a weight are merged: [H, P, D] to [H*P, D], [D, H, P]
//               to [D, H*P], [H, P] to [H*P]. Of every axis but head channels a prefix leaves them
//               one run, and merging is a reshape. A prefix of the channels P leaves H runs.
// Gathered      those runs are copied to the context's scratch, the gradient is accumulated there
//               and copied back. The caller's Mark on the scratch gives the memory back.
// Cost          of head channels below the parent's, and of nothing else: every gathered weight is
//               read and written once more in forward and in backward, and its gradient read and
//               written twice, whatever the number of tokens. Against the 2 T (forward) and 4 T
//               (backward) operations an element of the product, that is 1% from some hundred tokens
//               on; a one-token step moves three times the bytes of those weights. The context counts
//               it as "gather".
// Determinism   the sums are those of the model cut out.
#pragma once
#include "kernels/core/context.h"
#include "model/weight.h"

namespace nestling {

// The merged view: of w itself where that is one run, else of a copy in the scratch. Absent stays
// absent.
ConstView merge_or_gather(Context& ctx, ConstView w, int first = 0);
Weight merge_or_gather(Context& ctx, const Weight& w,
                       int first = 0);  // codes as values, and their blocks' scales

class GatheredGradient {
 public:
  GatheredGradient(Context& ctx, View gradient, int first = 0);
  View merged() const { return merged_; }  // to accumulate into
  void store() const;                      // once that is done

 private:
  Context& ctx_;
  View gradient_;
  View copy_ = {};  // absent: merged_ is the gradient itself
  View merged_ = {};
};

}  // namespace nestling
