#include "trainer/run/elastic_record.h"

#include "model/router_record.h"
#include "runtime/parent.h"

namespace nestling {

namespace {

std::string lines_of(const std::map<std::string, std::string>& entries) {
  std::string text;
  for (const auto& [key, value] : entries) text += key + ": " + value + "\n";
  return text;
}

}  // namespace

StoredType stored_type(const RunConfig& config) {
  return config.store == "bf16" ? StoredType::kBF16 : StoredType::kF32;
}

ElasticModel elastic_record(const RecordSources& from) {
  const RunConfig& config = from.config;
  const Parent parent(config.parent, "parent");
  ElasticModel model{.config = from.model,
                     .sizes = {},
                     .order = from.order,
                     .scores = from.scores,
                     .router = record_router(from.router.router()),
                     .tokenizer = parent.tokenizer_files(),
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
  model.provenance = {{provenance::kParent, parent.name()},
                      {provenance::kParentDigest, from.run.inputs().at(kParentInput)},
                      {provenance::kParentLicence, parent.licence()},
                      {"config", dump_config(config)},
                      {"inputs", lines_of(from.run.inputs())},
                      {"layout", lines_of(from.run.layout())},
                      {"tokens", std::to_string(from.run.at.tokens)},
                      {"steps", std::to_string(from.run.at.step)},
                      {"seed", std::to_string(config.seed)}};
  return model;
}

}  // namespace nestling
