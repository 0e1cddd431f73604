// saved_state.h - the files of one checkpoint, opened for reading.
//
// Errors        what is missing, shorter or otherwise than its manifest says, and runs that do not make up their
//               tensors: Error of kind kInput naming the file.
// Ownership     owns its mappings of the files; what each() shows lives as long.
// Threads       one writer of the checkpoint at a time, readers any.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "trainer/checkpoint_manifest.h"

namespace nestling {

class SavedState {
 public:
  explicit SavedState(const std::filesystem::path& checkpoint);

  const CheckpointMeta& meta() const { return manifest_.meta; }
  int64_t tensors() const { return static_cast<int64_t>(tensors_.size()); }
  // Every byte of the files against the checksums; of file number f where f % of == part. The reason why not, or "".
  std::string check(int64_t part = 0, int64_t of = 1) const;
  // Whether its tensors are those of a state: else it is another model's, kInput.
  void check_names(const TrainingState& state) const;
  bool has(const std::string& name) const { return tensors_.contains(name); }
  // fn(bytes) for what is saved of elements [begin, begin + count) of a tensor, in order.
  void each(const std::string& name, int64_t begin, int64_t count,
            const std::function<void(std::span<const std::byte>)>& fn) const;

 private:
  struct Run {
    int64_t begin, count;
    const std::byte* data;
  };
  struct Tensor {
    std::string described;  // "[3,5] f32"
    int64_t size = 0, item = 0;
    std::vector<Run> runs;  // by their begins, without gap or overlap
  };
  void open_files();
  void place_runs();

  std::filesystem::path checkpoint_;
  CheckpointManifest manifest_;
  std::map<int64_t, MappedFile> files_;  // by rank
  std::map<std::string, Tensor> tensors_;
};

}  // namespace nestling
