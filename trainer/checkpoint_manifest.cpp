#include "trainer/checkpoint_manifest.h"

#include <nlohmann/json.hpp>

#include "data/crc32c.h"
#include "data/json.h"
#include "data/mapped_file.h"

namespace nestling {
namespace {

constexpr const char* kFormat = "nestling training checkpoint";
constexpr int64_t kVersion = 2;
constexpr std::string_view kSeal = "\"manifest_crc32c\": \"";
constexpr std::string_view kZeros = "00000000";

// Name and place of every counter: written and read by one list.
template <class Counters, class Visit>
void visit_counters(Counters& c, Visit visit) {
  visit("step", c.step);
  visit("updates", c.updates);
  visit("tokens", c.tokens);
  visit("position", c.position);
  visit("skipped", c.skipped);
}

// Where the digits of the seal begin. Quotes inside a JSON string are escaped, so text there cannot
// look like the field.
size_t seal_place(std::string_view text, const std::string& file) {
  const size_t at = text.find(kSeal);
  NESTLING_CHECK_INPUT(at != std::string_view::npos && text.find(kSeal, at + 1) == text.npos &&
                           at + kSeal.size() + kZeros.size() <= text.size(),
                       file, ": has no manifest_crc32c");
  return at + kSeal.size();
}

void check_seal(const std::filesystem::path& file, std::string_view text) {
  const size_t place = seal_place(text, file.string());
  std::string blank(text);
  blank.replace(place, kZeros.size(), kZeros);
  const std::string found = crc32c_hex(crc32c(blank));
  const std::string_view written = text.substr(place, kZeros.size());
  NESTLING_CHECK_INPUT(found == written, file.string(), ": checksum is ", found, ", needs ",
                       written);
}

Json json_of(const std::vector<SavedRun>& runs) {
  Json all = Json::array();
  for (const SavedRun& r : runs)
    all.push_back({{"name", r.name},
                   {"dtype", r.dtype},
                   {"shape", r.shape},
                   {"begin", r.begin},
                   {"count", r.count},
                   {"bytes", r.bytes},
                   {"rank", r.rank},
                   {"crc32c", r.crc32c}});
  return all;
}

std::vector<SavedRun> runs_of(JsonRef list, int64_t version) {
  std::vector<SavedRun> runs;
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonRef r = list.at(i);
    SavedRun& out = runs.emplace_back();
    out.name = r.at("name").string();
    out.dtype = r.at("dtype").string();
    out.bytes = r.at("bytes").integer();
    out.crc32c = r.at("crc32c").string();
    int64_t whole = 1;
    for (size_t d = 0; d < r.at("shape").size(); ++d)
      whole *= out.shape.emplace_back(r.at("shape").at(d).integer());
    out.begin = version == 1 ? 0 : r.at("begin").integer();
    out.count = version == 1 ? whole : r.at("count").integer();
    out.rank = version == 1 ? 0 : r.at("rank").integer();
  }
  return runs;
}

}  // namespace

std::string state_file_name(int64_t rank) {
  return str("rank-", rank, ".state");
}

std::string runs_text(const std::vector<SavedRun>& runs) {
  return dump_json(json_of(runs), -1);
}

std::vector<SavedRun> parse_runs(const std::string& text) {
  const JsonDocument document = parse_json(text, "runs of a rank");
  return runs_of(document.root(), kVersion);
}

std::string manifest_text(const CheckpointManifest& manifest) {
  Json j;
  j["format"] = kFormat;
  j["version"] = kVersion;
  j["config"] = manifest.meta.config;
  j["layout"] = manifest.meta.layout;
  j["inputs"] = manifest.meta.inputs;
  visit_counters(manifest.meta.counters,
                 [&](const char* key, int64_t value) { j["counters"][key] = value; });
  j["tensors"] = json_of(manifest.runs);
  j["manifest_crc32c"] = kZeros;
  std::string text = dump_json(j) + "\n";
  text.replace(seal_place(text, kManifestFile), kZeros.size(), crc32c_hex(crc32c(text)));
  return text;
}

CheckpointManifest read_manifest(const std::filesystem::path& checkpoint) {
  const auto file = checkpoint / kManifestFile;
  const MappedFile mapped(file);
  check_seal(file, mapped.text());
  const JsonDocument document = parse_json(mapped.text(), file.string());
  const JsonRef root = document.root();
  const int64_t version = root.at("version").integer();
  NESTLING_CHECK_INPUT(root.at("format").string() == kFormat && version >= 1 && version <= kVersion,
                       file.string(), ": needs format '", kFormat, "' of version ", kVersion,
                       " at most");
  CheckpointManifest m;
  m.meta.config = root.at("config").string();
  const auto fill = [](JsonRef from, std::map<std::string, std::string>& entries) {
    from.for_each([&](const std::string& key, JsonRef value) { entries[key] = value.string(); });
  };
  fill(root.at("layout"), m.meta.layout);
  if (const JsonRef inputs = root.find("inputs")) fill(inputs, m.meta.inputs);  // older: none
  const JsonRef counters = root.at("counters");
  visit_counters(m.meta.counters,
                 [&](const char* key, int64_t& value) { value = counters.at(key).integer(); });
  m.runs = runs_of(root.at("tensors"), version);
  return m;
}

}  // namespace nestling
