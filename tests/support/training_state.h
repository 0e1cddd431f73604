// training_state.h - what a state of training holds, on the host, and states handed on and compared as checkpoints do.
#pragma once
#include <filesystem>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/host_view.h"
#include "tests/support/temp_dir.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_difference.h"
#include "trainer/texts_of_ranks.h"

namespace nestling::testing {

// Every tensor as far as this rank holds it, zeros where it does not, by its name.
inline std::vector<std::pair<std::string, Tensor>> gathered(const TrainingState& state) {
  std::map<std::string, Tensor> all;
  for (const StateRun& run : state) {
    int64_t size = 1;
    for (const int64_t extent : run.shape) size *= extent;
    Tensor& whole = all[run.name];
    if (!whole) whole = Tensor(Device::kCpu, run.view.dtype(), {size});
    if (run.view.size() > 0)
      copy(whole.view().slice(0, run.begin, run.view.size()), run.view.reshape({run.view.size()}));
  }
  std::vector<std::pair<std::string, Tensor>> list;
  for (auto& [name, tensor] : all) list.emplace_back(name, std::move(tensor));
  return list;
}

// The whole of every tensor, from the ranks that save it. Numbers alone: a -0 is 0.
inline std::map<std::string, Tensor> whole_tensors(TrainingState state, Comm& comm) {
  for (StateRun& run : state)
    if (!run.saved) run.view = run.view.reshape({run.view.size()}).slice(0, 0, 0);
  std::map<std::string, Tensor> all;
  Context host(Device::kCpu);
  for (auto& [name, tensor] : gathered(state)) {
    comm.all_reduce(host, tensor.view(), Reduce::kSum);
    all[name] = std::move(tensor);
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

// A state on disk, where all ranks of `comm` find it.
class SavedOnce {
 public:
  SavedOnce(const TrainingState& state, Comm& comm)
      : folder_(text_of_root(comm, dir_.path().string())), store_(folder_, 2), comm_(comm) {
    store_.save({.counters = {}, .layout = {}, .inputs = {}, .config = {}}, state, comm);
  }
  ~SavedOnce() { comm_.barrier(); }
  SavedOnce(const SavedOnce&) = delete;
  SavedOnce& operator=(const SavedOnce&) = delete;
  void load(const TrainingState& state, Comm& comm) {
    std::vector<std::string> said;
    EXPECT_TRUE(store_.load(state, said, comm));
  }
  StateDifference difference(const TrainingState& state) {
    return difference_from_checkpoint(state, {}, store_.list().back());
  }

 private:
  TempDir dir_;
  std::filesystem::path folder_;
  CheckpointStore store_;
  Comm& comm_;
};

}  // namespace nestling::testing
