#include "runtime/parent_states.h"

namespace nestling {

ParentStates::ParentStates(LoadedModel& parent)
    : name_(parent.name()), logit_scale_(parent.params().logit_scale) {
  const ConstView head = parent.params().head;
  head_ = Tensor(head.device(), head.dtype(), {head.dim(0), head.dim(1)});
  copy(head_.view(), head);
}

void ParentStates::keep(const std::string& text, int64_t index, const std::vector<int32_t>& tokens,
                        ConstView states) {
  if (windows_.contains({text, index})) return;
  Window kept{.tokens = tokens,
              .states = Tensor(Device::kCpu, states.dtype(), {states.dim(0), states.dim(1)})};
  copy(kept.states.view(), states);
  windows_.emplace(std::pair(text, index), std::move(kept));
}

View ParentStates::of(Arena& arena, const std::string& text, int64_t index,
                      const std::vector<int32_t>& tokens, const std::string& model) const {
  const auto at = windows_.find({text, index});
  NESTLING_CHECK_INPUT(at != windows_.end() && at->second.tokens == tokens, "parent ", name_,
                       " reads ", text, " in other tokens than ", model, ", from window ", index,
                       " on: their tokenizers differ");
  const ConstView kept = at->second.states;
  const View there = arena.alloc(kept.dtype(), {kept.dim(0), kept.dim(1)});
  copy(there, kept);
  return there;
}

}  // namespace nestling
