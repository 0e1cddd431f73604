#include "runtime/model_card.h"

#include <algorithm>
#include <iomanip>
#include <map>

namespace nestling {

namespace {

std::string said(const ElasticModel& m, const char* key) {
  const auto at = m.provenance.find(key);
  return at == m.provenance.end() || at->second.empty() ? "not stated" : at->second;
}

std::string percent(double share) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << 100 * share << "%";
  return out.str();
}

// A value of the card's first block: one line, quoted.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

std::string front_matter(const ElasticModel& m) {
  const std::string licence = said(m, provenance::kParentLicence);
  std::string text = "---\nlicense: " + (licence == "not stated" ? "unknown" : quoted(licence));
  const std::string parent = said(m, provenance::kParent);
  if (parent != "not stated") text += "\nbase_model: " + quoted(parent);
  return text + "\npipeline_tag: text-generation\ntags: [nestling, elastic]\n---\n";
}

// Least and most width of every axis over the layers that stay.
struct Range {
  int64_t least, most;
  std::string text() const { return least == most ? str(least) : str(least, " to ", most); }
};
struct Ranges {
  std::map<Axis, Range> of;
  int64_t kept = 0;
};
Ranges ranges(const ModelConfig& config, const Widths& widths) {
  Ranges r;
  for (int64_t l = 0; l < config.layers(); ++l) {
    if (widths.layers[static_cast<size_t>(l)].kept == 0) continue;
    ++r.kept;
    for (const Axis axis : axes_of(config, config.kind(l))) {
      const int64_t w = width_of(widths, l, axis);
      Range& range = r.of.try_emplace(axis, Range{w, w}).first->second;
      range = {std::min(range.least, w), std::max(range.most, w)};
    }
  }
  return r;
}

std::string widths_table(const ElasticModel& m, const Size& size) {
  const Ranges full = ranges(m.config, full_widths(m.config));
  const Ranges here = ranges(m.config, size.widths);
  std::string rows = str("| hidden | ", m.config.hidden, " | ", size.widths.hidden, " |\n");
  for (const auto& [axis, range] : here.of)
    rows += str("| ", axis_name(axis), " | ", full.of.at(axis).text(), " | ", range.text(), " |\n");
  return rows + str("| layers | ", full.kept, " | ", here.kept, " |\n");
}

}  // namespace

std::string widths_text(const ModelConfig& config, const Widths& widths) {
  const Ranges r = ranges(config, widths);
  std::string text = str("hidden ", widths.hidden);
  for (const auto& [axis, range] : r.of) text += str(", ", axis_name(axis), " ", range.text());
  return text + str(", layers ", r.kept);
}

std::string model_card(const ElasticModel& m, const Size& size, const ModelConfig& cut,
                       const std::string& stored_as) {
  const ParameterCost cost = parameter_cost(cut);
  const ParameterCost full = parameter_cost(m.config);
  std::string card = front_matter(m) + "# " + said(m, provenance::kParent) + ", size " + size.name +
                     "\n\nCut out of an elastic checkpoint: every weight is one of its largest "
                     "size's; nothing was trained for the cut.\n\n| | |\n|---|---|\n";
  const auto row = [&](const char* key, const std::string& value) {
    card += str("| ", key, " | ", value, " |\n");
  };
  row("parent", said(m, provenance::kParent));
  row("parent's licence", said(m, provenance::kParentLicence));
  row("parent's digest", said(m, provenance::kParentDigest));
  row("size", size.trained ? size.name
                           : size.name +
                                 ": the router's widths for this budget, between two sizes "
                                 "that were trained; not trained by itself");
  row("budget", percent(size.budget) + " of the parent's " + target_text(size.target));
  row("parameters", str(cost.total, " (parent ", full.total, ")"));
  row("active parameters", str(cost.active, " (parent ", full.active, ")"));
  row("stored as", stored_as);
  card += "\n## Widths\n| axis | parent | here |\n|---|---|---|\n" + widths_table(m, size);
  card += "\n## Provenance\n";
  if (m.provenance.empty()) card += "Not stated.\n";
  for (const auto& [key, text] : m.provenance) {
    const bool block = text.find('\n') != std::string::npos;
    card += block ? str("\n", key, ":\n\n```\n", text, text.ends_with('\n') ? "" : "\n", "```\n")
                  : str("- ", key, ": ", text, "\n");
  }
  return card;
}

}  // namespace nestling
