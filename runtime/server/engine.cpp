#include "runtime/server/engine.h"

#include <algorithm>
#include <random>

#include "kernels/core/parallel.h"
#include "runtime/running_batch.h"

namespace nestling {

namespace {

ServerError ending() {
  return {503, "the server is ending"};
}

uint64_t any_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// One answer to one prompt of a request.
class ServedChoice {
 public:
  ServedChoice(const LoadedModel& model, std::shared_ptr<Job> job, size_t choice)
      : job_(std::move(job)),
        choice_(choice),
        prompt_(request().prompts[choice / static_cast<size_t>(request().n)]),
        text_(model.tokenizer(), request(), prompt_),
        options_(options_of(model)),
        sequence_(model, options_, prompt_, choice % static_cast<size_t>(request().n)) {}
  ServedChoice(const ServedChoice&) = delete;
  ServedChoice& operator=(const ServedChoice&) = delete;

  Sequence& sequence() { return sequence_; }
  Job& job() { return *job_; }
  const Size& size() const {
    return sequence_.thinks() ? request().sizes.think : request().sizes.answer;
  }
  bool over() const { return sequence_.over() || text_.found_stop() || job_->cancelled(); }

  // What has come since the last call, to who waits for it.
  void tell() {
    AnswerPiece piece = text_.take();
    if (piece.empty()) return;
    piece.choice = choice_;
    job_->put(std::move(piece));
  }
  void finish() {
    if (job_->cancelled()) return;
    try {
      const Generated made = sequence_.finish();
      text_.finish();
      AnswerPiece piece = text_.take();
      piece.choice = choice_;
      piece.finish = made.stopped || text_.found_stop() ? Finish::kStop : Finish::kLength;
      job_->finish(std::move(piece), std::ssize(made.tokens), made.thinking);
    } catch (const Error& e) {
      job_->fail({500, e.what()});
    }
  }

 private:
  const ServedRequest& request() const { return job_->request(); }
  GenerateOptions options_of(const LoadedModel& model) {
    GenerateOptions o{.max_new_tokens = request().max_new_tokens,
                      .rule = request().rule,
                      .seed = request().seed ? *request().seed : any_seed(),
                      .stop_tokens = model.config().eos,
                      .control = request().control};
    o.on_token = [this](size_t, int32_t token) { text_.push(token, is_stop(token, options_)); };
    if (!request().logprobs) return o;
    o.on_drawn = [this](size_t, int32_t token, ConstView logits) { text_.drawn(token, logits); };
    if (request().echo)
      o.on_prompt = [this](size_t, int64_t first, ConstView logits) {
        text_.prompt_logits(first, logits);
      };
    return o;
  }

  std::shared_ptr<Job> job_;
  size_t choice_;
  const std::vector<int32_t>& prompt_;
  ChoiceText text_;
  GenerateOptions options_;
  Sequence sequence_;
};

}  // namespace

// What runs: known to the engine's thread alone.
class Engine::Floor {
 public:
  Floor(Context& ctx, LoadedModel& model, const EngineOptions& options,
        const std::optional<Size>& draft)
      : ctx_(ctx), model_(model), options_(options), draft_(draft) {}

  int64_t size() const { return std::ssize(live_); }
  void begin(const Begun& begun) {
    try {
      live_.push_back(std::make_unique<ServedChoice>(model_, begun.first, begun.second));
      entering_.push_back(live_.back().get());
    } catch (const Error& e) {
      begun.first->fail({500, e.what()});
    }
  }
  // Those that wait join; then a step of every size.
  void step() {
    while (!entering_.empty()) enter();
    for (size_t i = lanes_.size(); i-- > 0;) {
      Lane& lane = *lanes_[i];
      try {
        if (!lane.batch.empty()) step(lane);
      } catch (const std::exception& e) {
        fail(lane, e.what());
        lanes_.erase(lanes_.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
  void fail_all(const ServerError& error) {
    for (const auto& choice : live_) choice->job().fail(error);
    entering_.clear();
    lanes_.clear();
    live_.clear();
  }

 private:
  struct Lane {
    Widths widths;
    RunningBatch batch;
    std::vector<ServedChoice*> choices;
  };

  // Of a size that is not above that of drafts there are none.
  BatchOptions batch_options(const Size& size) const {
    const auto active = [&](const Size& s) {
      return parameter_cost(model_.config(), s.widths).active;
    };
    BatchOptions o{.piece = options_.prefill, .drafts = options_.draft.tokens};
    if (draft_ && active(*draft_) < active(size)) o.draft = draft_;
    return o;
  }

  // The batch of a size. One that is made anew takes the place of those that are empty.
  Lane& lane_of(const Size& size) {
    for (const auto& lane : lanes_)
      if (lane->widths == size.widths) return *lane;
    std::erase_if(lanes_, [](const auto& lane) { return lane->batch.empty(); });
    model_.select(size);
    lanes_.push_back(
        std::make_unique<Lane>(Lane{.widths = size.widths,
                                    .batch = RunningBatch(ctx_, model_, options_.parallel,
                                                          options_.context, batch_options(size)),
                                    .choices = {}}));
    return *lanes_.back();
  }

  // The first that waits, and others of its size as far as a forward over whole prompts holds a context's tokens.
  void enter() {
    const Size& size = entering_.front()->size();
    std::vector<ServedChoice*> some;
    int64_t tokens = 0;
    for (ServedChoice* choice : entering_) {
      const int64_t more = choice->sequence().length();
      if (choice->size().widths != size.widths) continue;
      if (!some.empty() && tokens + more > options_.context) break;
      tokens += more;
      some.push_back(choice);
    }
    std::erase_if(entering_, [&](ServedChoice* c) {
      return std::find(some.begin(), some.end(), c) != some.end();
    });
    try {
      Lane& lane = lane_of(size);
      std::vector<Sequence*> sequences;
      for (ServedChoice* choice : some) sequences.push_back(&choice->sequence());
      lane.choices.insert(lane.choices.end(), some.begin(), some.end());
      lane.batch.join(sequences);
    } catch (const std::exception& e) {
      for (ServedChoice* choice : some) choice->job().fail({500, e.what()});
      drop_lane_of(some);
    }
  }

  // A forward that failed may have left a batch half joined: all of it is lost.
  void drop_lane_of(const std::vector<ServedChoice*>& some) {
    for (size_t i = lanes_.size(); i-- > 0;) {
      const auto& choices = lanes_[i]->choices;
      if (std::find(choices.begin(), choices.end(), some.front()) == choices.end()) continue;
      fail(*lanes_[i], "another request of its batch failed");
      lanes_.erase(lanes_.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
    for (ServedChoice* choice : some) remove(choice);  // there was no batch yet
  }
  void fail(Lane& lane, const std::string& why) {
    for (ServedChoice* choice : lane.choices) {
      choice->job().fail({500, why});
      remove(choice);
    }
  }
  void remove(ServedChoice* gone) {
    std::erase_if(live_, [&](const auto& choice) { return choice.get() == gone; });
  }

  void step(Lane& lane) {
    leave(lane);  // those whose prompt was all that was asked for
    lane.batch.draw();
    for (ServedChoice* choice : lane.choices) choice->tell();
    leave(lane);
    lane.batch.step([&](const Sequence& s) { return leaves(lane, s); });
    for (ServedChoice* choice : lane.choices) choice->tell();
  }
  static ServedChoice* owner(const Lane& lane, const Sequence& s) {
    return *std::find_if(lane.choices.begin(), lane.choices.end(),
                         [&](ServedChoice* c) { return &c->sequence() == &s; });
  }
  static bool leaves(const Lane& lane, const Sequence& s) {
    const ServedChoice* choice = owner(lane, s);
    return choice->over() || choice->size().widths != lane.widths;
  }
  void leave(Lane& lane) {
    const std::vector<Sequence*> left =
        lane.batch.leave([&](const Sequence& s) { return leaves(lane, s); });
    for (const Sequence* s : left) {
      ServedChoice* choice = owner(lane, *s);
      std::erase(lane.choices, choice);
      if (choice->over()) {
        choice->finish();
        remove(choice);
      } else {
        entering_.push_back(choice);
      }
    }
  }

  Context& ctx_;
  LoadedModel& model_;
  const EngineOptions& options_;
  const std::optional<Size>& draft_;
  std::vector<std::unique_ptr<ServedChoice>> live_;
  std::vector<ServedChoice*> entering_;  // of them: to be run in the batch of their size
  std::vector<std::unique_ptr<Lane>> lanes_;
};

Engine::Engine(Context& ctx, LoadedModel& model, const EngineOptions& options)
    : ctx_(ctx),
      model_(model),
      options_(options),
      draft_(draft_size(model, options.draft, {model.selected(), model.selected()})),
      threads_(thread_count()) {
  NESTLING_CHECK_INPUT(
      options.parallel >= 1 && options.context >= 2 && options.queue >= 1 && options.prefill >= 1,
      "a server of ", options.parallel, " sequences of ", options.context, " tokens, ",
      options.prefill, " of prompts at once, and ", options.queue, " requests that wait");
  thread_ = std::thread([this] { work(); });
}

Engine::~Engine() {
  abort();
  thread_.join();
}

void Engine::submit(std::shared_ptr<Job> job) {
  const std::lock_guard lock(mutex_);
  if (draining_) throw ending();
  if (std::ssize(waiting_) >= options_.queue)
    throw ServerError(503, str(waiting_.size(), " requests wait already, and no more may"),
                      "queue_full");
  waiting_.push_back({.job = std::move(job)});
  told_.notify_all();
}

void Engine::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  told_.notify_all();
}

void Engine::abort() {
  const std::lock_guard lock(mutex_);
  draining_ = aborted_ = true;
  told_.notify_all();
}

bool Engine::idle() const {
  const std::lock_guard lock(mutex_);
  return running_ == 0 && waiting_.empty();
}

int64_t Engine::running() const {
  const std::lock_guard lock(mutex_);
  return running_;
}

int64_t Engine::waiting() const {
  const std::lock_guard lock(mutex_);
  return std::ssize(waiting_);
}

// Waits where nothing runs; what begins now. None: it is to end.
std::optional<std::vector<Engine::Begun>> Engine::take() {
  std::unique_lock lock(mutex_);
  told_.wait(lock, [&] { return aborted_ || running_ > 0 || !waiting_.empty(); });
  if (aborted_ || draining_)
    std::erase_if(waiting_, [&](const Waiting& w) {
      if (w.begun > 0 && !aborted_) return false;
      w.job->fail(ending());
      return true;
    });
  if (aborted_) return {};
  std::erase_if(waiting_, [](const Waiting& w) { return w.job->cancelled(); });
  std::vector<Begun> begun;
  for (; running_ < options_.parallel && !waiting_.empty(); ++running_) {
    Waiting& first = waiting_.front();
    begun.emplace_back(first.job, first.begun++);
    if (first.begun == first.job->request().choices()) waiting_.pop_front();
  }
  return begun;
}

void Engine::work() {
  set_thread_count(threads_);
  Floor floor(ctx_, model_, options_, draft_);
  while (auto begun = take()) {
    for (const Begun& one : *begun) floor.begin(one);
    floor.step();
    const std::lock_guard lock(mutex_);
    running_ = floor.size();
  }
  floor.fail_all(ending());
  const std::lock_guard lock(mutex_);
  running_ = 0;
}

}  // namespace nestling
