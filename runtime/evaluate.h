// evaluate.h - how good a model is: loss on text, exact-match accuracy on reasoning problems.
//
// Loss          mean next-token cross-entropy in nats over documents packed into windows of seq_len;
//               a target that begins another document does not count.
// KL            mean KL(parent || model) in nats over the same tokens, where what a parent made of them is given: the parent
//               is evaluated first, and need not stay (runtime/parent_states.h).
// Speed         seconds of the model alone: its forward and its loss, without the parent.
// Accuracy      greedy completion of held-out problems (data/reasoning.h), exact match of the answer,
//               Wilson's 95% interval; two models on the same problems are compared by pairs. Under `control`
//               (runtime/thinking.h) one size may think and another answer; what is run again then is in the time.
// Ranks         windows and batches of problems are dealt to the ranks of `comm` in turn; every rank
//               returns the result of all. Seconds are those of the slowest rank.
// Stopping      `between`, where given, is called by every rank at the same places, between batches; what
//               it throws ends the measurement.
// Determinism   outcomes, tokens and counts do not depend on how many ranks there are; sums over
//               ranks add in another order, in double.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "data/interval.h"
#include "kernels/comm/comm.h"
#include "runtime/parent_states.h"
#include "runtime/thinking.h"

namespace nestling {

struct TextLossOptions {
  int64_t seq_len = 512;
  int64_t max_tokens =
      65536;          // of the text, from its beginning; one that ends before is scored whole
  uint64_t seed = 0;  // of generated text
  ParentStates* keep = nullptr;          // receives what the model, a parent, makes of the text
  const ParentStates* parent = nullptr;  // of the same vocabulary, or null; may be what `keep` is
  std::function<void()> between = {};
};
struct TextLoss {
  int64_t tokens = 0;  // targets counted
  int64_t read = 0;    // tokens of the text: max_tokens, or all there are
  double nll = 0;      // nats per target
  double kl = 0;       // nats per target; 0 without a parent
  double seconds = 0;
  bool cut = false;  // the text is longer than max_tokens
};
// `text_spec`: as data/token_documents.h opens it.
TextLoss evaluate_text(Context& ctx, Comm& comm, LoadedModel& model, const std::string& text_spec,
                       const TextLossOptions& options);

struct TaskAccuracy {
  std::string task;
  int64_t n = 0;
  int64_t correct = 0;
  Interval accuracy{};
  double seconds = 0;    // of "reasoning" alone
  int64_t tokens = 0;    // generated
  int64_t thinking = 0;  // as Generated counts them
  int64_t again = 0;
  std::vector<bool> outcomes;  // of every problem, for paired intervals
};
struct ReasoningOptions {
  std::vector<std::string> tasks;  // of reasoning::tasks()
  int64_t problems = 1024;         // in all, dealt to tasks and levels in turn
  int64_t batch = 128;
  int64_t max_new_tokens = 256;
  uint64_t seed = 1;
  ThinkingControl control = {};  // its closing: that of the problems' texts, whatever stands here
  std::function<void()> between = {};
};
// One entry a task, then "reasoning" for all together.
std::vector<TaskAccuracy> evaluate_reasoning(Context& ctx, Comm& comm, LoadedModel& model,
                                             const ReasoningOptions& options);
// accuracy(a) - accuracy(b) on the same problems; throws where they are not as many.
Interval paired_difference(const TaskAccuracy& a, const TaskAccuracy& b);

}  // namespace nestling
