#include "runtime/generator.h"

#include <algorithm>
#include <numeric>

#include "runtime/decoder.h"

namespace nestling {

namespace {

int64_t longest(const std::vector<std::vector<int32_t>>& prompts) {
  size_t n = 0;
  for (const auto& p : prompts) n = std::max(n, p.size());
  return static_cast<int64_t>(n);
}

// Whether the sequence goes on after its new token.
bool take(int32_t token, const GenerateOptions& options, Generated& out) {
  out.tokens.push_back(token);
  out.stopped = is_stop(token, options);
  return !out.stopped && std::ssize(out.tokens) < options.max_new_tokens;
}

}  // namespace

bool is_stop(int32_t token, const GenerateOptions& options) {
  return std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) !=
         options.stop_tokens.end();
}

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options) {
  std::vector<Generated> out(prompts.size());
  if (prompts.empty() || options.max_new_tokens == 0) return out;
  Decoder decoder(ctx, model, std::ssize(prompts), longest(prompts) + options.max_new_tokens);
  decoder.prefill(prompts);
  // Of every row of the batch: its prompt, which is also the stream of its draws. A sequence that is over
  // leaves its row to the last one.
  std::vector<uint64_t> rows(prompts.size());
  std::iota(rows.begin(), rows.end(), 0);
  for (uint64_t position = 0;; ++position) {
    const auto drawn = decoder.sample(options.rule, options.seed, rows, position);
    std::vector<int32_t> next(drawn.begin(), drawn.end());
    if (options.on_token)
      for (size_t r = 0; r < rows.size(); ++r) options.on_token(rows[r], next[r]);
    for (size_t r = rows.size(); r-- > 0;) {
      if (take(next[r], options, out[rows[r]])) continue;
      decoder.drop(static_cast<int64_t>(r));
      rows[r] = rows.back();
      next[r] = next.back();
      rows.pop_back();
      next.pop_back();
    }
    if (rows.empty()) return out;
    decoder.step(next);
  }
}

}  // namespace nestling
