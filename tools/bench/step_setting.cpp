#include "tools/bench/step_setting.h"

namespace nestling::bench {

ModelConfig tiny_model() {
  ModelConfig c;
  c.pattern = "M*EME";
  c.vocab = 512;
  c.hidden = 64;
  c.query_heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.mamba_heads = 8;
  c.mamba_head_dim = 16;
  c.state = 16;
  c.groups = 2;
  c.conv_kernel = 4;
  c.chunk = 16;
  c.experts = 8;
  c.top_k = 2;
  c.expert_ffn = 64;
  c.shared_ffn = 64;
  c.gate.scale = 2.5f;
  c.validate("tiny");
  return c;
}

PrecisionConfig precision_on(const std::string& device, const std::string& compute,
                             const std::string& activations, const std::string& command) {
  PrecisionConfig p{.compute = compute, .activations = activations};
  settle_precision(p, device, command);
  return p;
}

}  // namespace nestling::bench
