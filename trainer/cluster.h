// cluster.h - machines that are not here, in numbers: what `nestling plan` projects a run onto.
//
// List          fields in cluster_fields.h; a file is read, overridden and refused as config.h says of runs.
// Basis         every number that turns counts into time or money says where it comes from: published, with the place;
//               measured, with the command; or assumed.
// Units         GiB are 2^30 bytes; GB/s 1e9 bytes and TFLOP/s 1e12 operations a second.
// Ranks         one a device.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"

namespace nestling {

struct ClusterDevice {
  std::string name;
  double memory_gib = 0;
  double reserved_gib = 0;
  double bf16_tflops = 0;
  double fp32_tflops = 0;
  double memory_gb_s = 0;
  std::string source;
};

struct ClusterLinks {  // of one device, each way
  double within_gb_s = 0;
  double between_gb_s = 0;  // 0: there is one node
  std::string source;
};

struct AchievedShare {
  double share = 0;
  std::string basis;  // published, measured or assumed
  std::string source;
};

struct ClusterShares {
  AchievedShare products, memory, links;
};

struct ClusterPrice {
  double per_device_hour = 0;  // 0: not given
  std::string currency = "USD";
  std::string source;
};

struct ClusterConfig {
  std::string name;
  ClusterDevice device;
  int64_t devices_per_node = 0;
  int64_t nodes = 1;
  ClusterLinks links;
  ClusterShares achieved;
  ClusterPrice price;

  int64_t ranks() const { return devices_per_node * nodes; }
  double usable_bytes() const;  // of a device's memory
};

ClusterConfig read_cluster(const std::filesystem::path& file,
                           const std::vector<std::string>& overrides);
std::string cluster_reference();  // docs/config-cluster.md

}  // namespace nestling
