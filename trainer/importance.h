// importance.h - how much every unit of every axis matters, from what the parent's own forward computes.
//
// Each score is a mean over calibration tokens (sums and counts are kept, in double); larger is more
// important. Sources: Nemotron Elastic (arXiv 2511.16664, eq. 1-5), REAP (arXiv 2510.13999, eq. 9),
// ModelOpt's hooks where these are silent. |.| of the activation with the axis, namely:
//
//   hidden          output of every norm, the final one too, summed over norms: one global order
//   mamba_channels  s = the x part of in_proj, before the convolution, [H, P]: L2 over heads of mean |s|
//   mamba_heads     L2 over channels of mean |s|, over the best `head_channels` of them
//   state           length of what the component adds to the scan's output (kernels/ops/state_score.h)
//   query_heads     attention output before o_proj: L2 over head_dim of mean |y|
//   ffn, shared_ffn after the nonlinearity, where the down product reads
//   expert_ffn      the same over the tokens routed to the expert
//   experts         REAP: mean over routed tokens of gate weight x L2 norm of the expert's output, the
//                   weights as the architecture normalises them
//   depth           1 - cosine(residual stream before, after the layer); the greedy search of
//                   trainer/depth_search.h replaces it
//
// An expert no token was routed to has score 0, and so have its channels: least important.
// Device        sums are made and kept where the activations are, f32 or bf16; a score fetches them.
// Ownership     borrows the context, on whose device the activations must be.
// Determinism   same activations in the same calls: same bits, on the CPU with any number of threads.
#pragma once
#include <map>

#include "kernels/comm/comm.h"
#include "model/model.h"
#include "model/units.h"

namespace nestling {

class Importance {
 public:
  Importance(Context& ctx, const ModelConfig& config);

  // Of a forward of the whole parent on `w` over these segments: every layer in turn, as LayerWatch sees it, then the end.
  void add_layer(size_t layer, const LayerActs& acts, ConstView output,
                 const ModelParams<Weight>& w, const Segments& segments);
  void add_end(const NormActs& final_norm, const Segments& segments);
  // The same of activations that were all kept.
  void add(const ModelActs& acts, const ModelParams<Weight>& w, const Segments& segments);
  void all_reduce(Comm& comm);

  int64_t tokens() const { return tokens_; }
  // Tokens routed to each expert of a layer.
  std::vector<double> routed(int64_t layer) const { return values(layer, Sum::kRouted); }
  // `head_channels`: of the best ranked, those heads are ranked by; 0: all.
  Scores scores(int64_t head_channels = 0) const;

 private:
  enum class Sum : uint8_t {
    kHidden,
    kChange,
    kMamba,
    kState,
    kQuery,
    kFfn,
    kExperts,
    kRouted,
    kExpertFfn,
    kSharedFfn
  };
  struct Block {
    int64_t begin, size;
  };
  void make(int64_t layer, Sum sum, int64_t size);
  View at(int64_t layer, Sum sum);
  std::vector<double> values(int64_t layer, Sum sum) const;
  std::vector<double> mean(int64_t layer, Sum sum) const;  // over all tokens
  void add_magnitudes(int64_t layer, Sum sum, ConstView x);
  void add_mamba(int64_t layer, const MambaActs& a, const MambaParams<Weight>& w,
                 const Segments& segments);
  void add_moe(int64_t layer, const MoeActs& a);
  std::map<Axis, std::vector<double>> mamba_scores(int64_t layer, int64_t head_channels) const;
  std::map<Axis, std::vector<double>> moe_scores(int64_t layer) const;

  Context& ctx_;
  ModelConfig config_;
  std::map<std::pair<int64_t, Sum>, Block> blocks_;  // layer -1: of the model
  int64_t size_ = 0;
  Tensor sums_;  // f64: all blocks
  int64_t tokens_ = 0;
  int64_t layers_added_ = 0;  // of the forward in hand
};

}  // namespace nestling
