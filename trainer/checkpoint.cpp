#include "trainer/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>
#include <tuple>

#include "data/atomic_file.h"
#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "kernels/core/check.h"
#include "kernels/core/host_view.h"
#include "trainer/checkpoint_manifest.h"

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

// Empty for a tensor that the host can read where it is.
Tensor copy_of_device(ConstView v) {
  return v.device() == Device::kCpu ? Tensor() : on_host(v.reshape({v.size()}));
}

std::vector<ManifestTensor> write_state(const fs::path& file,
                                        const std::vector<NamedState>& tensors) {
  AtomicFile out(file);
  std::vector<ManifestTensor> list;
  std::set<std::string> names;
  for (const NamedState& t : tensors) {
    NESTLING_CHECK(t.view.dense(), t.name, ": ", t.view.describe(),
                   " cannot be saved: needs a dense tensor");
    NESTLING_CHECK(names.insert(t.name).second, t.name, " is twice in the state");
    const Tensor copied = copy_of_device(t.view);
    const ConstView host = copied ? copied.view() : ConstView(t.view);
    const std::span<const std::byte> bytes(host.data(), static_cast<size_t>(host.bytes()));
    ManifestTensor& stored = list.emplace_back();
    stored.name = t.name;
    stored.dtype = dtype_name(t.view.dtype());
    for (int d = 0; d < t.view.rank(); ++d) stored.shape.push_back(t.view.dim(d));
    stored.bytes = t.view.bytes();
    stored.crc32c = crc32c_hex(crc32c(bytes));
    out.write(bytes);
  }
  out.commit();
  return list;
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

// A checkpoint that is whole but of another model is the user's matter, not damage.
void check_same_tensors(const fs::path& checkpoint, const CheckpointManifest& manifest,
                        const std::vector<NamedState>& tensors) {
  for (size_t i = 0; i < std::max(tensors.size(), manifest.tensors.size()); ++i) {
    const std::string has = i < manifest.tensors.size()
                                ? manifest.tensors[i].name + " " + shape_text(manifest.tensors[i])
                                : "nothing";
    std::string needs = "nothing";
    if (i < tensors.size()) {
      ManifestTensor t;
      t.dtype = dtype_name(tensors[i].view.dtype());
      for (int d = 0; d < tensors[i].view.rank(); ++d) t.shape.push_back(tensors[i].view.dim(d));
      needs = tensors[i].name + " " + shape_text(t);
      NESTLING_CHECK(tensors[i].view.dense(), tensors[i].name,
                     ": needs a dense tensor to load into");
    }
    NESTLING_CHECK_INPUT(has == needs, checkpoint.string(), ": tensor ", i, " is ", has,
                         ", this run needs ", needs, "; it is another model's checkpoint");
  }
}

// One checkpoint into the tensors; absent with the reason if it is damaged.
std::optional<CheckpointMeta> load_one(const fs::path& checkpoint,
                                       const std::vector<NamedState>& tensors, std::string& why) {
  CheckpointManifest manifest;
  std::optional<MappedFile> state;
  try {
    manifest = read_manifest(checkpoint);
    state.emplace(checkpoint / kStateFile);
  } catch (const Error& e) {
    why = e.what();
    return std::nullopt;
  }
  why = check_state(checkpoint / kStateFile, manifest, state->bytes());
  if (!why.empty()) return std::nullopt;
  check_same_tensors(checkpoint, manifest, tensors);
  const std::byte* from = state->bytes().data();
  for (const NamedState& t : tensors) {
    const auto bytes = static_cast<size_t>(t.view.bytes());
    if (bytes > 0)
      copy(t.view.reshape({t.view.size()}),
           ConstView(from, t.view.dtype(), Device::kCpu, {t.view.size()}));
    from += bytes;
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

void CheckpointStore::save(const CheckpointMeta& meta, const std::vector<NamedState>& tensors) {
  fs::create_directories(directory_);
  remove_leftovers(directory_);
  // A checkpoint of this step may be there, whole or not: it stays as it is, this one lies beside it.
  std::string name = step_name(meta.counters.step);
  for (int64_t again = 1; fs::exists(directory_ / name); ++again)
    name = str(step_name(meta.counters.step), ".", again);
  const fs::path aside = directory_ / (".saving-" + name);
  fs::create_directory(aside);
  const CheckpointManifest manifest{.meta = meta,
                                    .tensors = write_state(aside / kStateFile, tensors)};
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
}

std::optional<CheckpointMeta> CheckpointStore::load(const std::vector<NamedState>& tensors,
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
    if (auto meta = load_one(checkpoint, tensors, why)) {
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
