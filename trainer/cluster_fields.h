// cluster_fields.h - the one list of fields of cluster.h (see config_fields.h).
#pragma once
#include "trainer/cluster.h"
#include "trainer/config_fields.h"

namespace nestling {

inline constexpr NumberRule kRateRule{.low = 0, .high = 1e9, .above = true, .required = true};

template <class V, FieldsOf<ClusterDevice> C>
void visit_fields(V& v, C& c) {
  v.field("name", c.name, "of one device", TextRule{.filled = true, .required = true});
  v.field("memory_gib", c.memory_gib, "memory of a device, GiB", kRateRule);
  v.field("reserved_gib", c.reserved_gib,
          "of it what is no run's: driver, NCCL's buffers, a product library's workspace, GiB",
          NumberRule{.low = 0, .high = 1e9});
  v.field("bf16_tflops", c.bf16_tflops, "peak of bf16 products of dense matrices, TFLOP/s",
          kRateRule);
  v.field("fp32_tflops", c.fp32_tflops, "peak of fp32 products, TFLOP/s", kRateRule);
  v.field("memory_gb_s", c.memory_gb_s, "peak bandwidth of its memory, GB/s", kRateRule);
  v.field("source", c.source, "where these come from", TextRule{.filled = true, .required = true});
}

template <class V, FieldsOf<ClusterLinks> C>
void visit_fields(V& v, C& c) {
  v.field("within_gb_s", c.within_gb_s, "from a device to those of its node, GB/s each way",
          kRateRule);
  v.field("between_gb_s", c.between_gb_s,
          "from a device to those of other nodes, GB/s each way; needed where there are more nodes "
          "than one",
          NumberRule{.low = 0, .high = 1e9});
  v.field("source", c.source, "where these come from", TextRule{.filled = true, .required = true});
}

template <class V, FieldsOf<AchievedShare> C>
void visit_fields(V& v, C& c) {
  v.field("share", c.share, "of the peak", NumberRule{.high = 1, .above = true, .required = true});
  v.field("basis", c.basis, "what it rests on",
          TextRule{.one_of = {"published", "measured", "assumed"}, .required = true});
  v.field("source", c.source, "the place, the command, or why",
          TextRule{.filled = true, .required = true});
}

template <class V, FieldsOf<ClusterShares> C>
void visit_fields(V& v, C& c) {
  v.group("products", c.products, "of the peak of products, by all FLOPs");
  v.group("memory", c.memory, "of the memory's bandwidth, by all bytes of operators");
  v.group("links", c.links, "of the links' bandwidth, by collectives");
}

template <class V, FieldsOf<ClusterPrice> C>
void visit_fields(V& v, C& c) {
  v.field("per_device_hour", c.per_device_hour, "of one device; 0: not given, and no cost is told",
          NumberRule{.low = 0, .high = 1e9});
  v.field("currency", c.currency, "of it", TextRule{.filled = true});
  v.field("source", c.source, "where it comes from; needed with a price", TextRule{});
}

template <class V, FieldsOf<ClusterConfig> C>
void visit_fields(V& v, C& c) {
  v.field("name", c.name, "of the cluster", TextRule{.filled = true, .required = true});
  v.group("device", c.device, "what one rank runs on");
  v.field("devices_per_node", c.devices_per_node, "devices of a machine, a rank each",
          IntegerRule{.low = 1, .high = 65536, .required = true});
  v.field("nodes", c.nodes, "machines", IntegerRule{.low = 1, .high = 65536});
  v.group("links", c.links, "what carries collectives");
  v.group("achieved", c.achieved,
          "shares of the peaks that a run gets: what turns counts into time");
  v.group("price", c.price, "what it costs");
}

}  // namespace nestling
