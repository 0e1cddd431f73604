#include "runtime/server/memory_fit.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>

namespace nestling {

namespace {

namespace fs = std::filesystem;

struct Unit {
  const char* name;
  double bytes;
};
constexpr Unit kUnits[] = {
    {"", 1},      {"B", 1},      {"kB", 1e3},      {"MB", 1e6},      {"GB", 1e9},
    {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1024.0 * (1 << 30)}};

std::string line(const char* format, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string memory_text(int64_t bytes) {
  const auto n = static_cast<double>(bytes);
  return bytes >= 1 << 30 ? line("%.2f GiB", n / (1 << 30)) : line("%.1f MiB", n / (1 << 20));
}

std::string precision_text(const std::optional<Quantization>& q, Precision p) {
  const std::string products = str(dtype_name(p.compute), " products");
  return q ? str(weight_format_label(q->format), " codes and ", products) : products;
}

// One size in one precision of what a file holds or might.
struct Candidate {
  Size size;
  Precision precision = DType::kF32;
  ServingWay way;
};

Candidate candidate(const DescribedModel& model, const Size& size,
                    const std::optional<Quantization>& q, Precision precision,
                    const MemoryFitOptions& o) {
  const auto counted =
      std::make_shared<CountedModel>(model.config, size.widths, q, precision, o.device, o.real);
  const auto bytes = [counted, n = o.parallel](int64_t context) {
    return ServingBytes{.weights = counted->weight_bytes(),
                        .caches = counted->cache_bytes(n, context) + counted->step_bytes(n),
                        .working = counted->serving_bytes(n, context),
                        .opening = counted->opening_bytes()};
  };
  return {.size = size,
          .precision = precision,
          .way = {.name = str(size.name, ", ", precision_text(q, precision)), .bytes = bytes}};
}

std::vector<ServingWay> ways_of(const std::vector<Candidate>& candidates) {
  std::vector<ServingWay> ways;
  for (const Candidate& c : candidates) ways.push_back(c.way);
  return ways;
}

std::string need_text(const ServingWay& way, int64_t context) {
  return str(way.name, ": ", memory_text(way.bytes(context).total()), " with a context of ",
             context);
}

std::string quality_line(const Size& size) {
  const std::string name = "  " + size.name + ": ";
  if (!size.measured) return name + "not measured\n";
  const MeasuredQuality& m = *size.measured;
  std::string text = name;
  if (m.tokens > 0)
    text += line("KL to the parent %.5f nats a token, loss %.5f, on %lld tokens", m.kl, m.nll,
                 static_cast<long long>(m.tokens));
  if (m.problems > 0)
    text += line("%s%.1f%% of %lld problems", m.tokens > 0 ? "; " : "", 100 * m.accuracy,
                 static_cast<long long>(m.problems));
  return text + line(" (%s products)\n", m.compute.c_str());
}

// Of the size that is served beside the largest.
std::string quality_text(const fs::path& path, const DescribedModel& model, const Size& size) {
  const Size& whole = model.sizes.front();
  if (size.widths == whole.widths && !size.measured)
    return str("quality: that of ", whole.name, ", which was not measured\n");
  if (!size.measured && !whole.measured)
    return str("quality: not measured: nestling eval ", path.string(), " --size all\n");
  std::string text = "quality, as measured when the file was made:\n" + quality_line(size);
  if (size.widths != whole.widths) text += quality_line(whole);
  return text;
}

// What the largest size would take as codes.
std::string other_ways(const DescribedModel& model, const MemoryFitOptions& o, int64_t context) {
  std::string text;
  const Size& whole = model.sizes.front();
  for (const AskedQuantization& asked : possible_quantizations(model, whole)) {
    const std::string label = weight_format_label(asked.quantization.format);
    if (!asked.refused.empty()) {
      text += "  " + label + " cannot be: " + asked.refused + "\n";
      continue;
    }
    std::vector<ServingWay> ways;
    for (const Precision p : o.precisions)
      ways.push_back(candidate(model, whole, asked.quantization, p, o).way);
    const auto least = std::ranges::min_element(
        ways, {}, [&](const ServingWay& w) { return w.bytes(context).total(); });
    text += str("  ", need_text(*least, context),
                least->bytes(context).total() <= o.memory ? ", fits" : ", does not fit", "\n");
  }
  return text.empty() ? text
                      : "not in this file, but as `nestling quantize` would make it:\n" + text;
}

std::string passed_over(std::span<const ServingWay> ways, int64_t context) {
  std::string text;
  for (const ServingWay& way : ways) text += "  " + need_text(way, context) + "\n";
  return text.empty() ? text : "passed over:\n" + text;
}

[[noreturn]] void nothing_fits(std::span<const ServingWay> ways, const MemoryFitOptions& o) {
  const int64_t context = o.context.least;
  const auto least = std::ranges::min_element(
      ways, {}, [&](const ServingWay& w) { return w.bytes(context).total(); });
  throw Error(str("--fit ", memory_text(o.memory), ": nothing fits; the least is ",
                  need_text(*least, context), " and ", o.parallel, " sequences (",
                  least->bytes(context).total(), " bytes)"),
              ErrorKind::kInput);
}

std::vector<Size> sizes_of(const fs::path& path, const DescribedModel& model,
                           const std::string& asked) {
  if (asked.empty()) return model.sizes;
  if (model.elastic) return {find_elastic_size(path, asked)};
  NESTLING_CHECK_INPUT(asked == model.sizes.front().name, path.string(), ": no size '", asked,
                       "'; there is ", model.sizes.front().name);
  return model.sizes;
}

}  // namespace

int64_t parse_memory(const std::string& text) {
  double number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  constexpr double kMost = 1LL << 60;
  if (failed == std::errc() && std::isfinite(number))
    for (const Unit& unit : kUnits)
      if (std::string(end, text.data() + text.size()) == unit.name)
        if (const double bytes = number * unit.bytes; bytes >= 1 && bytes <= kMost)
          return static_cast<int64_t>(bytes);
  throw Error(str("'", text, "' is no memory: needs bytes as 16GiB, 512MiB or 8e9"),
              ErrorKind::kInput);
}

std::optional<ChosenWay> choose_way(std::span<const ServingWay> ways, ContextRange context,
                                    int64_t memory) {
  for (size_t i = 0; i < ways.size(); ++i) {
    const auto fits = [&](int64_t more) {
      return ways[i].bytes(context.least + more).total() <= memory;
    };
    if (!fits(0)) continue;
    return ChosenWay{.way = i,
                     .context = context.least + largest_fit(context.longest - context.least, fits)};
  }
  return {};
}

MemoryFit fit_memory(const fs::path& path, const MemoryFitOptions& o) {
  NESTLING_CHECK(
      1 <= o.context.least && o.context.least <= o.context.longest && !o.precisions.empty(),
      "contexts from ", o.context.least, " to ", o.context.longest, " in ", o.precisions.size(),
      " precisions");
  const DescribedModel model = describe_model(path);
  std::vector<Candidate> candidates;
  for (const Size& size : sizes_of(path, model, o.size))
    for (const Precision p : o.precisions)
      candidates.push_back(candidate(model, size, model.quantization, p, o));
  const std::vector<ServingWay> ways = ways_of(candidates);
  const std::optional<ChosenWay> chosen = choose_way(ways, o.context, o.memory);
  if (!chosen) nothing_fits(ways, o);
  const Candidate& taken = candidates[chosen->way];
  const ServingBytes bytes = taken.way.bytes(chosen->context);
  MemoryFit fit{.size = taken.size.name,
                .precision = taken.precision,
                .context = chosen->context,
                .bytes = bytes,
                .text = {}};
  fit.text =
      str("fit to ", memory_text(o.memory), " on ", device_name(o.device), ": ", taken.way.name,
          ", a context of ", fit.context, "\n", "counted: ", memory_text(bytes.total()),
          ": weights ", memory_text(bytes.weights), ", caches of ", o.parallel, " sequences ",
          memory_text(bytes.caches), ", prompts and steps ", memory_text(bytes.working),
          "; while it is opened ", memory_text(bytes.weights + bytes.opening),
          "\nnot counted: the program, its libraries, what its allocator keeps\n",
          passed_over(std::span(ways).first(chosen->way), o.context.least),
          quality_text(path, model, taken.size));
  if (model.elastic && chosen->way > 0) fit.text += other_ways(model, o, o.context.least);
  return fit;
}

}  // namespace nestling
