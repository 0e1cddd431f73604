// config_fields.h - the one list of config fields: key, meaning, what it may be.
//
// visit_fields(visitor, config) walks it. A visitor has
//   field(key, value, meaning, rule)   a single value and its rule (config_value.h)
//   group(key, value, meaning)         a struct that has its own visit_fields
//   list(key, value, meaning, rule)    a vector of such structs
// Units stand in the meaning. Defaults are those of the structs in config.h.
#pragma once
#include <concepts>
#include <type_traits>

#include "trainer/config.h"
#include "trainer/config_value.h"

namespace nestling {

// T is Struct or const Struct.
template <class T, class Struct>
concept FieldsOf = std::same_as<std::remove_const_t<T>, Struct>;

inline constexpr const char* kShardMeaning =
    "what ranks hold in shares. optimizer: its moments; layers: all that belongs to the matrices "
    "of "
    "layers, which come together a layer at a time: least memory, most to send";
inline constexpr const char* kSourceMeaning =
    "a folder of Megatron-LM shards (.idx and .bin) or one shard's prefix; "
    "a .txt or .jsonl file or a folder of them; or reasoning:TASKS:LEVELS:BEGIN-END[:heldout]";

template <class V, FieldsOf<TextConfig> C>
void visit_fields(V& v, C& c) {
  v.field("path", c.path, kSourceMeaning, TextRule{.filled = true, .required = true});
}

template <class V, FieldsOf<SourceConfig> C>
void visit_fields(V& v, C& c) {
  v.field("path", c.path, kSourceMeaning, TextRule{.filled = true, .required = true});
  v.field("weight", c.weight, "share of the sequences drawn, relative to the other sources",
          NumberRule{.low = 0, .high = 1e9, .above = true});
}

template <class V, FieldsOf<ShapeConfig> C>
void visit_fields(V& v, C& c) {
  const IntegerRule extent{.low = 0, .high = kMaxWidth};
  const IntegerRule heads{.low = 0, .high = 65536};
  const IntegerRule inner{.low = 0, .high = 4096};
  const NumberRule factor{.low = 0, .high = 1e6, .above = true};
  v.field(
      "family", c.family,
      "whose layers these are, and in whose form the model is published: llama, qwen3 and "
      "qwen3_moe rotate "
      "heads (RoPE), Qwen's norm them first; all but nemotron_h have gated feed-forwards and two "
      "layers a published block",
      TextRule{.one_of = {"nemotron_h", "llama", "qwen3", "qwen3_moe", "granitemoehybrid"}});
  v.field("pattern", c.pattern,
          "a character a layer: M Mamba-2, * attention, - dense feed-forward, E mixture of experts",
          TextRule{.letters = "M*-E"});
  v.field("hidden", c.hidden, "channels of the residual stream", extent);
  v.field("query_heads", c.query_heads, "attention heads; a multiple of kv_heads", heads);
  v.field("kv_heads", c.kv_heads, "key and value heads", heads);
  v.field("head_dim", c.head_dim, "channels of an attention head", inner);
  v.field("mamba_heads", c.mamba_heads, "Mamba-2 heads; a multiple of groups", heads);
  v.field("mamba_head_dim", c.mamba_head_dim, "channels of a Mamba-2 head", inner);
  v.field("state", c.state, "SSM state of a head channel", inner);
  v.field("groups", c.groups, "groups that share B and C", heads);
  v.field("conv_kernel", c.conv_kernel, "taps of the causal convolution",
          IntegerRule{.low = 2, .high = 64});
  v.field("chunk", c.chunk, "tokens of a chunk of the scan: speed and rounding, not shape",
          IntegerRule{.low = 1, .high = 65536});
  v.field("ffn", c.ffn, "channels of a dense feed-forward layer", extent);
  v.field("experts", c.experts, "routed experts of a layer", heads);
  v.field("top_k", c.top_k, "experts a token goes to", IntegerRule{.low = 0, .high = kMaxTopK});
  v.field("expert_ffn", c.expert_ffn, "channels of a routed expert", extent);
  v.field("shared_ffn", c.shared_ffn, "channels of the shared expert; 0: none", extent);
  v.field("routed_scale", c.routed_scale, "factor on the sum of the routed experts",
          NumberRule{.low = 0, .high = 1e3, .above = true});
  v.field("rope_theta", c.rope_theta, "base of the frequencies of rotated heads",
          NumberRule{.low = 1, .high = 1e12});
  v.field("attention_scale", c.attention_scale, "factor on attention scores; 0: 1 / sqrt(head_dim)",
          NumberRule{.low = 0, .high = 1e3});
  v.field("embedding_scale", c.embedding_scale, "granitemoehybrid: factor on embeddings", factor);
  v.field("residual_scale", c.residual_scale,
          "granitemoehybrid: factor on what a layer adds to the residual stream", factor);
  v.field("logit_divisor", c.logit_divisor, "granitemoehybrid: what logits are divided by", factor);
  v.field("tied", c.tied, "the output projection is the embedding table", FlagRule{});
  v.field("max_positions", c.max_positions, "longest sequence the model states it was made for",
          IntegerRule{.low = 1, .high = kMaxCount});
}

template <class V, FieldsOf<DataConfig> C>
void visit_fields(V& v, C& c) {
  v.list("train", c.train, "what is trained on", ListRule{.required = true});
  v.list("validation", c.validation, "what is evaluated on, each by itself", ListRule{});
  v.field(
      "validation_tokens", c.validation_tokens,
      "tokens of each validation source, in whole sequences of seq_len, per evaluation; a source "
      "that has fewer is refused",
      IntegerRule{.low = 1, .high = kMaxCount});
}

template <class V, FieldsOf<OptimizerConfig> C>
void visit_fields(V& v, C& c) {
  const NumberRule share{.low = 0, .high = 1};
  const NumberRule beta{.low = 0, .high = 0.999999};
  v.field("lr", c.lr, "learning rate at its peak", NumberRule{.low = 0, .high = 10, .above = true});
  v.field("min_lr_ratio", c.min_lr_ratio, "learning rate at the run's last token, of the peak",
          share);
  v.field("warmup_tokens", c.warmup_tokens, "tokens over which the rate rises from 0",
          IntegerRule{});
  v.field("schedule", c.schedule,
          "of the rate after warmup; wsd: flat, then linear over decay_share",
          TextRule{.one_of = {"cosine", "linear", "constant", "wsd"}});
  v.field("decay_share", c.decay_share, "wsd: the last share of the run, in which the rate falls",
          NumberRule{.low = 0, .high = 1, .above = true});
  v.field("beta1", c.beta1, "AdamW: decay of the first moment", beta);
  v.field("beta2", c.beta2, "AdamW: decay of the second moment", beta);
  v.field("eps", c.eps, "AdamW: added to the root of the second moment",
          NumberRule{.low = 0, .high = 1, .above = true});
  v.field("weight_decay", c.weight_decay, "AdamW: on matrices; vectors, norms and biases have none",
          share);
  v.field("clip", c.clip, "largest global gradient norm; 0: no clipping",
          NumberRule{.low = 0, .high = 1e9});
}

template <class V, FieldsOf<MoeConfig> C>
void visit_fields(V& v, C& c) {
  v.field("bias_rate", c.bias_rate,
          "step of the selection bias towards balanced experts, per optimizer step",
          NumberRule{.low = 0, .high = 1});
}

template <class V, FieldsOf<CheckpointConfig> C>
void visit_fields(V& v, C& c) {
  v.field("every_tokens", c.every_tokens,
          "tokens between checkpoints; 0: only at the end and on SIGTERM", IntegerRule{});
  v.field("keep", c.keep, "checkpoints that stay", IntegerRule{.low = 2, .high = 1000000});
}

// What every kind of run has.
template <class V, class C>
void visit_folder_fields(V& v, C& c) {
  v.field("name", c.name, "of the run", TextRule{.file_name = true, .required = true});
  v.field("output", c.output, "the run writes under output/name and nowhere else",
          TextRule{.filled = true});
}
template <class V, class C>
void visit_machine_fields(V& v, C& c) {
  v.field("device", c.device, "where it computes", TextRule{.one_of = {"cpu", "cuda"}});
  v.field("threads", c.threads,
          "of a rank; 0: OMP_NUM_THREADS, which launch/mpirun.sh sets to cores / ranks; "
          "without it, every core the rank may run on",
          IntegerRule{.low = 0, .high = 4096});
  v.field("cpu_isa", c.cpu_isa, "instruction set; empty: what the machine has",
          TextRule{.one_of = {"", "avx2", "avx512", "avx512_bf16"}});
  v.field("cuda_isa", c.cuda_isa, "the same of a CUDA device's kernels; empty: what it has",
          TextRule{.one_of = {"", "sm_80", "sm_90a"}});
}

template <class V, FieldsOf<PrecisionConfig> C>
void visit_fields(V& v, C& c) {
  v.field("compute", c.compute, "precision of the matrix products; sums are fp32",
          TextRule{.one_of = {"bf16", "fp32"}});
  v.field("activations", c.activations,
          "precision of what the operators of a layer hand to each other; empty: bf16 where it can "
          "be, on "
          "device cuda with compute bf16, else fp32; the residual stream is fp32",
          TextRule{.one_of = {"", "bf16", "fp32"}});
  v.field("master", c.master, "precision of the weights that the optimizer steps",
          TextRule{.one_of = {"fp32"}});
}

template <class V, FieldsOf<LogConfig> C>
void visit_fields(V& v, C& c) {
  const IntegerRule steps{.low = 1, .high = kMaxCount};
  v.field("every_steps", c.every_steps, "steps between lines of the log", steps);
  v.field("validate_every_steps", c.validate_every_steps, "steps between evaluations", steps);
  v.field("tensorboard", c.tensorboard, "write TensorBoard events too", FlagRule{});
}

template <class V, FieldsOf<PretrainConfig> C>
void visit_fields(V& v, C& c) {
  visit_folder_fields(v, c);
  v.field("init", c.init,
          "a model directory or GGUF file to start from; empty: fresh weights of `model`",
          TextRule{});
  v.group("model", c.model, "a fresh model");
  v.field("tokenizer", c.tokenizer, "directory with tokenizer.json",
          TextRule{.filled = true, .required = true});
  v.group("data", c.data, "what is read");
  v.field("seq_len", c.seq_len, "tokens of a sequence", IntegerRule{.low = 1, .high = kMaxWidth});
  v.field("micro_batch", c.micro_batch, "sequences a rank computes at once",
          IntegerRule{.low = 1, .high = 65536});
  v.field("recompute", c.recompute,
          "activations that backward computes again: none, or layer: all but every layer's input",
          TextRule{.one_of = {"none", "layer"}});
  v.field("shard", c.shard, kShardMeaning, TextRule{.one_of = {"optimizer", "layers"}});
  v.field("global_batch_tokens", c.global_batch_tokens,
          "tokens of one optimizer step, over all ranks; a multiple of seq_len",
          IntegerRule{.low = 1, .high = kMaxCount, .required = true});
  v.field("tokens", c.tokens, "of the whole run: the schedule's length",
          IntegerRule{.low = 1, .high = kMaxCount, .required = true});
  v.group("optimizer", c.optimizer, "AdamW and its schedule");
  v.group("moe", c.moe, "mixture of experts");
  v.group("precision", c.precision, "of the arithmetic");
  v.group("checkpoint", c.checkpoint, "what makes the run resumable");
  v.group("log", c.log, "what the run tells");
  visit_machine_fields(v, c);
  v.field("seed", c.seed, "of weights, data order and generated text", SeedRule{});
}

}  // namespace nestling
