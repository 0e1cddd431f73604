#include "trainer/run/elastic_record.h"

#include <algorithm>
#include <fstream>

#include "data/crc32c.h"
#include "data/mapped_file.h"
#include "model/router_record.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// "crc32c:..." of the directory's weight files, in the order of their names.
std::string digest_of_weights(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  uint32_t crc = 0;
  for (const fs::path& file : files) crc = crc32c(MappedFile(file).bytes(), crc);
  return "crc32c:" + crc32c_hex(crc);
}

// As the model card's front matter says; empty where it says nothing.
std::string licence_of(const fs::path& directory) {
  std::ifstream card(directory / "README.md");
  const std::string key = "license:";
  for (std::string line; std::getline(card, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(' ', key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

}  // namespace

ElasticModel elastic_record(const RecordSources& from) {
  const RunConfig& config = from.config;
  ElasticModel model{.config = from.model,
                     .sizes = {},
                     .order = from.order,
                     .scores = from.scores,
                     .router = record_router(from.router.router()),
                     .tokenizer = {},
                     .provenance = {}};
  for (int64_t s = 0; s < from.router.sizes(); ++s) {
    const SizeBudget& budget = from.router.budget(s);
    const double whole = (*budget.cost)(expected(full_widths(from.model)));
    const SizeConfig& size = config.elastic.sizes[static_cast<size_t>(s)];
    model.sizes.push_back({.name = size.name,
                           .target = parse_target(size).cost,
                           .budget = budget.allowed / whole,
                           .widths = from.router.widths(s)});
  }
  for (const char* name : kTokenizerFiles) {
    const fs::path file = fs::path(config.parent) / name;
    if (fs::exists(file)) model.tokenizer[name] = std::string(MappedFile(file).text());
  }
  model.provenance = {{provenance::kParent, fs::path(config.parent).filename().string()},
                      {provenance::kParentDigest, digest_of_weights(config.parent)},
                      {provenance::kParentLicence, licence_of(config.parent)},
                      {"config", dump_config(config)},
                      {"tokens", std::to_string(from.at.tokens)},
                      {"steps", std::to_string(from.at.step)},
                      {"seed", std::to_string(config.seed)}};
  return model;
}

}  // namespace nestling
