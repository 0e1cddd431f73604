#include "runtime/running_batch.h"

namespace nestling {

RunningBatch::RunningBatch(Context& ctx, LoadedModel& model, int64_t rows, int64_t capacity)
    : decoder_(ctx, model, rows, capacity) {
  decoder_.clear();
}

void RunningBatch::join(const std::vector<Sequence*>& some) {
  std::vector<Sequence*> plain, shown;
  for (Sequence* s : some) (s->shows_prompt() ? shown : plain).push_back(s);
  enter(plain, false);
  enter(shown, true);
}

void RunningBatch::enter(const std::vector<Sequence*>& some, bool shown) {
  if (some.empty()) return;
  std::vector<std::vector<int32_t>> begun;
  for (Sequence* s : some) begun.push_back(s->enter());
  const OnPromptLogits show = [&](size_t i, int64_t first, ConstView logits) {
    some[i]->options().on_prompt(some[i]->index(), first, logits);
  };
  decoder_.join(begun, shown ? show : nullptr);
  sequences_.insert(sequences_.end(), some.begin(), some.end());
}

void RunningBatch::draw() {
  if (empty()) return;
  std::vector<Draw> draws;
  for (const Sequence* s : sequences_) draws.push_back(s->next_draw());
  const auto drawn = decoder_.sample(draws);
  for (size_t r = 0; r < sequences_.size(); ++r)
    if (sequences_[r]->all_run())
      sequences_[r]->take(drawn[r], [&] { return decoder_.logits(static_cast<int64_t>(r)); });
}

std::vector<Sequence*> RunningBatch::leave(const std::function<bool(const Sequence&)>& leaves) {
  std::vector<Sequence*> left;
  for (size_t r = sequences_.size(); r-- > 0;) {
    if (!sequences_[r]->over() && !leaves(*sequences_[r])) continue;
    decoder_.drop(static_cast<int64_t>(r));
    left.push_back(sequences_[r]);
    sequences_[r] = sequences_.back();
    sequences_.pop_back();
  }
  return left;
}

void RunningBatch::step() {
  if (empty()) return;
  std::vector<int32_t> next;
  for (Sequence* s : sequences_) next.push_back(s->next_to_run());
  decoder_.step(next);
}

}  // namespace nestling
