// units.h - one value a unit of every axis: importance scores, and the orders they make.
//
// Units         counted as in memory (slot-major): head = slot * groups + group; state = n * groups +
//               group, scored for every group by itself; query head = slot * KV heads + KV head;
//               mamba_channels one list for all heads of a layer; expert_ffn = expert * F + channel,
//               every expert with an order of its own; experts, ffn and shared_ffn plain.
// Scores        larger is more important; of a layer in `depth`.
// Order         a permutation an axis: place i of the sorted model holds unit order[i] of the parent. It
//               stays within groups: of heads and state i mod groups is kept, of query heads i mod KV
//               heads, of experts the gate's group. expert_ffn: the places of expert e of the sorted
//               model hold channels of the parent's expert that is sorted to e. In `depth` the layers,
//               most important first; layers themselves do not move.
#pragma once
#include <map>
#include <vector>

#include "model/parameters.h"

namespace nestling {

template <class T>
struct Units {
  std::vector<T> hidden;
  std::vector<std::map<Axis, std::vector<T>>> layers;  // of the axes its kind has
  std::vector<T> depth;                                // one a layer
  bool operator==(const Units&) const = default;
};
using Scores = Units<double>;
using Order = Units<int64_t>;

}  // namespace nestling
