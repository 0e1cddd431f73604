#include "runtime/model_fit.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/cost.h"
#include "model/elastic_file.h"
#include "runtime/counted_model.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

constexpr double kGiB = 1 << 30;
constexpr int64_t kLongest = int64_t{1} << 24;     // tokens that are looked at
constexpr int64_t kMostAtOnce = int64_t{1} << 20;  // sequences

// As it runs on a card.
const Precision kOnCard{DType::kBF16, DType::kBF16};

FitOnCard fit_on(CountedModel& model, double bytes, int64_t context) {
  const double room = bytes - static_cast<double>(model.weight_bytes());
  const auto takes = [&](int64_t sequences, int64_t tokens, int64_t prefill) {
    return static_cast<double>(model.cache_bytes(sequences, tokens) + model.step_bytes(sequences) +
                               prefill) <= room;
  };
  const int64_t prefill = model.prefill_bytes(context);
  return {
      .context =
          largest_fit(kLongest, [&](int64_t n) { return takes(1, n, model.prefill_bytes(n)); }),
      .sequences = largest_fit(kMostAtOnce, [&](int64_t n) { return takes(n, context, prefill); })};
}

std::string precision_label(const std::optional<Quantization>& q) {
  return q ? weight_format_label(q->format) : stored_name(StoredType::kBF16);
}

ModelFit fit_size(const DescribedModel& model, const Size& size,
                  const std::optional<Quantization>& q, const FitOptions& options) {
  CountedModel card(model.config, size.widths, q, kOnCard, Device::kCuda);
  constexpr int64_t kLength = 4096;  // a multiple of what allocations are rounded to
  const int64_t once = card.cache_bytes(1, kLength), twice = card.cache_bytes(1, 2 * kLength);
  ModelFit fit{.size = size.name,
               .precision = precision_label(q),
               .parameters = parameter_cost(model.config, size.widths).total,
               .stored = stored_weight_bytes(model.config, size.widths, StoredType::kBF16, q),
               .weights = card.weight_bytes(),
               .token = (twice - once) / kLength,
               .sequence = 2 * once - twice,
               .cards = {}};
  for (const CardMemory& memory : options.cards)
    fit.cards.push_back(fit_on(card, memory.bytes, options.context));
  return fit;
}

std::string line(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string card_text(const FitOnCard& card) {
  if (card.context == 0) return "no";
  return str(card.context >= kLongest ? str(">", kLongest) : str(card.context), " / ",
             card.sequences);
}

}  // namespace

std::vector<CardMemory> usual_cards() {
  constexpr int kReserved = 2;  // GiB of driver and workspaces, assumed
  std::vector<CardMemory> cards;
  for (const int gib : {16, 24, 48, 80, 141})
    cards.push_back({str(gib, " GiB"), (gib - kReserved) * kGiB});
  return cards;
}

std::vector<ModelFit> fit_model(const fs::path& path, const FitOptions& options) {
  const DescribedModel model = describe_model(path);
  std::vector<ModelFit> fits;
  for (const Size& size : model.sizes) {
    fits.push_back(fit_size(model, size, model.quantization, options));
    for (const AskedQuantization& asked : possible_quantizations(model, size))
      if (asked.refused.empty())
        fits.push_back(fit_size(model, size, asked.quantization, options));
      else
        fits.push_back({.size = size.name,
                        .precision = precision_label(asked.quantization),
                        .refused = asked.refused,
                        .cards = {}});
  }
  return fits;
}

std::string fit_row(const ModelFit& f) {
  std::string text = line("%-12s %-9s ", f.size.c_str(), f.precision.c_str());
  if (!f.refused.empty()) return text + "cannot be: " + f.refused + "\n";
  text += line("%13lld %9.2f %9.2f %10.2f %10.2f", static_cast<long long>(f.parameters),
               static_cast<double>(f.stored) / kGiB, static_cast<double>(f.weights) / kGiB,
               static_cast<double>(f.token) / 1024, static_cast<double>(f.sequence) / (1 << 20));
  for (const FitOnCard& card : f.cards) text += line("  %16s", card_text(card).c_str());
  return text + "\n";
}

std::string fit_text(const std::vector<ModelFit>& fits, const FitOptions& options) {
  std::string text = str(
      "plan: counted, from the description alone; no run of this program on a GPU exists to hold "
      "it "
      "against\nweights in a file and on a card in GiB; caches in KiB a token and MiB a sequence "
      "besides;\nof a card: the longest context of one sequence / how many sequences of ",
      options.context, " tokens at once\n\n");
  text += line("%-12s %-9s %13s %9s %9s %10s %10s", "size", "precision", "parameters", "file",
               "card", "a token", "a sequence");
  for (const CardMemory& card : options.cards) text += line("  %16s", card.name.c_str());
  text += "\n";
  for (const ModelFit& f : fits) text += fit_row(f);
  return text +
         "\nassumed: each size opened alone, bf16 products and activations; a prompt in one "
         "forward, "
         "prompts one after another;\n2 GiB of a card, or what a cluster's file says, left to "
         "driver "
         "and workspaces; scratch as the CPU takes it\n";
}

std::string fit_json(const std::vector<ModelFit>& fits, const FitOptions& options) {
  Json all = Json::array();
  for (const ModelFit& f : fits) {
    Json cards = Json::array();
    for (size_t i = 0; i < f.cards.size(); ++i)
      cards.push_back({{"name", options.cards[i].name},
                       {"bytes", options.cards[i].bytes},
                       {"context", f.cards[i].context},
                       {"sequences", f.cards[i].sequences}});
    all.push_back({{"name", f.size},
                   {"precision", f.precision},
                   {"refused", f.refused.empty() ? Json(nullptr) : Json(f.refused)},
                   {"params_total", f.parameters},
                   {"stored_bytes", f.stored},
                   {"weight_bytes", f.weights},
                   {"cache_bytes_per_token", f.token},
                   {"cache_bytes_per_sequence", f.sequence},
                   {"cards", cards}});
  }
  return dump_json(Json{{"kind", "counted"}, {"context", options.context}, {"sizes", all}}, -1);
}

}  // namespace nestling
