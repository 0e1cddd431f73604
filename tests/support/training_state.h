// training_state.h - what a state of training holds, brought together and copied to the host.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/host_view.h"
#include "trainer/checkpoint.h"

namespace nestling::testing {

inline std::vector<std::pair<std::string, Tensor>> gathered(const TrainingState& state) {
  std::vector<std::pair<std::string, Tensor>> all;
  for (const StatePart& part : state) {
    if (part.gather) part.gather();
    for (const NamedState& t : part.tensors) {
      Tensor& host = all.emplace_back(t.name, Tensor()).second;
      host = Tensor(Device::kCpu, t.view.dtype(), {t.view.size()});
      copy(host.view(), t.view.reshape({t.view.size()}));
    }
  }
  return all;
}

inline std::vector<std::byte> bytes_of(const TrainingState& state) {
  std::vector<std::byte> all;
  for (const auto& [name, tensor] : gathered(state)) {
    const std::byte* begin = tensor.view().data();
    all.insert(all.end(), begin, begin + tensor.view().bytes());
  }
  return all;
}

}  // namespace nestling::testing
