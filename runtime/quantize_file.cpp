#include "runtime/quantize_file.h"

#include <nlohmann/json.hpp>

#include "data/json.h"
#include "model/choices.h"
#include "model/quantize.h"
#include "model/router_record.h"
#include "runtime/evaluate.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// Of every parameter the largest |activation| it is multiplied with, in any size on any of the texts.
std::vector<float> largest_inputs(Context& ctx, LoadedModel& model, const QuantizeOptions& o) {
  std::vector<float> largest(static_cast<size_t>(model.weights().count()));
  const auto comm = make_self_comm();
  model.watch_inputs(largest);
  for (const std::string& size : model.sizes()) {
    model.select(size);
    for (const std::string& text : o.texts)
      evaluate_text(ctx, *comm, model, text, {.seq_len = o.seq_len, .max_tokens = o.max_tokens});
  }
  model.watch_inputs({});
  return largest;
}

void check_edges(const ElasticModel& model, WeightFormat format, const std::string& where) {
  for (const Size& s : model.sizes)
    check_quantizable(model.config, format, s.widths, where + ": size " + s.name);
  for (const Widths& edge :
       choice_edges(model.config, std::ssize(model.sizes), model.router, where))
    check_quantizable(model.config, format, edge, where + ": a choice of the router");
}

std::string described(const QuantizeOptions& o) {
  return dump_json(Json{{"format", weight_format_name(o.format)},
                        {"texts", o.texts},
                        {"seq_len", o.seq_len},
                        {"max_tokens", o.max_tokens}},
                   -1);
}

}  // namespace

void quantize_file(Context& ctx, const fs::path& from, const fs::path& to,
                   const QuantizeOptions& o) {
  NESTLING_CHECK_INPUT(fs::exists(from) && !fs::is_directory(from), from.string(),
                       ": needs an elastic .h5");
  NESTLING_CHECK_INPUT(!fs::exists(to) || !fs::equivalent(from, to), to.string(),
                       ": is the file that is to be quantized");
  NESTLING_CHECK_INPUT(!o.texts.empty(), from.string(), ": needs text to calibrate activations by");
  ElasticHeader header = read_elastic_header(from);
  check_edges(header.model, o.format, from.string());
  LoadedModel model(from, DType::kF32);
  NESTLING_CHECK_INPUT(!model.weights().quantization(), from.string(), ": is quantized already");
  Quantization q = weight_scales(model.config(), o.format, model.weights());
  set_input_scales(q, model.config(), largest_inputs(ctx, model, o));
  const Weights codes =
      quantize_weights(ctx, model.config(), model.weights(), std::move(q), DType::kF32);
  header.model.provenance["quantization"] = described(o);
  write_elastic(to, header.model, codes, header.precision);
}

}  // namespace nestling
