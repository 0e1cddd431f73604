#include "runtime/model_fit.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/safetensors.h"
#include "model/cost.h"
#include "model/elastic_file.h"
#include "model/elastic_quantization.h"
#include "model/gguf_import.h"
#include "model/huggingface.h"
#include "model/model.h"
#include "model/quantize.h"
#include "runtime/decode_state.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

constexpr double kGiB = 1 << 30;
constexpr int64_t kLongest = int64_t{1} << 24;     // tokens that are looked at
constexpr int64_t kMostAtOnce = int64_t{1} << 20;  // sequences

struct Described {
  ModelConfig config;
  std::vector<Size> sizes;
  std::optional<Quantization> quantization;  // none: numbers
};

bool holds_weights(const fs::path& directory) {
  return std::ranges::any_of(fs::directory_iterator(directory), [](const auto& entry) {
    return entry.path().extension() == ".safetensors";
  });
}

// config.json is enough of a directory.
Described describe(const fs::path& path) {
  NESTLING_CHECK_INPUT(fs::exists(path), path.string(), ": not found");
  if (is_gguf(path)) {
    const GgufFile file(path);
    ModelConfig config = read_gguf_config(file);
    auto quantization = read_gguf_quantization(file, config);
    Size size{.name = path.stem().string(), .target = {}, .widths = full_widths(config)};
    return {.config = std::move(config),
            .sizes = {std::move(size)},
            .quantization = std::move(quantization)};
  }
  if (!fs::is_directory(path)) {
    ElasticHeader header = read_elastic_header(path);
    return {.config = header.model.config,
            .sizes = std::move(header.model.sizes),
            .quantization = std::move(header.quantization)};
  }
  const bool weights = holds_weights(path);
  const ModelConfig config = weights ? read_weights_config(path) : read_model_config(path);
  return {.config = config,
          .sizes = {{.name = fs::weakly_canonical(path).filename().string(),
                     .target = {},
                     .widths = full_widths(config)}},
          .quantization = weights ? read_quantization(path, config) : std::nullopt};
}

struct AskedPrecision {
  std::optional<Quantization> quantization = {};  // none: bf16
  std::string refused = {};                       // why the size cannot have it
};

std::vector<AskedPrecision> precisions(const Described& model, const Size& size) {
  if (model.quantization) return {{.quantization = model.quantization}};
  std::vector<AskedPrecision> all(1);
  const std::vector<bool> quantized = quantized_parameters(model.config);
  if (std::ranges::find(quantized, true) == quantized.end()) return all;
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kNvfp4}) {
    AskedPrecision& one = all.emplace_back();
    one.quantization = unit_scales(model.config, format);
    try {
      check_quantizable(model.config, format, size.widths, size.name);
    } catch (const Error& e) {
      one.refused = e.what();
    }
  }
  return all;
}

// A model that stands alone on a card, in extents.
class OnCard {
 public:
  OnCard(const ModelConfig& config, std::optional<Quantization> q)
      : config_(config),
        weights_(config, Device::kNull, {.compute = DType::kBF16, .quantization = std::move(q)}) {
    weights_.drop_masters();
  }

  int64_t weight_bytes() const {
    const Weights::Bytes b = weights_.allocated();
    return b.masters + b.low + b.codes;
  }
  int64_t cache_bytes(int64_t sequences, int64_t tokens) {
    return state(sequences, tokens).bytes();
  }
  // Of the forward over a prompt.
  int64_t prefill_bytes(int64_t tokens) {
    Context ctx(Device::kNull);
    Arena arena(Device::kNull);
    const DecodeState cache = state(1, tokens);
    const Tensor ids(Device::kNull, DType::kI32, {tokens});
    const int32_t offsets[] = {0, static_cast<int32_t>(tokens)};
    LayerRun run{.ctx = ctx,
                 .arena = arena,
                 .config = config_,
                 .segments = Segments(offsets),
                 .save = false,
                 .activations = DType::kBF16};
    model_forward(run, weights_.params(), ids, &cache.caches());
    return arena.peak_bytes() + ctx.scratch().peak_bytes();
  }
  // Hidden states and logits behind the newest tokens (decoder.h).
  int64_t step_bytes(int64_t sequences) const {
    return sequences * (config_.hidden + config_.vocab) * dtype_bytes(DType::kF32);
  }

 private:
  DecodeState state(int64_t sequences, int64_t tokens) {
    return {Device::kNull, config_, weights_.params(), sequences, tokens, DType::kBF16};
  }
  ModelConfig config_;
  Weights weights_;
};

// The largest n <= most that fits; 0: none does.
template <class Fits>
int64_t largest(int64_t most, const Fits& fits) {
  int64_t low = 0, high = most + 1;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

FitOnCard fit_on(OnCard& model, double bytes, int64_t context) {
  const double room = bytes - static_cast<double>(model.weight_bytes());
  const auto takes = [&](int64_t sequences, int64_t tokens, int64_t prefill) {
    return static_cast<double>(model.cache_bytes(sequences, tokens) + model.step_bytes(sequences) +
                               prefill) <= room;
  };
  const int64_t prefill = model.prefill_bytes(context);
  return {
      .context = largest(kLongest, [&](int64_t n) { return takes(1, n, model.prefill_bytes(n)); }),
      .sequences = largest(kMostAtOnce, [&](int64_t n) { return takes(n, context, prefill); })};
}

ModelFit fit_size(const Described& model, const Size& size, const AskedPrecision& precision,
                  const FitOptions& options) {
  const std::optional<Quantization>& q = precision.quantization;
  const std::string label = q ? weight_format_label(q->format) : stored_name(StoredType::kBF16);
  if (!precision.refused.empty())
    return {.size = size.name, .precision = label, .refused = precision.refused, .cards = {}};
  const std::vector<ParameterSpec> specs = parameter_list(model.config);
  std::optional<Quantization> sized;
  if (q) sized = sized_quantization(sized_parameters(specs, size.widths), *q);
  OnCard card(cut_config(model.config, size.widths), std::move(sized));
  constexpr int64_t kLength = 4096;  // a multiple of what allocations are rounded to
  const int64_t once = card.cache_bytes(1, kLength), twice = card.cache_bytes(1, 2 * kLength);
  ModelFit fit{.size = size.name,
               .precision = label,
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
  const Described model = describe(path);
  std::vector<ModelFit> fits;
  for (const Size& size : model.sizes)
    for (const AskedPrecision& precision : precisions(model, size))
      fits.push_back(fit_size(model, size, precision, options));
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
