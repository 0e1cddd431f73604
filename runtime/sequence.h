// sequence.h - a prompt and what has come after it: when it ends, what of it thinks, how its next
// token is drawn.
//
// Runs          the size that runs it may change (GenerateOptions::control): enter() gives its tokens
//               to the caches of another; to_run() is what these have not seen yet.
// Draws         the n-th since it entered, of a stream of its own: what is drawn depends on prompt,
//               options and index, not on what runs beside it, nor on how many tokens run at once.
// Ownership     borrows model, options and what they call.
#pragma once
#include <exception>
#include <functional>
#include <optional>
#include <vector>

#include "runtime/drafter.h"

namespace nestling {

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  SamplingRule rule = {};
  uint64_t seed = 0;
  std::vector<int64_t> stop_tokens = {};  // ends a sequence; kept in its tokens
  ThinkingControl control = {};
  DraftControl draft = {};
  // Called with every new token of sequence i, as it comes, also with those that close thinking.
  std::function<void(size_t i, int32_t token)> on_token = nullptr;
  // Called before on_token with the logits [V] that a token was drawn from; not with those that
  // close thinking.
  std::function<void(size_t i, int32_t token, ConstView logits)> on_drawn = nullptr;
  // Called with those behind the tokens of prompt i, in order (OnPromptLogits), before its first
  // new token. A prompt is then run also where nothing is to come after it.
  OnPromptLogits on_prompt = nullptr;
};

// Whether the token ends a sequence.
bool is_stop(int32_t token, const GenerateOptions& options);

struct Generated {
  std::vector<int32_t> tokens;  // without the prompt
  bool stopped = false;         // by a stop token; else by the limit
  int64_t thinking = 0;         // tokens generated within thinking; 0 without a control
  int64_t again = 0;            // tokens, of the prompt too, run anew where another size took over
  int64_t drafted = 0;          // tokens that drafts proposed
  int64_t agreed = 0;           // of them, those that became tokens
};

class Sequence {
 public:
  // `index`: its stream, and `i` of the calls.
  Sequence(const LoadedModel& model, const GenerateOptions& options,
           const std::vector<int32_t>& prompt, size_t index);

  // Its next token, drawn from `logits`. An error (a token that is no text) ends this sequence
  // alone: finish() throws it.
  void take(int32_t token, const std::function<ConstView()>& logits);
  bool over() const { return failed_ || out_.stopped || (room() <= 0 && !shows_prompt()); }
  bool thinks() const { return meter_ && meter_->thinking(); }
  size_t index() const { return index_; }
  int64_t length() const { return std::ssize(tokens_); }  // with the prompt
  const GenerateOptions& options() const { return options_; }

  // It has not been run, and its options ask for the logits of its prompt.
  bool shows_prompt() const { return run_ == 0 && options_.on_prompt; }
  // It is run in a size of its own choice from here on: its tokens so far, or the first `most` of them, which count as
  // run.
  std::vector<int32_t> enter(int64_t most);
  std::span<const int32_t> to_run() const { return std::span(tokens_).subspan(run_); }
  void ran(size_t count) { run_ += count; }
  bool all_run() const { return run_ == tokens_.size(); }
  // Of what comes behind the token `ahead` places behind those that have been run.
  Draw next_draw(size_t ahead = 0) const;
  int64_t room() const;  // new tokens that may come yet
  void count_drafts(int64_t proposed, int64_t agreed);

  Generated finish();

 private:
  void append(int32_t token);
  void close_if_spent();

  const GenerateOptions& options_;
  size_t index_;
  std::vector<int32_t> tokens_;  // prompt and all
  size_t prompt_, run_ = 0;      // how many of them
  size_t entered_ = 0;           // how many there were when it entered
  uint64_t switches_ = 0;
  std::optional<ThinkingMeter> meter_;
  std::exception_ptr failed_;
  Generated out_;
};

}  // namespace nestling
