// decoder.h - sequences being decoded: their caches, and the logits behind their last tokens.
//
// Use           prefill once, or step from the start; then sample and step in turn. More tokens than
//               one go on from the caches in one forward (extend), also such of which only some will
//               stand (attempt). Others may join, between steps, in the rows of those that were dropped.
// Size          the one selected when the decoder is made, or the one it is given; another needs another
//               decoder, and both go on beside each other.
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

// What attempt asks: `drawn` behind every token, in the order they were given, and the logits [V] f32, in host memory,
// that the one in this place was drawn from, valid until the next. Returns how many tokens of each sequence stand.
using LogitsOfPlace = std::function<ConstView(int64_t place)>;
using Stand = std::function<std::vector<int32_t>(std::span<const int32_t> drawn,
                                                 const LogitsOfPlace& logits)>;

// Tokens of a prompt whose logits exist at once, where they are asked for.
inline constexpr int64_t kLogitTokens = 256;
// Logits [n, V] f32, in host memory, behind tokens `first`... of a prompt; valid during the call.
using OnPromptLogits = std::function<void(size_t prompt, int64_t first, ConstView logits)>;

class Decoder {
 public:
  // At most `capacity` tokens a sequence.
  Decoder(Context& ctx, LoadedModel& model, int64_t batch, int64_t capacity)
      : Decoder(ctx, model, model.selected().widths, batch, capacity) {}
  Decoder(Context& ctx, LoadedModel& model, const Widths& widths, int64_t batch, int64_t capacity);

  void prefill(const std::vector<std::vector<int32_t>>& prompts);  // one a sequence, none empty
  // More sequences, behind those there: one forward over their prompts.
  void join(const std::vector<std::vector<int32_t>>& prompts,
            const OnPromptLogits& on_logits = nullptr);
  void step(std::span<const int32_t> tokens);  // one more token each
  // More tokens of every sequence, none empty: one token each is a step, else one forward over all.
  void extend(const std::vector<std::vector<int32_t>>& more);
  // The same forward over tokens of which the first few of each sequence stand, one at least, as `stand` says once it
  // has seen what is drawn behind them; the others were never run. `draws`: one a token, a sequence's one behind the
  // other. What is to be sampled next was drawn here: sample() needs another step.
  void attempt(const std::vector<std::vector<int32_t>>& more, std::span<const Draw> draws,
               const Stand& stand);
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
  // Every sequence as it is now, in a slot; and sequence b as it was then (decode_state.h). sample() needs another step.
  void remember(size_t slot) { state_.remember(ctx_, slot); }
  void go_back(int64_t b, size_t slot) { state_.go_back(ctx_, b, slot); }
  int64_t free_rows() const { return state_.free_rows(); }
  int64_t length(int64_t sequence) const { return state_.lengths()[static_cast<size_t>(sequence)]; }
  int64_t capacity() const { return state_.capacity(); }

 private:
  LayerRun run_over(const Segments& segments, Arena& arena);
  void check_more(const std::vector<std::vector<int32_t>>& more) const;
  void keep_last(const Segments& segments, ConstView normed, int64_t first);
  void draw(View tokens, View logits, std::span<const Draw> draws);
  ConstView on_host(View logits, int64_t row);

  Context& ctx_;
  LoadedModel& model_;
  ModelParams<Weight> params_;
  int64_t batch_;
  DecodeState state_;
  std::vector<int32_t> sampled_;  // [B] the newest of each; of an attempt all
  Tensor tokens_;                 // [B] i32, the same on the device; B of the start, as below
  Tensor normed_;                 // [B, D]
  Tensor logits_;                 // [B, V]
  Tensor host_logits_;            // [V], of a device's
  Arena arena_;                   // of a forward behind the caches
};

}  // namespace nestling
