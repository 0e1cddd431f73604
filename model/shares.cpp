#include "model/shares.h"

#include <algorithm>

#include "kernels/ops/adamw.h"

namespace nestling {

namespace {

// The last place at or before `at` where a share may begin.
int64_t cut_at(std::span<const PlacedParameter> places, int64_t at) {
  int64_t begin = 0;
  for (const PlacedParameter& p : places)
    if (p.offset <= at) begin = std::max(begin, p.offset);
  return begin + (at - begin) / kNormBlock * kNormBlock;
}

}  // namespace

std::vector<Share> shares_of(std::span<const PlacedParameter> places, int64_t total, int ranks) {
  std::vector<Share> shares;
  int64_t begin = 0;
  for (int r = 1; r <= ranks; ++r) {
    const int64_t end = r == ranks ? total : cut_at(places, total / ranks * r);
    Share& share = shares.emplace_back(Share{.begin = begin, .count = end - begin, .runs = {}});
    for (const PlacedParameter& p : places) {
      const int64_t from = std::max(begin, p.offset);
      const int64_t count = std::min(end, p.offset + p.size) - from;
      if (p.trained && count > 0) share.runs.push_back({p.parameter, from - p.offset, count});
    }
    begin = end;
  }
  return shares;
}

}  // namespace nestling
