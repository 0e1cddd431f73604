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

// Adds the tokens drawn to the sequences that go on; whether any goes on after that.
bool take(std::span<const int32_t> drawn, const GenerateOptions& options, std::vector<bool>& live,
          std::vector<Generated>& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    if (!live[i]) continue;
    const int32_t token = drawn[i];
    out[i].tokens.push_back(token);
    if (options.on_token) options.on_token(i, token);
    out[i].stopped = std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) !=
                     options.stop_tokens.end();
    live[i] = !out[i].stopped && std::ssize(out[i].tokens) < options.max_new_tokens;
  }
  return std::find(live.begin(), live.end(), true) != live.end();
}

}  // namespace

std::vector<Generated> generate(Context& ctx, LoadedModel& model,
                                const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options) {
  std::vector<Generated> out(prompts.size());
  if (prompts.empty() || options.max_new_tokens == 0) return out;
  Decoder decoder(ctx, model, std::ssize(prompts), longest(prompts) + options.max_new_tokens);
  decoder.prefill(prompts);
  std::vector<uint64_t> streams(prompts.size());
  std::iota(streams.begin(), streams.end(), 0);
  std::vector<bool> live(prompts.size(), true);
  for (uint64_t position = 0;; ++position) {
    const auto drawn = decoder.sample(options.rule, options.seed, streams, position);
    if (!take(drawn, options, live, out)) return out;
    decoder.step(drawn);
  }
}

}  // namespace nestling
