// run_config_fields.h - the one list of fields of run_config.h (see config_fields.h).
#pragma once
#include "trainer/config_fields.h"
#include "trainer/run_config.h"

namespace nestling {

template <class V, FieldsOf<CalibrationConfig> C>
void visit_fields(V& v, C& c) {
  v.field("samples", c.samples, "sequences that importance is measured on",
          IntegerRule{.low = 1, .high = kMaxCount});
  v.field("seq_len", c.seq_len, "tokens of each", IntegerRule{.low = 1, .high = kMaxWidth});
  v.field("depth_samples", c.depth_samples,
          "the first of them, on which layers are left out one by one where elastic.choices.layers "
          "asks",
          IntegerRule{.low = 1, .high = kMaxCount});
}

template <class V, FieldsOf<RunDataConfig> C>
void visit_fields(V& v, C& c) {
  v.list("train", c.train, "what is distilled on", ListRule{.required = true});
  v.list("validation", c.validation,
         "held-out text that every size is evaluated on, each by itself", ListRule{});
  v.field(
      "validation_tokens", c.validation_tokens,
      "tokens of each validation source, in whole sequences of evaluation.seq_len, per evaluation "
      "during the run; a source that has fewer is refused",
      IntegerRule{.low = 1, .high = kMaxCount});
  v.group("calibration", c.calibration, "sequences of `train` that importance is measured on");
}

template <class V, FieldsOf<ChoicesConfig> C>
void visit_fields(V& v, C& c) {
  const TextsRule widths{"widths, largest first: 100%, 75%, or 48"};
  v.field("hidden", c.hidden, "channels of the residual stream", widths);
  v.field("mamba_heads", c.mamba_heads, "Mamba-2 heads, the same number in every group", widths);
  v.field("mamba_channels", c.mamba_channels, "channels of a Mamba-2 head", widths);
  v.field("state", c.state, "SSM state", widths);
  v.field("query_heads", c.query_heads, "query heads, the same number for every KV head", widths);
  v.field("ffn", c.ffn, "channels of dense feed-forward layers", widths);
  v.field("experts", c.experts, "routed experts", widths);
  v.field("expert_ffn", c.expert_ffn, "channels of a routed expert", widths);
  v.field("shared_ffn", c.shared_ffn, "channels of the shared expert", widths);
  v.field("layers", c.layers, "layers kept, the most important", widths);
}

template <class V, FieldsOf<SizeConfig> C>
void visit_fields(V& v, C& c) {
  v.field("name", c.name, "of the size", TextRule{.file_name = true, .required = true});
  v.field("target", c.target, "what it may cost",
          TermsRule{.allowed = "full, or {active_params: 75%}, {total_params: 2.8e9}, "
                               "{memory: 75%, context: 131072, batch: 1}, or {latency_ms: 75%, "
                               "profile: FILE} by a table that `nestling profile` made",
                    .required = true});
}

template <class V, FieldsOf<ElasticConfig> C>
void visit_fields(V& v, C& c) {
  v.field(
      "multiple_of", c.multiple_of,
      "step of the widths that products contract; a multiple of 16. A parent's width that is no "
      "multiple of 16 may be cut anywhere, and refuses more than 16",
      IntegerRule{.low = kBlock, .high = 65536});
  v.group("choices", c.choices, "widths an axis may take; an axis without a list is not cut");
  v.list("sizes", c.sizes, "largest first; the first is the parent's", ListRule{.required = true});
}

template <class V, FieldsOf<FreezeConfig> C>
void visit_fields(V& v, C& c) {
  v.field("agree_steps", c.agree_steps, "steps in a row that choose the same widths",
          IntegerRule{.low = 1, .high = kMaxCount});
  v.field("min_prob", c.min_prob, "least probability of every choice over these steps",
          NumberRule{.low = 0, .high = 1});
  v.field("at_tokens", c.at_tokens, "tokens after which choices are frozen even so; 0: never",
          IntegerRule{});
}

template <class V, FieldsOf<RouterConfig> C>
void visit_fields(V& v, C& c) {
  const NumberRule positive{.low = 0, .high = 1e6, .above = true};
  v.field("hidden", c.hidden, "width of the router's MLPs", IntegerRule{.low = 1, .high = 65536});
  v.field("lr", c.lr, "learning rate of the router, constant", NumberRule{.low = 0, .high = 10});
  v.field("tau", c.tau, "Gumbel-Softmax temperature, first and last",
          NumbersRule{.each = positive, .count = 2});
  v.field("logit_scale", c.logit_scale, "factor on the router's logits, first and last",
          NumbersRule{.each = positive, .count = 2});
  v.field("schedule_tokens", c.schedule_tokens,
          "tokens over which tau and logit_scale run; 0: the whole curriculum", IntegerRule{});
  v.field("loss_weight", c.loss_weight, "weight of the budget loss",
          NumberRule{.low = 0, .high = 1e6});
  v.field("dead_zone", c.dead_zone,
          "relative miss of a budget that costs nothing, and that chosen widths may have; of a "
          "budget of "
          "memory or latency they are never above",
          NumberRule{.low = 0, .high = 1});
  v.field("hard_share", c.hard_share, "share of straight-through draws",
          NumberRule{.low = 0, .high = 1});
  v.group("freeze", c.freeze, "when choices are settled and slices replace masks");
}

template <class V, FieldsOf<PhaseConfig> C>
void visit_fields(V& v, C& c) {
  v.field("name", c.name, "of the phase", TextRule{.file_name = true, .required = true});
  v.field("seq_len", c.seq_len, "tokens of a sequence", IntegerRule{.low = 1, .high = kMaxWidth});
  v.field("tokens", c.tokens, "unique tokens of the phase",
          IntegerRule{.low = 1, .high = kMaxCount, .required = true});
  v.field("sampling", c.sampling, "how often each size is drawn",
          TermsRule{.allowed = "uniform, or a weight a size: {30B: 0.5, 12B: 0.5}"});
  v.field("global_batch_tokens", c.global_batch_tokens,
          "unique tokens of one optimizer step, over all ranks; a multiple of seq_len",
          IntegerRule{.low = 1, .high = kMaxCount, .required = true});
  v.field("micro_batch", c.micro_batch,
          "sequences a rank computes at once; 0: parallel.micro_batch",
          IntegerRule{.low = 0, .high = 65536});
}

template <class V, FieldsOf<QadConfig> C>
void visit_fields(V& v, C& c) {
  v.field("format", c.format,
          "of weights and activations: fp8 or nvfp4; empty: there is no such stage",
          TextRule{.one_of = {"", "fp8", "nvfp4"}});
  v.field("tokens", c.tokens,
          "unique tokens that the quantized sizes are trained on; needed with a format (`nestling "
          "quantize` quantizes without training)",
          IntegerRule{.low = 0, .high = kMaxCount});
  v.field("seq_len", c.seq_len, "tokens of a sequence; 0: as the curriculum's last phase",
          IntegerRule{.low = 0, .high = kMaxWidth});
  v.field("global_batch_tokens", c.global_batch_tokens,
          "unique tokens of one optimizer step, over all ranks; 0: as the last phase",
          IntegerRule{.low = 0, .high = kMaxCount});
  v.field("micro_batch", c.micro_batch, "sequences a rank computes at once; 0: as the last phase",
          IntegerRule{.low = 0, .high = 65536});
  v.field("sampling", c.sampling, "how often each size is drawn",
          TermsRule{.allowed = "uniform, or a weight a size: {30B: 0.5, 12B: 0.5}"});
  v.field(
      "lr", c.lr,
      "peak of the learning rate, from the first step; its schedule over qad.tokens and what else "
      "AdamW has are optimizer's",
      NumberRule{.low = 0, .high = 10});
}

template <class V, FieldsOf<TeacherConfig> C>
void visit_fields(V& v, C& c) {
  v.field("precision", c.precision, "of the parent's products; empty: precision.compute",
          TextRule{.one_of = {"", "bf16", "fp32"}});
}

template <class V, FieldsOf<ParallelConfig> C>
void visit_fields(V& v, C& c) {
  const IntegerRule one{.low = 1, .high = 1};
  v.field("tensor", c.tensor, "ranks that share every layer; only 1 so far", one);
  v.field("expert", c.expert, "ranks that share the experts; only 1 so far", one);
  v.field("context", c.context, "ranks that share a sequence; only 1 so far", one);
  v.field("micro_batch", c.micro_batch, "sequences a rank computes at once",
          IntegerRule{.low = 1, .high = 65536});
  v.field("recompute", c.recompute,
          "activations that backward computes again: none, or layer: all but every layer's input",
          TextRule{.one_of = {"none", "layer"}});
  v.field("shard", c.shard, kShardMeaning, TextRule{.one_of = {"optimizer", "layers"}});
}

template <class V, FieldsOf<DistillConfig> C>
void visit_fields(V& v, C& c) {
  v.field("loss", c.loss, "of a size against the parent", TextRule{.one_of = {"forward_kl"}});
  v.field("temperature", c.temperature, "of the forward KL, teacher and student alike",
          NumberRule{.low = 0, .high = 100, .above = true});
  v.field("ce_weight", c.ce_weight, "weight of the cross-entropy beside the KL",
          NumberRule{.low = 0, .high = 1e3});
  v.field("sizes_per_micro_batch", c.sizes_per_micro_batch,
          "sizes trained on one teacher forward; all of them: sampling becomes loss weights",
          IntegerRule{.low = 1, .high = 1024});
}

template <class V, FieldsOf<EvaluationConfig> C>
void visit_fields(V& v, C& c) {
  v.field("problems", c.problems, "held-out reasoning problems; 0: none", IntegerRule{});
  v.field("batch", c.batch, "problems completed at once; a device is filled by 1,000 and more",
          IntegerRule{.low = 1, .high = 65536});
  v.list("text", c.text, "perplexity and KL are measured on; empty: the validation sources",
         ListRule{});
  v.field("tokens", c.tokens, "tokens of each text", IntegerRule{.low = 1, .high = kMaxCount});
  v.field("seq_len", c.seq_len, "tokens of a window", IntegerRule{.low = 1, .high = kMaxWidth});
}

template <class V, FieldsOf<RunConfig> C>
void visit_fields(V& v, C& c) {
  visit_folder_fields(v, c);
  v.field("parent", c.parent, "a Hugging Face directory, or a GGUF file",
          TextRule{.filled = true, .required = true});
  v.group("data", c.data, "what is read");
  v.group("elastic", c.elastic, "what the sizes are");
  v.group("router", c.router, "how widths are chosen");
  v.list("curriculum", c.curriculum, "phases of the distillation, in order",
         ListRule{.required = true});
  v.group("qad", c.qad,
          "quantization-aware distillation: the stage after the curriculum, all sizes on codes");
  v.group("distill", c.distill, "how the parent teaches");
  v.group("teacher", c.teacher, "the frozen parent");
  v.group("optimizer", c.optimizer, "AdamW and its schedule over the whole curriculum");
  v.group("parallel", c.parallel, "how ranks share the work: data parallel is what is left");
  v.group("evaluation", c.evaluation, "what every size is measured on at the end");
  v.group("precision", c.precision, "of the arithmetic");
  v.field("store", c.store, "precision of the elastic checkpoint",
          TextRule{.one_of = {"bf16", "fp32"}});
  v.group("checkpoint", c.checkpoint, "what makes the run resumable");
  v.group("log", c.log, "what the run tells");
  visit_machine_fields(v, c);
  v.field("seed", c.seed, "of data order, sizes drawn, router and noise", SeedRule{});
}

}  // namespace nestling
