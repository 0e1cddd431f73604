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

// How a manifest describes a tensor, but for its checksum.
ManifestTensor described(const NamedState& t) {
  NESTLING_CHECK(t.view.dense(), t.name, ": ", t.view.describe(),
                 " cannot be saved or loaded: needs a dense tensor");
  ManifestTensor stored;
  stored.name = t.name;
  stored.dtype = dtype_name(t.view.dtype());
  for (int d = 0; d < t.view.rank(); ++d) stored.shape.push_back(t.view.dim(d));
  stored.bytes = t.view.bytes();
  return stored;
}

// The file of the tensors, in the making.
class StateFile {
 public:
  explicit StateFile(const fs::path& path) : out_(path) {}

  void add(const NamedState& t) {
    ManifestTensor stored = described(t);
    NESTLING_CHECK(names_.insert(t.name).second, t.name, " is twice in the state");
    const HostBytes bytes(t.view);
    stored.crc32c = crc32c_hex(crc32c(bytes.get()));
    out_.write(bytes.get());
    list_.push_back(std::move(stored));
  }
  std::vector<ManifestTensor> commit() {
    out_.commit();
    return std::move(list_);
  }

 private:
  AtomicFile out_;
  std::set<std::string> names_;
  std::vector<ManifestTensor> list_;
};

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

// Every tensor's bytes, checked against the manifest; the reason why not, or "".
std::string check_state(const fs::path& file, const CheckpointManifest& manifest,
                        std::span<const std::byte> bytes) {
  size_t at = 0;
  for (const ManifestTensor& t : manifest.tensors) {
    if (t.bytes < 0 || static_cast<size_t>(t.bytes) > bytes.size() - at)
      return str(file.string(), ": ends inside ", t.name, " after ", bytes.size(), " bytes");
    const std::string found = crc32c_hex(crc32c(bytes.subspan(at, static_cast<size_t>(t.bytes))));
    if (found != t.crc32c)
      return str(file.string(), ": ", t.name, ": checksum is ", found, ", needs ", t.crc32c);
    at += static_cast<size_t>(t.bytes);
  }
  if (at != bytes.size()) return str(file.string(), ": holds ", bytes.size(), " bytes, needs ", at);
  return "";
}

std::string shape_text(const ManifestTensor& t) {
  std::string s = "[";
  for (size_t d = 0; d < t.shape.size(); ++d) s += (d ? "," : "") + std::to_string(t.shape[d]);
  return s + "] " + t.dtype;
}

// The bytes of every tensor that the state has. A checkpoint that is whole but of another model is the user's matter,
// not damage.
std::map<std::string, const std::byte*> places_of(const fs::path& checkpoint,
                                                  const CheckpointManifest& manifest,
                                                  const std::byte* bytes,
                                                  const TrainingState& state) {
  std::map<std::string, const std::byte*> places;
  std::map<std::string, std::string> there;
  for (const ManifestTensor& t : manifest.tensors) {
    places[t.name] = bytes;
    there[t.name] = shape_text(t);
    bytes += t.bytes;
  }
  const auto refuse = [&](const std::string& name, const std::string& has,
                          const std::string& needs) {
    NESTLING_CHECK_INPUT(has == needs, checkpoint.string(), ": tensor ", name, " is ", has,
                         ", this run needs ", needs, "; it is another model's checkpoint");
  };
  for (const StatePart& part : state)
    for (const NamedState& t : part.tensors) {
      const auto has = there.find(t.name);
      refuse(t.name, has == there.end() ? "absent" : has->second, shape_text(described(t)));
      there.erase(has);
    }
  for (const auto& [name, has] : there) refuse(name, has, "none");
  return places;
}

// One checkpoint into the state; absent with the reason if it is damaged.
std::optional<CheckpointMeta> load_one(const fs::path& checkpoint, const TrainingState& state,
                                       std::string& why) {
  CheckpointManifest manifest;
  std::optional<MappedFile> file;
  try {
    manifest = read_manifest(checkpoint);
    file.emplace(checkpoint / kStateFile);
  } catch (const Error& e) {
    why = e.what();
    return std::nullopt;
  }
  why = check_state(checkpoint / kStateFile, manifest, file->bytes());
  if (!why.empty()) return std::nullopt;
  const auto places = places_of(checkpoint, manifest, file->bytes().data(), state);
  for (const StatePart& part : state) {
    for (const NamedState& t : part.tensors)
      if (t.view.size() > 0)
        copy(t.view.reshape({t.view.size()}),
             ConstView(places.at(t.name), t.view.dtype(), Device::kCpu, {t.view.size()}));
    if (part.spread) part.spread();
  }
  return manifest.meta;
}

// Removes what is older than the `keep` newest checkpoints that verify. `verified` has just been read back.
void prune(const std::vector<fs::path>& oldest_first, int64_t keep, const fs::path& verified) {
  int64_t whole = 0;
  size_t oldest_kept = oldest_first.size();
  while (whole < keep && oldest_kept > 0) {
    const fs::path& path = oldest_first[--oldest_kept];
    if (path == verified || CheckpointStore::verify(path).empty()) ++whole;
  }
  for (size_t i = 0; whole >= keep && i < oldest_kept; ++i) {
    // Renamed first: a removal that is cut short leaves nothing that looks like a checkpoint.
    const fs::path& path = oldest_first[i];
    const fs::path aside = path.parent_path() / (".pruned-" + path.filename().string());
    fs::rename(path, aside);
    fs::remove_all(aside);
  }
}

}  // namespace

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

std::string CheckpointStore::verify(const std::filesystem::path& checkpoint) {
  try {
    const CheckpointManifest manifest = read_manifest(checkpoint);
    const MappedFile state(checkpoint / kStateFile);
    return check_state(checkpoint / kStateFile, manifest, state.bytes());
  } catch (const Error& e) {
    return e.what();
  }
}

void CheckpointStore::save(const CheckpointMeta& meta, const TrainingState& state, Comm& comm) {
  std::string name = step_name(meta.counters.step);
  fs::path aside;
  std::optional<StateFile> file;  // of rank 0
  comm.at_root([&] {
    fs::create_directories(directory_);
    remove_leftovers(directory_);
    // A checkpoint of this step may be there, whole or not: it stays as it is, this one lies beside it.
    for (int64_t again = 1; fs::exists(directory_ / name); ++again)
      name = str(step_name(meta.counters.step), ".", again);
    aside = directory_ / (".saving-" + name);
    fs::create_directory(aside);
    file.emplace(aside / kStateFile);
  });
  for (const StatePart& part : state) {
    if (part.gather) part.gather();
    comm.at_root([&] {
      for (const NamedState& t : part.tensors) file->add(t);
    });
  }
  comm.at_root([&] {
    const CheckpointManifest manifest{.meta = meta, .tensors = file->commit()};
    AtomicFile manifest_file(aside / kManifestFile);
    manifest_file.write(std::string_view(manifest_text(manifest)));
    manifest_file.commit();
    const std::string why = verify(aside);
    NESTLING_CHECK(why.empty(), "the checkpoint just written does not read back: ", why);
    fs::rename(aside, directory_ / name);
    sync_folder_of(directory_ / name);
    AtomicFile latest(directory_ / kLatest);
    latest.write(std::string_view(latest_line(name)));
    latest.commit();
    prune(list(), keep_, directory_ / name);
  });
}

std::optional<CheckpointMeta> CheckpointStore::load(const TrainingState& state,
                                                    std::vector<std::string>& said) const {
  std::vector<fs::path> order = list();
  if (order.empty() && !fs::exists(directory_ / kLatest)) return std::nullopt;
  std::reverse(order.begin(), order.end());
  std::string why;
  const std::string latest = read_latest(directory_, why);
  if (!why.empty()) said.push_back(why + "; taking the newest checkpoint that is whole");
  const auto named = std::find(order.begin(), order.end(), directory_ / latest);
  if (!latest.empty() && named == order.end())
    said.push_back(str((directory_ / latest).string(), ", which latest names, is missing"));
  if (!latest.empty() && named != order.end()) std::rotate(order.begin(), named, named + 1);
  for (const fs::path& checkpoint : order) {
    why.clear();
    if (auto meta = load_one(checkpoint, state, why)) {
      if (!said.empty()) said.push_back("loaded " + checkpoint.string());
      return meta;
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
