#include "runtime/quantize_file.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/atomic_file.h"
#include "data/gguf_reader.h"
#include "data/json.h"
#include "kernels/core/host_view.h"
#include "model/elastic_quantization.h"
#include "model/quantize.h"
#include "runtime/evaluate.h"

namespace nestling {

namespace {

namespace fs = std::filesystem;

// Of every parameter the largest |activation| it is multiplied with, in any size on any of the texts.
std::vector<float> largest_inputs(Context& ctx, LoadedModel& model, const fs::path& from,
                                  const QuantizeOptions& o) {
  Tensor seen(ctx.device(), DType::kF32, {model.weights().count()});
  fill_zero(seen.view());
  std::vector<float> largest;
  const auto comm = make_self_comm();
  model.watch_inputs(seen.view());
  for (const std::string& size : model.sizes()) {
    model.select(size);
    for (const std::string& text : o.texts) {
      if (o.progress) o.progress(size, text);
      evaluate_text(ctx, *comm, model, text, {.seq_len = o.seq_len, .max_tokens = o.max_tokens});
      const Tensor host = on_host(seen.view());
      largest.assign(host.ptr<float>(), host.ptr<float>() + host.size());
      for (size_t i = 0; i < largest.size(); ++i)
        NESTLING_CHECK_INPUT(std::isfinite(largest[i]), from.string(), ": size ", size, " on ",
                             text, ": an activation that ", model.weights().specs()[i].name,
                             " is multiplied with is not finite");
    }
  }
  model.watch_inputs({});
  return largest;
}

std::string described(const QuantizeOptions& o, const std::string& source) {
  return dump_json(Json{{"format", weight_format_name(o.format)},
                        {"source", source},
                        {"texts", o.texts},
                        {"text_digests", o.digests},
                        {"seq_len", o.seq_len},
                        {"max_tokens", o.max_tokens}},
                   -1);
}

}  // namespace

void quantize_file(Context& ctx, const fs::path& from, const fs::path& to,
                   const QuantizeOptions& o) {
  NESTLING_CHECK_INPUT(fs::exists(from) && !fs::is_directory(from) && !is_gguf(from), from.string(),
                       ": needs an elastic .h5");
  NESTLING_CHECK_INPUT(!fs::exists(to) || !fs::equivalent(from, to), to.string(),
                       ": is the file that is to be quantized");
  check_target(to);
  NESTLING_CHECK_INPUT(!o.texts.empty(), from.string(), ": needs text to calibrate activations by");
  ElasticHeader header = read_elastic_header(from);
  NESTLING_CHECK_INPUT(!header.quantization, from.string(), ": is quantized already");
  const std::vector<bool> quantized = quantized_parameters(header.model.config);
  NESTLING_CHECK_INPUT(
      std::ranges::find(quantized, true) != quantized.end(), from.string(),
      ": has no layer that is quantized: attention and the Mamba layer in front of "
      "it never are");
  check_quantizable(header.model, o.format, from.string());
  LoadedModel model(from, DType::kF32, "", ctx.device());
  const Weights weights = model.weights().on(Device::kCpu, DType::kF32);
  Quantization q = weight_scales(model.config(), o.format, weights);
  set_input_scales(q, model.config(), largest_inputs(ctx, model, from, o));
  Context host(Device::kCpu);
  for (Size& size : header.model.sizes) size.measured.reset();  // codes are other weights
  header.model.provenance["quantization"] = described(o, elastic_digest(from));
  write_elastic(to, header.model,
                quantize_weights(host, model.config(), weights, std::move(q), DType::kF32),
                header.precision);
}

}  // namespace nestling
