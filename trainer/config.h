// config.h - the configuration of a run: one YAML file, one list of fields.
//
// List          visit_fields walks every field once with its key, meaning and range; parsing, dumping,
//               the reference in docs/ and `--help-config` are visitors of that walk. A field that is
//               not in the walk does not exist.
// Strictness    unknown or repeated keys, wrong types and values out of range stop with kInput, naming
//               file, line, key and the nearest known key. Nothing is adjusted.
// Quantities    tokens and bytes are absolute (1e9 is allowed for an integer); times in seconds.
// Effective     dump_config writes every field; the result parses to the same config and can be run.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"

namespace nestling {

struct SourceConfig {
  std::string path;     // a folder of token shards, a text or JSONL file, or reasoning:TASKS:LEVELS
  double weight = 1.0;  // share of the sequences drawn, relative to the others
};

struct TextConfig {  // what is scored by itself: no weight
  std::string path;
};

struct ShapeConfig {                  // a fresh model; widths as in model/config.h
  std::string family = "nemotron_h";  // as config.json names it
  std::string pattern;
  int64_t hidden = 0;
  int64_t query_heads = 0, kv_heads = 0, head_dim = 0;
  int64_t mamba_heads = 0, mamba_head_dim = 0, state = 0, groups = 0, conv_kernel = 4, chunk = 128;
  int64_t ffn = 0;
  int64_t experts = 0, top_k = 0, expert_ffn = 0, shared_ffn = 0;
  double routed_scale = 1.0;
  double rope_theta = 10000;
  double attention_scale = 0, embedding_scale = 1, residual_scale = 1, logit_divisor = 1;
  bool tied = false;
  int64_t max_positions = 4096;
};

struct DataConfig {
  std::vector<SourceConfig> train;
  std::vector<TextConfig> validation;
  int64_t validation_tokens = 65536;  // of each validation source, per evaluation
};

struct OptimizerConfig {
  double lr = 1e-3;           // peak
  double min_lr_ratio = 0.1;  // of the peak, at the end of the schedule
  int64_t warmup_tokens = 0;
  std::string schedule =
      "cosine";  // cosine, linear, constant, or wsd: flat, then linear over decay_share
  double decay_share = 0.2;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // on matrices; vectors, norms and biases have none
  double clip = 1.0;          // global gradient norm; 0: none
};

struct MoeConfig {
  double bias_rate =
      1e-3;  // step of the selection bias towards balanced experts, per optimizer step
};

struct PrecisionConfig {
  std::string compute = "bf16";  // of the products: bf16 or fp32
  std::string activations = {};  // between the operators of a layer: bf16 or fp32; empty: settled
  std::string master = "fp32";   // of the weights that the optimizer steps

  DType compute_type() const { return compute == "bf16" ? DType::kBF16 : DType::kF32; }
  DType activations_type() const { return activations == "bf16" ? DType::kBF16 : DType::kF32; }
};
// By which a validation text is logged: its file's name without extension. No two may have the same (kInput).
std::string log_name(const TextConfig& text);
void check_names(const std::vector<TextConfig>& validation, const std::string& file);

// Activations that nobody chose are bf16 on CUDA beside bf16 products, else fp32. Throws kInput: bf16 activations
// without bf16 products, or on a device that keeps them in f32.
void settle_precision(PrecisionConfig& precision, const std::string& device,
                      const std::string& file);
// Throws kInput where the kernels of a CUDA device are pinned and the device is another.
void check_cuda_isa(const std::string& cuda_isa, const std::string& device,
                    const std::string& file);

// Throws kInput where `ranks` cannot share a global batch equally, naming the nearest that they can. `where`: what
// stands before the key in messages, "curriculum 'short': ".
void check_shared_batch(const std::string& where, int64_t global_batch_tokens, int64_t seq_len,
                        int ranks);

struct CheckpointConfig {
  int64_t every_tokens = 0;  // 0: only at the end and on SIGTERM
  int64_t keep = 2;
};

struct LogConfig {
  int64_t every_steps = 10;
  int64_t validate_every_steps = 200;
  bool tensorboard = true;
};

struct PretrainConfig {
  std::string name;
  std::string output = "runs";  // the run writes under output/name and nowhere else
  std::string init;             // a model directory to go on from; empty: fresh weights of `model`
  ShapeConfig model;
  std::string tokenizer;  // directory with tokenizer.json
  DataConfig data;
  int64_t seq_len = 512;
  int64_t micro_batch = 8;          // sequences a rank computes at once
  std::string recompute = "none";   // none or layer
  std::string shard = "optimizer";  // optimizer or layers
  int64_t global_batch_tokens = 0;  // of one optimizer step, over all ranks
  int64_t tokens = 0;               // of the whole run; the schedule's length
  OptimizerConfig optimizer;
  MoeConfig moe;
  PrecisionConfig precision;
  CheckpointConfig checkpoint;
  LogConfig log;
  std::string device = "cpu";
  int64_t threads = 0;   // a rank; 0: as OMP_NUM_THREADS says
  std::string cpu_isa;   // empty: what the machine has
  std::string cuda_isa;  // empty: what the device has
  uint64_t seed = 42;
};

// Reads a file and applies overrides "a.b=value" through the same parser.
PretrainConfig read_pretrain_config(const std::filesystem::path& file,
                                    const std::vector<std::string>& overrides);
std::string dump_config(const PretrainConfig& config);  // YAML, every field
// What stands above a table of keys; `command` prints it.
std::string reference_head(const std::string& commands, const std::string& command);
std::string pretrain_config_reference();  // docs/config-pretrain.md: key, type, default, meaning
ModelConfig model_config_of(const ShapeConfig& shape, int64_t vocab);

}  // namespace nestling
