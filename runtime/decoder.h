// decoder.h - sequences being decoded: their caches, and the logits behind their last tokens.
//
// Use           prefill once, or step from the start; then sample and step in turn. prefill needs
//               empty caches: tokens that come later are run one by one. Others may join, between
//               steps, in the rows of those that were dropped.
// Size          the one selected when the decoder is made; another needs another decoder.
// Ownership     borrows context and model.
// Determinism   the same tokens in the same calls: same bits; prefill and step, and batches of
//               other sizes, differ by rounding.
#pragma once
#include <functional>
#include <vector>

#include "kernels/ops/sample.h"
#include "runtime/decode_state.h"
#include "runtime/loaded_model.h"

namespace nestling {

// How one sequence's next token is drawn.
struct Draw {
  SamplingRule rule;
  uint64_t seed = 0, stream = 0, position = 0;
};

// Logits [n, V] f32, in host memory, behind tokens `first`... of a prompt; valid during the call.
using OnPromptLogits = std::function<void(size_t prompt, int64_t first, ConstView logits)>;

class Decoder {
 public:
  // At most `capacity` tokens a sequence.
  Decoder(Context& ctx, LoadedModel& model, int64_t batch, int64_t capacity);

  void prefill(const std::vector<std::vector<int32_t>>& prompts);  // one a sequence, none empty
  // More sequences, behind those there: one forward over their prompts.
  void join(const std::vector<std::vector<int32_t>>& prompts,
            const OnPromptLogits& on_logits = nullptr);
  void step(std::span<const int32_t> tokens);  // one more token each
  // The next token of every sequence; it is not run. Valid until the next call.
  std::span<const int32_t> sample(const SamplingRule& rule, uint64_t seed,
                                  std::span<const uint64_t> streams, uint64_t position);
  // The same, where every sequence has a rule of its own. [B]
  std::span<const int32_t> sample(std::span<const Draw> draws);
  // What sequence b's newest token was drawn from, [V] f32 in host memory; valid until the next
  // call.
  ConstView logits(int64_t b);
  // Sequence b is over: the last one takes its place, and the batch is one smaller.
  void drop(int64_t b);
  void clear();  // all are
  int64_t free_rows() const { return state_.free_rows(); }
  int64_t length(int64_t sequence) const { return state_.lengths()[static_cast<size_t>(sequence)]; }
  int64_t capacity() const { return state_.capacity(); }

 private:
  Context& ctx_;
  LoadedModel& model_;
  ModelParams<Weight> params_;
  int64_t batch_;
  DecodeState state_;
  std::vector<int32_t> sampled_;  // [B] the newest of each
  Tensor tokens_;                 // [B] i32, the same on the device; B of the start, as below
  Tensor normed_;                 // [B, D]
  Tensor logits_;                 // [B, V]
  Tensor host_logits_;            // [V], of a device's
};

}  // namespace nestling
