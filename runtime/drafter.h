// drafter.h - a smaller size that runs ahead of the one that decides: it proposes the tokens that may come next, and the
// other looks at all of them in one forward (speculative decoding: Leviathan et al., arXiv 2211.17192).
//
// Agreement     both draw with the same random number behind the same text, so the smaller size proposes what
//               the other is likely to draw. A proposal stands where it is what the other draws there; the first that
//               is not is replaced by that. So a text is the one that is drawn without drafts, by whatever rule, up to
//               the roundings of generator.h, and no distribution is corrected.
// Caches        its own, of its own size; the weights are those of the one file. Keys and values that do not stand are
//               overwritten; states go back to a copy (decode_state.h), one for every token that it is ahead.
// Use           the sequences are those of the decoder that decides, row by row: join, run, propose and drop follow
//               what that does.
// Ownership     borrows context and model.
// Errors        kInput: a draft size that is not in what is open, or not smaller than the size it is for.
#pragma once
#include <functional>
#include <vector>

#include "runtime/decoder.h"
#include "runtime/thinking.h"

namespace nestling {

struct DraftControl {
  std::string size = {};  // by name or budget; empty: no drafts
  int64_t tokens = 4;     // that it is ahead, at most
};

// The size that `control` names; it may also be one of `sizes`, which then runs without drafts.
std::optional<Size> draft_size(const LoadedModel& model, const DraftControl& control,
                               const ThinkingSizes& sizes);

class Drafter {
 public:
  Drafter(Context& ctx, LoadedModel& model, const Size& size, int64_t rows, int64_t capacity);

  void join(const std::vector<std::vector<int32_t>>& prompts);
  void run(const std::vector<std::vector<int32_t>>& more);  // of every sequence
  // Runs `more` of every sequence, and says which `count` >= 1 tokens may come behind it. draw(b, i): how the i-th of
  // sequence b is drawn.
  using DrawOf = std::function<Draw(size_t b, int64_t i)>;
  std::vector<std::vector<int32_t>> propose(const std::vector<std::vector<int32_t>>& more,
                                            int64_t count, const DrawOf& draw);
  // Of what it proposed for sequence b, the first counts[b] became tokens.
  void agree(const std::vector<int64_t>& counts);
  void drop(int64_t b);

 private:
  std::vector<std::vector<int32_t>> with_unseen(const std::vector<std::vector<int32_t>>& more);

  Decoder decoder_;
  std::vector<std::vector<int32_t>>
      unseen_;  // tokens of each that it has not run: its last proposal
  std::vector<std::vector<int32_t>> proposed_;
};

}  // namespace nestling
