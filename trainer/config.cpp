#include "trainer/config.h"

#include <filesystem>
#include <set>

#include "model/family.h"
#include "trainer/config_fields.h"
#include "trainer/config_visitors.h"

namespace nestling {
namespace {

// What two fields must agree on; single fields were checked by their rules.
void check_together(const PretrainConfig& c, const std::string& name) {
  NESTLING_CHECK_INPUT(c.global_batch_tokens % c.seq_len == 0, name, ": global_batch_tokens ",
                       c.global_batch_tokens, " is not a multiple of seq_len ", c.seq_len);
  NESTLING_CHECK_INPUT(c.optimizer.warmup_tokens <= c.tokens, name, ": optimizer.warmup_tokens ",
                       c.optimizer.warmup_tokens, " exceeds tokens ", c.tokens);
  NESTLING_CHECK_INPUT(c.data.validation.empty() || c.data.validation_tokens >= c.seq_len, name,
                       ": data.validation_tokens ", c.data.validation_tokens,
                       " is less than one sequence of seq_len ", c.seq_len);
  check_names(c.data.validation, name);
  NESTLING_CHECK_INPUT(c.init.empty() || c.model.pattern.empty(), name, ": both init ('", c.init,
                       "') and model.pattern ('", c.model.pattern,
                       "') are given; a run goes on from one or begins the other");
  if (!c.init.empty()) return;
  NESTLING_CHECK_INPUT(!c.model.pattern.empty(), name,
                       ": needs model.pattern (fresh weights) or init (a model directory)");
  model_config_of(c.model, 1).validate(name + ": model (named as in config.json)");
}

}  // namespace

void check_names(const std::vector<TextConfig>& validation, const std::string& file) {
  std::set<std::string> names;
  for (const TextConfig& text : validation)
    NESTLING_CHECK_INPUT(names.insert(log_name(text)).second, file, ": data.validation has two '",
                         log_name(text), "': a text is logged by its file's name");
}

std::string log_name(const TextConfig& text) {
  return std::filesystem::path(text.path).stem();
}

void settle_precision(PrecisionConfig& precision, const std::string& device,
                      const std::string& file) {
  if (precision.activations.empty())
    precision.activations =
        device == "cuda" && precision.compute_type() == DType::kBF16 ? "bf16" : "fp32";
  if (precision.activations_type() == DType::kF32) return;
  NESTLING_CHECK_INPUT(precision.compute_type() == DType::kBF16, file,
                       ": precision.activations bf16 needs precision.compute bf16, not ",
                       precision.compute);
  NESTLING_CHECK_INPUT(device == "cuda", file,
                       ": precision.activations bf16 needs device cuda; on ", device,
                       " activations are fp32");
}

void check_cuda_isa(const std::string& cuda_isa, const std::string& device,
                    const std::string& file) {
  NESTLING_CHECK_INPUT(cuda_isa.empty() || device == "cuda", file, ": cuda_isa ", cuda_isa,
                       " needs device cuda; it is ", device);
}

void check_shared_batch(const std::string& where, int64_t global_batch_tokens, int64_t seq_len,
                        int ranks) {
  const int64_t sequences = global_batch_tokens / seq_len;
  if (sequences % ranks == 0) return;
  const int64_t below = sequences / ranks * ranks, above = below + ranks;
  const int64_t nearest = below > 0 && sequences - below <= above - sequences ? below : above;
  throw Error(str(where, "global_batch_tokens ", global_batch_tokens, " is ", sequences,
                  " sequences of ", seq_len, ", which ", ranks,
                  " ranks cannot share equally; the nearest that they can is ", nearest * seq_len),
              ErrorKind::kInput);
}

PretrainConfig read_pretrain_config(const std::filesystem::path& file,
                                    const std::vector<std::string>& overrides) {
  YamlNode root = read_yaml(file);
  for (const std::string& assignment : overrides) apply_override(root, assignment);
  auto config = read_fields<PretrainConfig>(root, file.string());
  settle_precision(config.precision, config.device, file.string());
  check_cuda_isa(config.cuda_isa, config.device, file.string());
  check_together(config, file.string());
  return config;
}

std::string dump_config(const PretrainConfig& config) {
  return dump_fields(config);
}

std::string reference_head(const std::string& commands, const std::string& command) {
  return str("# Config of ", commands, R"(

One YAML file a run. `--set a.b=value` on the command line overrides a key; items of a list are counted
from 0 (`--set data.train.0.weight=1`), which `N` stands for below. `include: FILE` at the top level,
relative to the file that says it, is read first, and what the including file says lies above it: maps
are merged key by key, lists and values are replaced. Other relative paths are seen from where the
program is started. A key that is not here, or a value that is not allowed, is refused with file and
line. *needed*: there is no default. Written by `nestling )",
             command, R"( --help-config` from the list of fields that it
parses.

)");
}

std::string pretrain_config_reference() {
  return reference_head("`nestling pretrain`", "pretrain") +
         field_table(list_fields<PretrainConfig>());
}

ModelConfig model_config_of(const ShapeConfig& shape, int64_t vocab) {
  ModelConfig m;
  set_family(m, parse_family(shape.family));
  m.pattern = shape.pattern;
  m.vocab = vocab;
  m.hidden = shape.hidden;
  m.tied = shape.tied;
  m.query_heads = shape.query_heads;
  m.kv_heads = shape.kv_heads;
  m.head_dim = shape.head_dim;
  m.mamba_heads = shape.mamba_heads;
  m.mamba_head_dim = shape.mamba_head_dim;
  m.state = shape.state;
  m.groups = shape.groups;
  m.conv_kernel = shape.conv_kernel;
  m.chunk = shape.chunk;
  m.ffn = shape.ffn;
  m.experts = shape.experts;
  m.top_k = shape.top_k;
  m.expert_ffn = shape.expert_ffn;
  m.shared_ffn = shape.shared_ffn;
  m.gate.scale = static_cast<float>(shape.routed_scale);
  m.rope_theta = shape.rope_theta;
  if (always_rotates(m.family)) m.rotary = m.head_dim;
  m.attention_scale = static_cast<float>(shape.attention_scale);
  m.embedding_scale = static_cast<float>(shape.embedding_scale);
  m.residual_scale = static_cast<float>(shape.residual_scale);
  m.logit_divisor = static_cast<float>(shape.logit_divisor);
  m.max_positions = shape.max_positions;
  return m;
}

}  // namespace nestling
