#include "trainer/cluster.h"

#include "trainer/cluster_fields.h"
#include "trainer/config_visitors.h"

namespace nestling {

namespace {

constexpr int64_t kMostRanks = 1 << 20;

// What several fields must agree on; single fields were checked by their rules.
void check_together(const ClusterConfig& c, const std::string& file) {
  NESTLING_CHECK_INPUT(c.device.reserved_gib < c.device.memory_gib, file, ": device.reserved_gib ",
                       c.device.reserved_gib, " leaves nothing of device.memory_gib ",
                       c.device.memory_gib);
  NESTLING_CHECK_INPUT(c.ranks() <= kMostRanks, file, ": devices_per_node ", c.devices_per_node,
                       " times nodes ", c.nodes, " is more than ", kMostRanks, " ranks");
  NESTLING_CHECK_INPUT(c.nodes == 1 || c.links.between_gb_s > 0, file, ": nodes is ", c.nodes,
                       ", and links.between_gb_s is not given");
  NESTLING_CHECK_INPUT(c.price.per_device_hour == 0 || !c.price.source.empty(), file,
                       ": price.per_device_hour is ", c.price.per_device_hour,
                       ", and price.source does not say where that comes from");
}

}  // namespace

double ClusterConfig::usable_bytes() const {
  return (device.memory_gib - device.reserved_gib) * (1 << 30);
}

ClusterConfig read_cluster(const std::filesystem::path& file,
                           const std::vector<std::string>& overrides) {
  YamlNode root = read_yaml(file);
  for (const std::string& assignment : overrides) apply_override(root, assignment);
  auto cluster = read_fields<ClusterConfig>(root, file.string());
  check_together(cluster, file.string());
  return cluster;
}

std::string cluster_reference() {
  return R"(# A cluster file

What `nestling plan CONFIG --cluster FILE` [projects a run onto](plan.md). `--cluster-set a.b=value` overrides a
key; `include: FILE` works as in [the config of a run](config-run.md), and what is not here is refused as there.
*needed*: there is no default. Written by `nestling plan --help-cluster` from the list of fields that it parses.

)" + field_table(list_fields<ClusterConfig>());
}

}  // namespace nestling
