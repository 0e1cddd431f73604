// ranks.h - the world of a test that runs as several MPI ranks (nestling_test with RANKS).
// Every rank runs every test; expectations hold rank by rank. Use EXPECT, not ASSERT, between
// collectives: a rank that returns early leaves the others waiting.
#pragma once
#include "kernels/comm/comm.h"

namespace nestling::testing {

Comm& world();

}  // namespace nestling::testing
