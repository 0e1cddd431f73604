#include "trainer/optimizer_shards.h"

#include <algorithm>
#include <numeric>

#include "kernels/ops/adamw.h"

namespace nestling {

namespace {

std::vector<int64_t> in_flat_order(const Weights& weights) {
  std::vector<int64_t> order(static_cast<size_t>(weights.count()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return weights.offset(a) < weights.offset(b); });
  return order;
}

// The last place at or before `at` where a shard may begin.
int64_t cut_at(const Weights& weights, int64_t at) {
  int64_t begin = 0;
  for (int64_t i = 0; i < weights.count(); ++i)
    if (weights.offset(i) <= at) begin = std::max(begin, weights.offset(i));
  return begin + (at - begin) / kNormBlock * kNormBlock;
}

}  // namespace

std::vector<OptimizerShard> optimizer_shards(const Weights& weights, int ranks) {
  const std::vector<int64_t> order = in_flat_order(weights);
  const int64_t total = weights.flat_size();
  std::vector<OptimizerShard> shards;
  int64_t begin = 0;
  for (int r = 1; r <= ranks; ++r) {
    const int64_t end = r == ranks ? total : cut_at(weights, total / ranks * r);
    OptimizerShard& shard = shards.emplace_back(OptimizerShard{begin, end - begin, {}, 0});
    for (const int64_t i : order) {
      const ParameterSpec& spec = weights.specs()[static_cast<size_t>(i)];
      const int64_t from = std::max(begin, weights.offset(i));
      const int64_t count = std::min(end, weights.offset(i) + spec.size()) - from;
      if (!spec.trained || count <= 0) continue;
      shard.runs.push_back({i, from - weights.offset(i), count});
      shard.blocks += norm_blocks(count);
    }
    begin = end;
  }
  return shards;
}

}  // namespace nestling
