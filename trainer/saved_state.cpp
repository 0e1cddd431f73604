#include "trainer/saved_state.h"

#include <algorithm>
#include <set>

#include "data/crc32c.h"
#include "kernels/core/check.h"

namespace nestling {

namespace {

std::string described(const std::vector<int64_t>& shape, const std::string& dtype) {
  std::string s = "[";
  for (size_t d = 0; d < shape.size(); ++d) s += (d > 0 ? "," : "") + std::to_string(shape[d]);
  return s + "] " + dtype;
}

}  // namespace

SavedState::SavedState(const std::filesystem::path& checkpoint)
    : checkpoint_(checkpoint), manifest_(read_manifest(checkpoint)) {
  open_files();
  place_runs();
}

// Each of exactly the bytes of its runs.
void SavedState::open_files() {
  std::map<int64_t, int64_t> bytes;
  for (const SavedRun& run : manifest_.runs) bytes[run.rank] += run.bytes;
  for (const auto& [rank, needs] : bytes) {
    const auto path = checkpoint_ / state_file_name(rank);
    const auto& file = files_.emplace(rank, path).first->second;
    NESTLING_CHECK_INPUT(std::ssize(file.bytes()) == needs, path.string(), ": holds ",
                         file.bytes().size(), " bytes, needs ", needs);
  }
}

void SavedState::place_runs() {
  std::map<int64_t, int64_t> at;  // in each file
  for (const SavedRun& run : manifest_.runs) {
    int64_t& offset = at[run.rank];
    Tensor& t = tensors_[run.name];
    t.described = described(run.shape, run.dtype);
    t.size = 1;
    for (const int64_t extent : run.shape) t.size *= extent;
    if (run.count > 0) t.item = run.bytes / run.count;
    t.runs.push_back({run.begin, run.count, files_.at(run.rank).bytes().data() + offset});
    offset += run.bytes;
  }
  for (auto& [name, t] : tensors_) {
    std::ranges::sort(t.runs, {}, &Run::begin);
    int64_t end = 0;
    for (const Run& run : t.runs) {
      NESTLING_CHECK_INPUT(run.begin == end, (checkpoint_ / kManifestFile).string(), ": ", name,
                           ": a run begins at ", run.begin, ", needs ", end);
      end += run.count;
    }
    NESTLING_CHECK_INPUT(end == t.size, (checkpoint_ / kManifestFile).string(), ": ", name,
                         ": its runs hold ", end, " elements of ", t.size);
  }
}

std::string SavedState::check(int64_t part, int64_t of) const {
  int64_t number = 0;
  for (const auto& [rank, file] : files_) {
    if (number++ % of != part) continue;
    int64_t at = 0;
    for (const SavedRun& run : manifest_.runs) {
      if (run.rank != rank) continue;
      const std::string found = crc32c_hex(
          crc32c(file.bytes().subspan(static_cast<size_t>(at), static_cast<size_t>(run.bytes))));
      if (found != run.crc32c)
        return str((checkpoint_ / state_file_name(rank)).string(), ": ", run.name, ": checksum is ",
                   found, ", needs ", run.crc32c);
      at += run.bytes;
    }
  }
  return "";
}

void SavedState::check_names(const TrainingState& state) const {
  const auto refuse = [&](const std::string& name, const std::string& has,
                          const std::string& needs) {
    NESTLING_CHECK_INPUT(has == needs, checkpoint_.string(), ": tensor ", name, " is ", has,
                         ", this run needs ", needs, "; it is another model's checkpoint");
  };
  std::set<std::string> wanted;
  for (const StateRun& run : state) {
    const auto has = tensors_.find(run.name);
    refuse(run.name, has == tensors_.end() ? "absent" : has->second.described,
           described(run.shape, dtype_name(run.view.dtype())));
    wanted.insert(run.name);
  }
  for (const auto& [name, t] : tensors_)
    if (!wanted.contains(name)) refuse(name, t.described, "none");
}

void SavedState::each(const std::string& name, int64_t begin, int64_t count,
                      const std::function<void(std::span<const std::byte>)>& fn) const {
  const Tensor& t = tensors_.at(name);
  for (const Run& run : t.runs) {
    const int64_t from = std::max(begin, run.begin);
    const int64_t n = std::min(begin + count, run.begin + run.count) - from;
    if (n > 0) fn({run.data + (from - run.begin) * t.item, static_cast<size_t>(n * t.item)});
  }
}

}  // namespace nestling
