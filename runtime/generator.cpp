#include "runtime/generator.h"

#include <algorithm>

#include "runtime/running_batch.h"

namespace nestling {

namespace {

int64_t longest(const std::vector<std::vector<int32_t>>& prompts) {
  size_t n = 0;
  for (const auto& p : prompts) n = std::max(n, p.size());
  return static_cast<int64_t>(n);
}

// The size selected when it is made.
class KeepSelected {
 public:
  explicit KeepSelected(LoadedModel& model) : model_(model), size_(model.selected()) {}
  ~KeepSelected() { model_.select(std::move(size_)); }
  KeepSelected(const KeepSelected&) = delete;
  KeepSelected& operator=(const KeepSelected&) = delete;

 private:
  LoadedModel& model_;
  Size size_;
};

// Runs `rows` in the selected size, each until it is over or `leaves`.
void run(Context& ctx, LoadedModel& model, const std::vector<Sequence*>& rows, int64_t capacity,
         const BatchOptions& options, const RunningBatch::Leaves& leaves) {
  RunningBatch batch(ctx, model, std::ssize(rows), capacity, options);
  batch.join(rows);
  batch.leave(leaves);
  while (!batch.empty()) {
    batch.draw();
    batch.leave(leaves);
    batch.step(leaves);
  }
}

}  // namespace

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options) {
  const ThinkingSizes sizes = thinking_sizes(model, options.control);
  const BatchOptions batch{.draft = draft_size(model, options.draft, sizes),
                           .drafts = options.draft.tokens};
  const int64_t capacity = longest(prompts) + options.max_new_tokens;
  std::vector<Sequence> all;
  for (size_t i = 0; i < prompts.size(); ++i) all.emplace_back(model, options, prompts[i], i);
  const KeepSelected keep(model);
  // Those that go on, of one part: all that think, or all the others; where one size does both, all.
  const auto waiting = [&](bool thinking) {
    std::vector<Sequence*> rows;
    for (Sequence& s : all)
      if (!s.over() && (sizes.same() || s.thinks() == thinking)) rows.push_back(&s);
    return rows;
  };
  for (;;) {
    bool thinking = true;
    std::vector<Sequence*> rows = waiting(true);
    if (rows.empty()) rows = waiting(thinking = false);
    if (rows.empty()) break;
    model.select(thinking ? sizes.think : sizes.answer);
    run(ctx, model, rows, capacity, batch,
        [&](const Sequence& s) { return !sizes.same() && s.thinks() != thinking; });
  }
  std::vector<Generated> out;
  for (Sequence& s : all) out.push_back(s.finish());
  return out;
}

}  // namespace nestling
