#include "runtime/evaluate.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "data/reasoning.h"
#include "data/token_documents.h"
#include "kernels/core/host_view.h"
#include "kernels/ops/loss.h"
#include "model/model.h"
#include "runtime/generator.h"

namespace nestling {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int32_t closing_token(const LoadedModel& model) {
  NESTLING_CHECK_INPUT(!model.config().eos.empty(), model.name(),
                       ": config.json has no eos_token_id");
  return static_cast<int32_t>(model.config().eos.front());
}

// total += the elements of x, in order.
void add_to(double& total, ConstView x) {
  const Tensor host = on_host(x);
  for (int64_t t = 0; t < host.size(); ++t) total += host.ptr<float>()[t];
}

// Windows of documents end to end, and where documents begin in them; every rank scores its own.
class WindowLoss {
 public:
  WindowLoss(Context& ctx, Comm& comm, LoadedModel& model, const std::string& text,
             const TextLossOptions& options)
      : ctx_(ctx),
        comm_(comm),
        model_(model),
        text_(text),
        keep_(options.keep),
        parent_(options.parent),
        between_(options.between),
        seq_len_(options.seq_len),
        arena_(ctx.device()) {}

  void add_document(const std::vector<int32_t>& tokens) {
    if (!pending_.empty()) starts_.push_back(static_cast<int32_t>(pending_.size()));
    pending_.insert(pending_.end(), tokens.begin(), tokens.end());
    while (static_cast<int64_t>(pending_.size()) > seq_len_) flush(seq_len_);
  }
  void finish() {
    if (pending_.size() > 1) flush(static_cast<int64_t>(pending_.size()) - 1);
  }
  // Means over the tokens that all ranks have scored.
  TextLoss loss() {
    std::vector<double> sums = {nll_, kl_, static_cast<double>(tokens_)};
    std::vector<double> seconds = {seconds_};
    comm_.all_reduce(ctx_, host_view(sums), Reduce::kSum);
    comm_.all_reduce(ctx_, host_view(seconds), Reduce::kMax);
    return {.tokens = static_cast<int64_t>(sums[2]),
            .nll = sums[0] / sums[2],
            .kl = sums[1] / sums[2],
            .seconds = seconds[0]};
  }

 private:
  // Scores `count` inputs against the tokens behind them, if this window is this rank's.
  void flush(int64_t count) {
    std::vector<int32_t> offsets = {0};
    std::vector<int32_t> later;
    std::vector<int32_t> targets(pending_.begin() + 1, pending_.begin() + count + 1);
    for (int32_t s : starts_) {
      if (s <= count) targets[static_cast<size_t>(s) - 1] = -1;
      if (s < count) offsets.push_back(s);
      if (s > count) later.push_back(static_cast<int32_t>(s - count));
    }
    offsets.push_back(static_cast<int32_t>(count));
    if (windows_ % comm_.size() == comm_.rank()) score(offsets, targets, count);
    ++windows_;
    if (between_ && windows_ % comm_.size() == 0) between_();
    pending_.erase(pending_.begin(), pending_.begin() + count);
    starts_ = std::move(later);
  }
  void score(const std::vector<int32_t>& offsets, const std::vector<int32_t>& targets,
             int64_t count) {
    const Arena::Mark mark(arena_);
    const std::vector<int32_t> tokens(pending_.begin(), pending_.begin() + count);
    const ConstView inputs = device_view(ctx_, arena_, tokens);
    const ConstView wanted = device_view(ctx_, arena_, targets);
    const auto start = Clock::now();
    const View normed = forward(offsets, inputs);
    const View nll = arena_.alloc(DType::kF32, {count});
    head_loss(ctx_, {.nll = nll,
                     .x = normed,
                     .w = model_.params().head,
                     .targets = wanted,
                     .logit_scale = model_.params().logit_scale,
                     .chunk = loss_chunk(ctx_.code())});
    ctx_.synchronize();
    seconds_ += seconds_since(start);
    add_to(nll_, nll);
    tokens_ += count - std::count(targets.begin(), targets.end(), -1);
    if (keep_ != nullptr) keep_->keep(text_, windows_, tokens, normed);
    if (parent_ != nullptr) compare(tokens, targets, normed);
  }
  View forward(const std::vector<int32_t>& offsets, ConstView inputs) {
    LayerRun run{.ctx = ctx_,
                 .arena = arena_,
                 .config = model_.config(),
                 .segments = Segments(offsets),
                 .save = false,
                 .activations = model_.activations()};
    return model_forward(run, model_.params(), inputs).final_norm.normed;
  }
  void compare(const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets,
               ConstView normed) {
    const auto count = std::ssize(targets);
    std::vector<int32_t> counted;
    for (const int32_t target : targets) counted.push_back(target >= 0 ? 1 : 0);
    const ConstView counts = device_view(ctx_, arena_, counted);
    const View kl = arena_.alloc(DType::kF32, {count});
    head_loss(ctx_, {.kl = kl,
                     .x = normed,
                     .w = model_.params().head,
                     .kl_tokens = counts,
                     .teacher_x = parent_->of(arena_, text_, windows_, tokens, model_.name()),
                     .teacher_w = parent_->head(),
                     .logit_scale = model_.params().logit_scale,
                     .teacher_logit_scale = parent_->logit_scale(),
                     .chunk = loss_chunk(ctx_.code())});
    add_to(kl_, kl);
  }

  Context& ctx_;
  Comm& comm_;
  LoadedModel& model_;
  const std::string& text_;
  ParentStates* keep_;
  const ParentStates* parent_;
  const std::function<void()>& between_;
  int64_t seq_len_;
  Arena arena_;
  std::vector<int32_t> pending_;
  std::vector<int32_t> starts_;  // places in pending_ where a document begins, but 0
  int64_t windows_ = 0, tokens_ = 0;
  double nll_ = 0, kl_ = 0, seconds_ = 0;
};

struct Asked {
  reasoning::Problem problem;
  std::vector<int32_t> prompt;
};

std::vector<Asked> ask(const LoadedModel& model, const ReasoningOptions& o) {
  std::vector<Asked> asked;
  for (int64_t i = 0; i < o.problems; ++i) {
    const auto tasks = static_cast<int64_t>(o.tasks.size());
    const std::string& task = o.tasks[static_cast<size_t>(i % tasks)];
    const int level = 1 + static_cast<int>(i / tasks % reasoning::kLevels);
    Asked a{.problem = reasoning::generate(task, level, reasoning::Split::kHeldOut, o.seed,
                                           static_cast<uint64_t>(i)),
            .prompt = {}};
    a.prompt = model.tokenizer().encode(reasoning::prompt_text(a.problem), true);
    asked.push_back(std::move(a));
  }
  return asked;
}

// What became of a problem: summed over ranks, all but one of which leave it 0.
struct Answered {
  int64_t right = 0, tokens = 0, thinking = 0, again = 0;
};

// Of every problem; a rank completes every size()-th batch.
std::vector<Answered> answer(Context& ctx, Comm& comm, LoadedModel& model,
                             const std::vector<Asked>& asked, const ReasoningOptions& o) {
  const auto stop = model.tokenizer().token_id("<|im_end|>");
  NESTLING_CHECK_INPUT(stop.has_value(), model.name(), ": the tokenizer has no <|im_end|>");
  GenerateOptions options;
  options.max_new_tokens = o.max_new_tokens;
  options.stop_tokens = {*stop};
  options.control = o.control;
  options.control.closing = reasoning::kClosing;
  const auto batch = static_cast<size_t>(o.batch);
  std::vector<Answered> answered(asked.size());
  const auto complete = [&](size_t at) {
    const size_t end = std::min(asked.size(), at + batch);
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = at; i < end; ++i) prompts.push_back(asked[i].prompt);
    const std::vector<Generated> out = generate(ctx, model, prompts, options);
    for (size_t i = at; i < end; ++i) {
      const Generated& g = out[i - at];
      answered[i] = {
          .right = reasoning::score(asked[i].problem, model.tokenizer().decode(g.tokens)),
          .tokens = std::ssize(g.tokens),
          .thinking = g.thinking,
          .again = g.again};
    }
  };
  for (size_t first = 0; first < asked.size(); first += batch * static_cast<size_t>(comm.size())) {
    const size_t mine = first + batch * static_cast<size_t>(comm.rank());
    if (mine < asked.size()) complete(mine);
    if (o.between) o.between();
  }
  std::vector<int64_t> sums;
  for (const Answered& a : answered)
    sums.insert(sums.end(), {a.right, a.tokens, a.thinking, a.again});
  comm.all_reduce(ctx, host_view(sums), Reduce::kSum);
  for (size_t i = 0; i < answered.size(); ++i)
    answered[i] = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
  return answered;
}

}  // namespace

TextLoss evaluate_text(Context& ctx, Comm& comm, LoadedModel& model, const std::string& text_spec,
                       const TextLossOptions& o) {
  NESTLING_CHECK_INPUT(o.parent == nullptr || o.parent->vocab() == model.config().vocab, "parent ",
                       o.parent->name(), " has a vocabulary of ", o.parent->vocab(), ", ",
                       model.name(), " one of ", model.config().vocab);
  const auto documents = open_documents(text_spec, {.tokenizer = model.tokenizer(),
                                                    .vocabulary = model.config().vocab,
                                                    .end_of_text = closing_token(model),
                                                    .seed = o.seed});
  WindowLoss windows(ctx, comm, model, text_spec, o);
  TokenDocument document;
  int64_t seen = 0;
  bool cut = false;
  while (seen < o.max_tokens && documents->next(o.max_tokens - seen, document)) {
    const int64_t scored = std::ssize(document.tokens);
    cut = scored < document.length;
    seen += scored;
    windows.add_document(document.tokens);
  }
  cut = cut || documents->next(0, document);
  windows.finish();
  TextLoss loss = windows.loss();
  loss.read = seen;
  loss.cut = cut;
  NESTLING_CHECK_INPUT(loss.tokens > 0, text_spec, ": no text to evaluate");
  return loss;
}

std::vector<TaskAccuracy> evaluate_reasoning(Context& ctx, Comm& comm, LoadedModel& model,
                                             const ReasoningOptions& o) {
  const std::vector<Asked> asked = ask(model, o);
  const auto start = Clock::now();
  const std::vector<Answered> answered = answer(ctx, comm, model, asked, o);
  std::map<std::string, TaskAccuracy> by_task;
  TaskAccuracy all;
  all.task = "reasoning";
  all.seconds = seconds_since(start);
  for (size_t i = 0; i < asked.size(); ++i) {
    const Answered& a = answered[i];
    for (TaskAccuracy* t : {&by_task[asked[i].problem.task], &all}) {
      t->n += 1;
      t->correct += a.right;
      t->tokens += a.tokens;
      t->thinking += a.thinking;
      t->again += a.again;
      t->outcomes.push_back(a.right != 0);
    }
  }
  std::vector<TaskAccuracy> results;
  for (auto& [task, result] : by_task) {
    result.task = task;
    results.push_back(std::move(result));
  }
  results.push_back(std::move(all));
  for (TaskAccuracy& t : results) t.accuracy = wilson_interval(t.correct, t.n);
  return results;
}

Interval paired_difference(const TaskAccuracy& a, const TaskAccuracy& b) {
  NESTLING_CHECK(a.task == b.task && a.outcomes.size() == b.outcomes.size(), "a pair of ", a.n, " ",
                 a.task, " and ", b.n, " ", b.task, " problems");
  int64_t only_a = 0, only_b = 0;
  for (size_t i = 0; i < a.outcomes.size(); ++i) {
    only_a += a.outcomes[i] && !b.outcomes[i];
    only_b += b.outcomes[i] && !a.outcomes[i];
  }
  return paired_interval(only_a, only_b, a.n);
}

}  // namespace nestling
