// ranks.h - the world of a test that runs as several MPI ranks (nestling_test with RANKS).
// Every rank runs every test; expectations hold rank by rank. Use EXPECT, not ASSERT, between
// collectives: a rank that returns early leaves the others waiting.
//
// Tests of several devices are named by them, and ask why_not() before anything else: it is the same on
// every rank, as these share a machine.
#pragma once
#include <gtest/gtest.h>

#include "kernels/comm/comm.h"

namespace nestling::testing {

Comm& world();
// The communicator of these ranks for memory of `device`: on kCuda over NCCL, in a world of one too.
Comm& world(Device device);
// Why these ranks cannot use `device`, each its own; "" if they can.
std::string why_not(Device device);

inline std::string device_of(const ::testing::TestParamInfo<Device>& info) {
  return device_name(info.param);
}

}  // namespace nestling::testing

// Skips (never passes) a case that these ranks cannot run on `device`.
#define NESTLING_SKIP_RANKS_WITHOUT(device)                                               \
  if (const std::string reason_ = ::nestling::testing::why_not(device); !reason_.empty()) \
  GTEST_SKIP() << reason_
