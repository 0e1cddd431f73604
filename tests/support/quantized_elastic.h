// quantized_elastic.h - elastic models whose weights are codes, made without any calibration.
#pragma once
#include <algorithm>
#include <gtest/gtest.h>

#include "model/quantize.h"
#include "tests/support/tiny_elastic.h"

namespace nestling::testing {

// Every width that a product contracts is in blocks of 16.
inline ModelConfig quantizable_config(const std::string& pattern) {
  ModelConfig c;
  c.pattern = pattern;
  c.vocab = 48;
  c.hidden = 64;
  c.query_heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.mamba_heads = 4;
  c.mamba_head_dim = 32;
  c.state = 16;
  c.groups = 2;
  c.conv_kernel = 4;
  c.chunk = 8;
  c.ffn = 96;
  c.experts = 6;
  c.top_k = 2;
  c.expert_ffn = 32;
  c.shared_ffn = 32;
  c.validate("quantizable");
  return c;
}

// Three sizes: all, one that is narrower on every axis, one without the second layer, the least important.
inline ElasticModel quantizable_model(const std::string& pattern) {
  ElasticModel m;
  m.config = quantizable_config(pattern);
  m.sizes = {make_size(m.config, "100%", full_widths(m.config)),
             make_size(m.config, "narrow",
                       cut_by(m.config, {{Axis::kHidden, 48},
                                         {Axis::kMambaHeads, 2},
                                         {Axis::kMambaChannels, 16},
                                         {Axis::kQueryHeads, 2},
                                         {Axis::kFfn, 64},
                                         {Axis::kExperts, 4},
                                         {Axis::kExpertFfn, 16},
                                         {Axis::kSharedFfn, 16}})),
             make_size(m.config, "few layers",
                       cut_by(m.config, {{Axis::kLayers, 1}, {Axis::kHidden, 32}}))};
  m.order = identity_order(m.config);
  std::rotate(m.order.depth.begin() + 1, m.order.depth.begin() + 2, m.order.depth.end());
  return m;
}

// Codes of these weights, as if every activation seen had been 4 at most.
inline Weights quantized(const ModelConfig& config, const Weights& from, WeightFormat format,
                         DType compute = DType::kF32) {
  Quantization q = weight_scales(config, format, from);
  set_input_scales(q, config, std::vector<float>(q.parameters.size(), 4.0f));
  Context ctx(Device::kCpu);
  return quantize_weights(ctx, config, from, std::move(q), compute);
}
inline Weights quantized(const ModelConfig& config, WeightFormat format) {
  Weights weights(config, Device::kCpu, {});
  weights.initialize(7);
  return quantized(config, weights, format);
}

// What a view holds, without its gaps.
inline std::string dense_bytes(ConstView v) {
  std::string bytes;
  if (!v) return bytes;
  if (v.rank() == 1)
    return {reinterpret_cast<const char*>(v.data()), static_cast<size_t>(v.bytes())};
  for (int64_t i = 0; i < v.dim(0); ++i) {
    const ConstView row = v.slice(0, i, 1);
    bytes +=
        dense_bytes(v.rank() == 2 ? row.reshape({v.dim(1)}) : row.reshape({v.dim(1), v.dim(2)}));
  }
  return bytes;
}

// Numbers or codes, and all their scales, bit for bit.
inline void expect_same_weight(const Weight& a, const Weight& b, const std::string& name) {
  ASSERT_TRUE(same_shape(a.stored, b.stored)) << name;
  EXPECT_EQ(a.dtype(), b.dtype()) << name;
  EXPECT_EQ(dense_bytes(a.stored), dense_bytes(b.stored)) << name;
  EXPECT_EQ(dense_bytes(a.block_scales), dense_bytes(b.block_scales)) << name;
  EXPECT_EQ(dense_bytes(a.expert_scales), dense_bytes(b.expert_scales)) << name;
  EXPECT_EQ(a.scale, b.scale) << name;
  EXPECT_EQ(a.input_scale, b.input_scale) << name;
}

}  // namespace nestling::testing
