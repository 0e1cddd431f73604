#include "runtime/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nestling {

TokenLogprobs token_logprobs(ConstView logits, int32_t token, int64_t most) {
  const float* x = logits.ptr<float>();
  const int64_t n = logits.size();
  const double peak = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - peak);
  const double all = peak + std::log(sum);
  const auto logprob = [&](int32_t id) {
    return TokenLogprob{.token = id, .logprob = static_cast<double>(x[id]) - all};
  };
  TokenLogprobs out{.chosen = logprob(token), .top = {}};
  if (most == 0) return out;
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min(n, most);
  std::partial_sort(ids.begin(), end, ids.end(),
                    [&](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
  for (auto id = ids.begin(); id != end; ++id) out.top.push_back(logprob(*id));
  return out;
}

}  // namespace nestling
