// decode_state.h - what decoding carries from token to token for B sequences: convolution windows,
// SSM states, keys and values.
//
// Types         keys and values as the forward that fills them has its activations; the rest f32.
// Shapes        read off the weight views, so a smaller size has smaller caches.
// Memory        one allocation a tensor; keys and values for `capacity` tokens a sequence. What a
//               sequence that is over leaves is a free row, for one that joins: nothing is
//               allocated.
// Threads       one at a time.
#pragma once
#include <vector>

#include "kernels/core/tensor.h"
#include "model/layers/layer.h"

namespace nestling {

class DecodeState {
 public:
  DecodeState(Device device, const ModelConfig& config, const ModelParams<Weight>& w, int64_t batch,
              int64_t capacity, DType activations = DType::kF32);

  const std::vector<LayerCache>& caches() const { return caches_; }
  std::span<const int32_t> lengths() const { return lengths_; }
  int64_t batch() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t bytes() const;

  // The tokens of `segments` have just gone through a forward that filled the caches: those of the
  // last segments.count() sequences.
  void set_lengths(const Segments& segments);
  // One more token each, or counts[b] of sequence b; throws when a sequence is beyond capacity.
  void advance();
  void advance(std::span<const int32_t> counts);
  // What convolutions and scans carry, and the lengths, are kept as they are now, in one of a few
  // slots; and sequence b goes back to that: its keys and values behind are overwritten by what comes.
  // A slot takes its memory when first used, and means nothing once a sequence joins or is dropped.
  void remember(Context& ctx, size_t slot);
  void go_back(Context& ctx, int64_t b, size_t slot);
  // Sequence b is over: the last one takes its place, and the batch is one smaller.
  void drop(Context& ctx, int64_t b);
  // All are over.
  void clear();
  // `count` more sequences of length 0, behind those there: their caches, which a forward is to
  // fill; what they hold until then is of sequences before. Throws where fewer rows are free.
  std::vector<LayerCache> join(int64_t count);
  int64_t free_rows() const { return rows_ - batch(); }
  void reset();  // zero state, length 0

 private:
  struct Slot {
    std::vector<LayerCache> states;  // of all rows; no keys and values
    std::vector<int32_t> lengths;
  };
  View take(DType dtype, std::initializer_list<int64_t> shape);
  Slot take_slot();
  Device device_;
  int64_t rows_, capacity_;
  std::vector<Tensor> memory_;
  std::vector<LayerCache> whole_;   // of all rows
  std::vector<LayerCache> caches_;  // of the sequences there
  std::vector<int32_t> lengths_;
  std::vector<Slot> slots_;
};

}  // namespace nestling
