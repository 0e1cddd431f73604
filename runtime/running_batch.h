// running_batch.h - sequences that one size runs together: they join and leave between steps.
//
// Use           join, then draw, leave and step in turn. A sequence that leaves gives its row to
//               the last one.
// Prompts       in pieces, where BatchOptions say so: the first when it joins, then one a step, beside the tokens of
//               the others. A sequence is drawn for once all of it has been run. One whose options ask for the logits
//               of its prompt is run whole.
// Drafts        where BatchOptions name a size, steps in which every sequence has had its first token drawn look
//               at what that size proposes too, and give several tokens at once (drafter.h).
// Size          the one selected when the batch is made.
// Ownership     borrows context, model and sequences; a sequence stays where it is while it is
//               here.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "runtime/drafter.h"
#include "runtime/sequence.h"

namespace nestling {

struct BatchOptions {
  int64_t piece = 0;  // tokens of prompts in one forward, of all sequences together; 0: any number
  std::optional<Size> draft = {};  // that proposes
  int64_t drafts = 4;              // tokens, at most
};

class RunningBatch {
 public:
  // At most `rows` sequences of `capacity` tokens.
  RunningBatch(Context& ctx, LoadedModel& model, int64_t rows, int64_t capacity,
               const BatchOptions& options = {});

  bool empty() const { return sequences_.empty(); }
  int64_t free_rows() const { return decoder_.free_rows(); }
  // All they have so far, or the first piece of it, in one forward; in another those whose options ask for the logits
  // of their prompts.
  void join(const std::vector<Sequence*>& some);
  void draw();  // the next token of each that has been run
  using Leaves = std::function<bool(const Sequence&)>;
  // Those that are over, or that `leaves` holds of, leave.
  std::vector<Sequence*> leave(const Leaves& leaves);
  // Runs what has been drawn of each. With drafts it draws, too: no more of one that is over or that `leaves` holds of.
  void step(const Leaves& leaves);

 private:
  using Tokens = std::vector<std::vector<int32_t>>;  // of every sequence
  void enter(const std::vector<Sequence*>& some, bool shown);
  Tokens next_pieces() const;
  int64_t drafts_now(const Tokens& more) const;
  void step_with_drafts(const Tokens& more, int64_t drafts, const Leaves& leaves);

  BatchOptions options_;
  Decoder decoder_;
  std::optional<Drafter> drafter_;
  std::vector<Sequence*> sequences_;  // one a row
};

}  // namespace nestling
