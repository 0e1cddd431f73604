// parent_states.h - what a parent makes of texts, kept so that models are measured against it when it is gone.
//
// Kept          of every window of a text that this rank scores: its tokens and the parent's final hidden states [T, D], on
//               the host, in the type of the parent's activations; and the parent's output projection [V, D], where it ran.
// Equality      the KL is bit for bit that of the parent run again beside the model.
// Memory        tokens x D x 4 bytes (2 in bf16) a text, shared by the ranks.
// Errors        a window that was not kept, or was of other tokens, is kInput, naming parent, model and text.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/tensor.h"
#include "runtime/loaded_model.h"

namespace nestling {

class ParentStates {
 public:
  explicit ParentStates(LoadedModel& parent);  // whose output projection is copied

  const std::string& name() const { return name_; }
  int64_t vocab() const { return head_.view().dim(0); }
  ConstView head() const { return head_.view(); }
  float logit_scale() const { return logit_scale_; }

  // Window `index` of a text; one that is there already stays.
  void keep(const std::string& text, int64_t index, const std::vector<int32_t>& tokens,
            ConstView states);
  // The same on the arena's device, for `model`, which reads these tokens there.
  View of(Arena& arena, const std::string& text, int64_t index, const std::vector<int32_t>& tokens,
          const std::string& model) const;

 private:
  struct Window {
    std::vector<int32_t> tokens;
    Tensor states;
  };
  std::string name_;
  float logit_scale_;
  Tensor head_;
  std::map<std::pair<std::string, int64_t>, Window> windows_;
};

}  // namespace nestling
