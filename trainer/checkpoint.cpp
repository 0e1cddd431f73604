#include "trainer/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <tuple>

#include "data/atomic_file.h"
#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "kernels/core/check.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/host_bytes.h"
#include "trainer/saved_state.h"
#include "trainer/texts_of_ranks.h"

namespace nestling {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLatest = "latest";

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof(name), "step-%06lld", static_cast<long long>(step));
  return name;
}

// "step-000123" is {123, 0}; "step-000123.2", saved again at that step, is {123, 2}.
std::optional<std::tuple<int64_t, int64_t>> parse_step_name(const std::string& name) {
  long long step = 0;
  long long again = 0;
  int used = 0;
  if (std::sscanf(name.c_str(), "step-%18lld%n", &step, &used) != 1 || step < 0)
    return std::nullopt;
  if (name.substr(static_cast<size_t>(used)).starts_with(".") &&
      std::sscanf(name.c_str() + used, ".%9lld", &again) != 1)
    return std::nullopt;
  const std::string canonical = step_name(step) + (again > 0 ? str(".", again) : "");
  if (name != canonical) return std::nullopt;
  return std::tuple<int64_t, int64_t>{step, again};
}

// What a killed save or prune left behind.
void remove_leftovers(const fs::path& directory) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".saving-") || name.starts_with(".pruned-") ||
        name.starts_with("latest.tmp."))
      found.push_back(entry.path());
  }
  for (const fs::path& path : found) fs::remove_all(path);
}

// A rank's file, in the making.
class StateFile {
 public:
  StateFile(const fs::path& folder, int64_t rank)
      : out_(folder / state_file_name(rank)), rank_(rank) {}

  void add(const StateRun& run) {
    const HostBytes bytes(run.view);
    out_.write(bytes.get());
    runs_.push_back({.name = run.name,
                     .dtype = dtype_name(run.view.dtype()),
                     .shape = run.shape,
                     .begin = run.begin,
                     .count = run.view.size(),
                     .bytes = run.view.bytes(),
                     .rank = rank_,
                     .crc32c = crc32c_hex(crc32c(bytes.get()))});
  }
  std::vector<SavedRun> commit() {
    out_.commit();
    return std::move(runs_);
  }

 private:
  AtomicFile out_;
  int64_t rank_;
  std::vector<SavedRun> runs_;
};

void check_run(const StateRun& run) {
  int64_t size = 1;
  for (const int64_t extent : run.shape) size *= extent;
  NESTLING_CHECK(run.view.dense() && run.begin >= 0 && run.begin + run.view.size() <= size,
                 run.name, ": ", run.view.describe(), " from element ", run.begin, " of ", size,
                 " cannot be saved or loaded: needs a dense run of the tensor");
}

// What this rank saves, written, synced and read back.
std::vector<SavedRun> write_runs(const fs::path& folder, const TrainingState& state, int64_t rank) {
  const bool any = std::ranges::any_of(
      state, [](const StateRun& run) { return run.saved && run.view.size() > 0; });
  if (!any) return {};
  StateFile file(folder, rank);
  for (const StateRun& run : state) {
    check_run(run);
    if (run.saved && run.view.size() > 0) file.add(run);
  }
  std::vector<SavedRun> runs = file.commit();
  const MappedFile written(folder / state_file_name(rank));
  std::span<const std::byte> bytes = written.bytes();
  for (const SavedRun& run : runs) {
    const auto n = static_cast<size_t>(run.bytes);
    NESTLING_CHECK(n <= bytes.size() && crc32c_hex(crc32c(bytes.first(n))) == run.crc32c,
                   (folder / state_file_name(rank)).string(), ": ", run.name,
                   " just written does not read back");
    bytes = bytes.subspan(n);
  }
  return runs;
}

std::string latest_line(const std::string& name) {
  return name + " crc32c " + crc32c_hex(crc32c(name)) + "\n";
}

// The checkpoint that `latest` names; "" with a reason in `why` if it is absent or damaged.
std::string read_latest(const fs::path& directory, std::string& why) {
  const fs::path file = directory / kLatest;
  if (!fs::exists(file)) {
    why = file.string() + " is missing";
    return "";
  }
  const MappedFile mapped(file);
  const std::string text(mapped.text());
  std::string name = text.substr(0, text.find(' '));
  if (text == latest_line(name) && parse_step_name(name)) return name;
  why = file.string() + " is damaged";
  return "";
}

// Why a checkpoint is not whole, or "": the same on every rank, which check its files between them.
std::string why_not_whole(const fs::path& checkpoint, Comm& comm) {
  std::string why;
  try {
    why = SavedState(checkpoint).check(comm.rank(), comm.size());
  } catch (const Error& e) {
    why = e.what();
  }
  for (const std::string& of_rank : texts_of_ranks(comm, why))
    if (!of_rank.empty()) return of_rank;
  return "";
}

void fill(const TrainingState& state, const SavedState& from) {
  for (const StateRun& run : state) {
    check_run(run);
    const View flat = run.view.reshape({run.view.size()});
    int64_t at = 0;
    from.each(run.name, run.begin, run.view.size(), [&](std::span<const std::byte> bytes) {
      const int64_t n = std::ssize(bytes) / dtype_bytes(flat.dtype());
      copy(flat.slice(0, at, n), ConstView(bytes.data(), flat.dtype(), Device::kCpu, {n}));
      at += n;
    });
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// What rank 0 finds, at every rank.
std::vector<fs::path> list_of_root(const CheckpointStore& store, Comm& comm) {
  std::string text;
  if (comm.rank() == 0)
    for (const fs::path& path : store.list()) text += path.string() + "\n";
  std::vector<fs::path> paths;
  for (const std::string& line : lines_of(text_of_root(comm, text))) paths.emplace_back(line);
  return paths;
}

}  // namespace

StateRun whole_run(const NamedState& tensor, bool saved) {
  StateRun run{.name = tensor.name, .shape = {}, .begin = 0, .view = tensor.view, .saved = saved};
  for (int d = 0; d < tensor.view.rank(); ++d) run.shape.push_back(tensor.view.dim(d));
  return run;
}

CheckpointStore::CheckpointStore(std::filesystem::path directory, int64_t keep)
    : directory_(std::move(directory)), keep_(keep) {
  NESTLING_CHECK_INPUT(keep >= 2, "checkpoint.keep is ", keep, ", needs at least 2");
}

std::vector<std::filesystem::path> CheckpointStore::list() const {
  std::vector<std::pair<std::tuple<int64_t, int64_t>, fs::path>> found;
  if (fs::exists(directory_))
    for (const auto& entry : fs::directory_iterator(directory_))
      if (const auto step = parse_step_name(entry.path().filename().string()))
        found.emplace_back(*step, entry.path());
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  paths.reserve(found.size());
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

void CheckpointStore::save(const CheckpointMeta& meta, const TrainingState& state, Comm& comm) {
  std::string name = step_name(meta.counters.step);
  comm.at_root([&] {
    fs::create_directories(directory_);
    remove_leftovers(directory_);
    // A checkpoint of this step may be there, whole or not: it stays as it is, this one lies beside it.
    for (int64_t again = 1; fs::exists(directory_ / name); ++again)
      name = str(step_name(meta.counters.step), ".", again);
    fs::create_directory(directory_ / (".saving-" + name));
  });
  name = text_of_root(comm, name);
  const fs::path aside = directory_ / (".saving-" + name);
  CheckpointManifest manifest{.meta = meta, .runs = {}};
  const std::string own = runs_text(write_runs(aside, state, comm.rank()));
  for (const std::string& of_rank : texts_of_ranks(comm, own))
    for (SavedRun& run : parse_runs(of_rank)) manifest.runs.push_back(std::move(run));
  comm.at_root([&] {
    AtomicFile manifest_file(aside / kManifestFile);
    manifest_file.write(std::string_view(manifest_text(manifest)));
    manifest_file.commit();
    SavedState(aside).check_names(state);  // and that the runs of all ranks make up the tensors
    fs::rename(aside, directory_ / name);
    sync_folder_of(directory_ / name);
    AtomicFile latest(directory_ / kLatest);
    latest.write(std::string_view(latest_line(name)));
    latest.commit();
  });
  prune(directory_ / name, comm);
}

// Removes what is older than the `keep` newest checkpoints that verify. `verified` has just been read back.
void CheckpointStore::prune(const fs::path& verified, Comm& comm) const {
  const std::vector<fs::path> oldest_first = list_of_root(*this, comm);
  int64_t whole = 0;
  size_t oldest_kept = oldest_first.size();
  while (whole < keep_ && oldest_kept > 0) {
    const fs::path& path = oldest_first[--oldest_kept];
    if (path == verified || why_not_whole(path, comm).empty()) ++whole;
  }
  if (whole < keep_) return;
  comm.at_root([&] {
    for (size_t i = 0; i < oldest_kept; ++i) {
      // Renamed first: a removal that is cut short leaves nothing that looks like a checkpoint.
      const fs::path& path = oldest_first[i];
      const fs::path aside = path.parent_path() / (".pruned-" + path.filename().string());
      fs::rename(path, aside);
      fs::remove_all(aside);
    }
  });
}

std::optional<CheckpointMeta> CheckpointStore::load(const TrainingState& state,
                                                    std::vector<std::string>& said,
                                                    Comm& comm) const {
  std::vector<fs::path> order = list_of_root(*this, comm);
  const std::string latest_there =
      text_of_root(comm, comm.rank() == 0 && fs::exists(directory_ / kLatest) ? "there" : "");
  if (order.empty() && latest_there.empty()) return std::nullopt;
  std::reverse(order.begin(), order.end());
  std::string why, latest;
  if (comm.rank() == 0) latest = read_latest(directory_, why);
  latest = text_of_root(comm, latest);
  why = text_of_root(comm, why);
  if (!why.empty()) said.push_back(why + "; taking the newest checkpoint that is whole");
  const auto named = std::find(order.begin(), order.end(), directory_ / latest);
  if (!latest.empty() && named == order.end())
    said.push_back(str((directory_ / latest).string(), ", which latest names, is missing"));
  if (!latest.empty() && named != order.end()) std::rotate(order.begin(), named, named + 1);
  for (const fs::path& checkpoint : order) {
    why = why_not_whole(checkpoint, comm);
    if (why.empty()) {
      const SavedState saved(checkpoint);
      saved.check_names(state);
      fill(state, saved);
      if (!said.empty()) said.push_back("loaded " + checkpoint.string());
      return saved.meta();
    }
    said.push_back("passed over a damaged checkpoint: " + why);
  }
  std::string all;
  for (const std::string& line : said) all += "\n  " + line;
  throw Error(str(directory_.string(), ": holds checkpoints, none of which is whole:", all,
                  "\nRemove the folder to begin again from step 0."),
              ErrorKind::kInput);
}

}  // namespace nestling
