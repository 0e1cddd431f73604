#include "runtime/running_batch.h"

#include <algorithm>
#include <limits>

namespace nestling {

RunningBatch::RunningBatch(Context& ctx, LoadedModel& model, int64_t rows, int64_t capacity,
                           const BatchOptions& options)
    : options_(options), decoder_(ctx, model, rows, capacity) {
  decoder_.clear();
  if (options.draft && options.draft->widths != model.selected().widths)
    drafter_.emplace(ctx, model, *options.draft, rows, capacity);
}

void RunningBatch::join(const std::vector<Sequence*>& some) {
  std::vector<Sequence*> plain, shown;
  for (Sequence* s : some) (s->shows_prompt() ? shown : plain).push_back(s);
  enter(plain, false);
  enter(shown, true);
}

void RunningBatch::enter(const std::vector<Sequence*>& some, bool shown) {
  if (some.empty()) return;
  Tokens begun;
  int64_t left =
      options_.piece > 0 && !shown ? options_.piece : std::numeric_limits<int64_t>::max();
  for (Sequence* s : some) {
    begun.push_back(s->enter(std::max<int64_t>(left, 1)));
    left -= std::ssize(begun.back());
  }
  const OnPromptLogits show = [&](size_t i, int64_t first, ConstView logits) {
    some[i]->options().on_prompt(some[i]->index(), first, logits);
  };
  decoder_.join(begun, shown ? show : nullptr);
  if (drafter_) drafter_->join(begun);
  sequences_.insert(sequences_.end(), some.begin(), some.end());
}

void RunningBatch::draw() {
  if (std::ranges::none_of(sequences_, [](const Sequence* s) { return s->all_run(); })) return;
  std::vector<Draw> draws;
  for (const Sequence* s : sequences_) draws.push_back(s->next_draw());
  const auto drawn = decoder_.sample(draws);
  for (size_t r = 0; r < sequences_.size(); ++r)
    if (sequences_[r]->all_run())
      sequences_[r]->take(drawn[r], [&] { return decoder_.logits(static_cast<int64_t>(r)); });
}

std::vector<Sequence*> RunningBatch::leave(const Leaves& leaves) {
  std::vector<Sequence*> left;
  for (size_t r = sequences_.size(); r-- > 0;) {
    if (!sequences_[r]->over() && !leaves(*sequences_[r])) continue;
    decoder_.drop(static_cast<int64_t>(r));
    if (drafter_) drafter_->drop(static_cast<int64_t>(r));
    left.push_back(sequences_[r]);
    sequences_[r] = sequences_.back();
    sequences_.pop_back();
  }
  return left;
}

// One token of each, and of those that have more as many as a piece holds, the first first.
RunningBatch::Tokens RunningBatch::next_pieces() const {
  int64_t left = options_.piece > 0 ? options_.piece : std::numeric_limits<int64_t>::max();
  Tokens more;
  for (const Sequence* s : sequences_) {
    const auto all = s->to_run();
    NESTLING_CHECK(!all.empty(), "a step of a sequence that nothing was drawn for");
    const auto count = std::clamp<int64_t>(std::ssize(all), 1, std::max<int64_t>(left, 1));
    left -= count;
    more.emplace_back(all.begin(), all.begin() + count);
  }
  return more;
}

// As many as the caches of all, and the room of any, hold; none while a prompt is run in pieces.
int64_t RunningBatch::drafts_now(const Tokens& more) const {
  if (!drafter_) return 0;
  int64_t fits = options_.drafts, room = 0;
  for (size_t r = 0; r < sequences_.size(); ++r) {
    const Sequence& s = *sequences_[r];
    if (more[r].size() < s.to_run().size()) return 0;
    fits = std::min(
        fits, decoder_.capacity() - decoder_.length(static_cast<int64_t>(r)) - std::ssize(more[r]));
    room = std::max(room, s.room() - 1);  // the last one of a step is drawn, not proposed
  }
  return std::min(fits, room);
}

void RunningBatch::step(const Leaves& leaves) {
  if (empty()) return;
  const Tokens more = next_pieces();
  if (const int64_t drafts = drafts_now(more); drafts > 0)
    return step_with_drafts(more, drafts, leaves);
  decoder_.extend(more);
  if (drafter_) drafter_->run(more);
  for (size_t r = 0; r < sequences_.size(); ++r) sequences_[r]->ran(more[r].size());
}

namespace {

// Takes what was drawn behind the tokens of a sequence and behind its proposals, as long as these are what was drawn:
// how many were.
int64_t take_agreed(Sequence& s, std::span<const int32_t> drawn, std::span<const int32_t> proposed,
                    const RunningBatch::Leaves& leaves, const LogitsOfPlace& logits) {
  for (size_t i = 0;; ++i) {
    s.take(drawn[i], [&] { return logits(static_cast<int64_t>(i)); });
    const bool goes_on = i < proposed.size() && drawn[i] == proposed[i] && !s.over() &&
                         s.to_run().size() == 1 && !leaves(s);
    if (!goes_on) return static_cast<int64_t>(i);
    s.ran(1);
  }
}

}  // namespace

void RunningBatch::step_with_drafts(const Tokens& more, int64_t drafts, const Leaves& leaves) {
  const Tokens proposed = drafter_->propose(more, drafts, [&](size_t r, int64_t i) {
    return sequences_[r]->next_draw(more[r].size() + static_cast<size_t>(i));
  });
  Tokens looked_at = more;
  std::vector<Draw> draws;
  for (size_t r = 0; r < more.size(); ++r) {
    looked_at[r].insert(looked_at[r].end(), proposed[r].begin(), proposed[r].end());
    for (size_t i = 1; i <= looked_at[r].size(); ++i) draws.push_back(sequences_[r]->next_draw(i));
  }
  std::vector<int64_t> agreed;
  decoder_.attempt(looked_at, draws, [&](std::span<const int32_t> drawn, const LogitsOfPlace& at) {
    std::vector<int32_t> stand;
    size_t place = 0;
    for (size_t r = 0; r < more.size(); ++r) {
      Sequence& s = *sequences_[r];
      const size_t first = place + more[r].size() - 1;
      s.ran(more[r].size());
      agreed.push_back(take_agreed(s, drawn.subspan(first, proposed[r].size() + 1), proposed[r],
                                   leaves,
                                   [&](int64_t i) { return at(static_cast<int64_t>(first) + i); }));
      s.count_drafts(drafts, agreed.back());
      stand.push_back(static_cast<int32_t>(std::ssize(more[r]) + agreed.back()));
      place += looked_at[r].size();
    }
    return stand;
  });
  drafter_->agree(agreed);
}

}  // namespace nestling
