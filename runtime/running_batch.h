// running_batch.h - sequences that one size runs together: they join and leave between steps.
//
// Use           join, then draw, leave and step in turn. A sequence that leaves gives its row to
//               the last one.
// Size          the one selected when the batch is made.
// Ownership     borrows context, model and sequences; a sequence stays where it is while it is
//               here.
#pragma once
#include <functional>
#include <vector>

#include "runtime/sequence.h"

namespace nestling {

class RunningBatch {
 public:
  // At most `rows` sequences of `capacity` tokens.
  RunningBatch(Context& ctx, LoadedModel& model, int64_t rows, int64_t capacity);

  bool empty() const { return sequences_.empty(); }
  int64_t free_rows() const { return decoder_.free_rows(); }
  // All they have so far, in one forward; in another those whose options ask for the logits of
  // their prompts.
  void join(const std::vector<Sequence*>& some);
  void draw();  // the next token of each
  // Those that are over, or that `leaves` holds of, leave.
  std::vector<Sequence*> leave(const std::function<bool(const Sequence&)>& leaves);
  void step();  // runs one token more of each

 private:
  void enter(const std::vector<Sequence*>& some, bool shown);

  Decoder decoder_;
  std::vector<Sequence*> sequences_;  // one a row
};

}  // namespace nestling
