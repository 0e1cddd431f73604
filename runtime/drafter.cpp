#include "runtime/drafter.h"

#include "model/cost.h"

namespace nestling {

std::optional<Size> draft_size(const LoadedModel& model, const DraftControl& control,
                               const ThinkingSizes& sizes) {
  if (control.size.empty()) return {};
  NESTLING_CHECK_INPUT(control.tokens >= 1, "drafts of ", control.tokens,
                       " tokens; 1 is the least");
  Size draft = model.find(control.size);
  const auto active = [&](const Size& size) {
    return parameter_cost(model.config(), size.widths).active;
  };
  for (const Size* size : {&sizes.think, &sizes.answer})
    NESTLING_CHECK_INPUT(size->widths == draft.widths || active(draft) < active(*size),
                         "drafts of size ", draft.name, ", of ", active(draft),
                         " active parameters, for size ", size->name, ", of ", active(*size));
  NESTLING_CHECK_INPUT(sizes.think.widths != draft.widths || sizes.answer.widths != draft.widths,
                       "drafts of size ", draft.name, ", which is what decides");
  return draft;
}

Drafter::Drafter(Context& ctx, LoadedModel& model, const Size& size, int64_t rows, int64_t capacity)
    : decoder_(ctx, model, size.widths, rows, capacity) {
  decoder_.clear();
}

void Drafter::join(const std::vector<std::vector<int32_t>>& prompts) {
  decoder_.join(prompts);
  unseen_.resize(unseen_.size() + prompts.size());
}

std::vector<std::vector<int32_t>> Drafter::with_unseen(
    const std::vector<std::vector<int32_t>>& more) {
  NESTLING_CHECK(more.size() == unseen_.size(), "drafts of ", unseen_.size(), " sequences, for ",
                 more.size());
  std::vector<std::vector<int32_t>> all;
  for (size_t b = 0; b < more.size(); ++b) {
    all.push_back(std::move(unseen_[b]));
    all.back().insert(all.back().end(), more[b].begin(), more[b].end());
    unseen_[b].clear();
  }
  return all;
}

void Drafter::run(const std::vector<std::vector<int32_t>>& more) {
  decoder_.extend(with_unseen(more));
}

// Slot i holds every sequence behind i of its proposals.
std::vector<std::vector<int32_t>> Drafter::propose(const std::vector<std::vector<int32_t>>& more,
                                                   int64_t count, const DrawOf& draw) {
  run(more);
  proposed_.assign(more.size(), {});
  for (int64_t i = 0; i < count; ++i) {
    std::vector<Draw> draws;
    for (size_t b = 0; b < more.size(); ++b) draws.push_back(draw(b, i));
    const auto drawn = decoder_.sample(draws);
    const std::vector<int32_t> newest(drawn.begin(), drawn.end());
    for (size_t b = 0; b < more.size(); ++b) proposed_[b].push_back(newest[b]);
    if (i + 1 == count) break;
    decoder_.remember(static_cast<size_t>(i));
    decoder_.step(newest);
  }
  return proposed_;
}

void Drafter::agree(const std::vector<int64_t>& counts) {
  for (size_t b = 0; b < counts.size(); ++b) {
    const int64_t ahead = std::ssize(proposed_[b]) - 1;  // proposals that it has run
    if (counts[b] < ahead)
      decoder_.go_back(static_cast<int64_t>(b), static_cast<size_t>(counts[b]));
    else if (counts[b] > ahead)
      unseen_[b] = {proposed_[b].back()};
  }
}

void Drafter::drop(int64_t b) {
  decoder_.drop(b);
  unseen_[static_cast<size_t>(b)] = std::move(unseen_.back());
  unseen_.pop_back();
}

}  // namespace nestling
