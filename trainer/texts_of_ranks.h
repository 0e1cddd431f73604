// texts_of_ranks.h - a text of every rank, at every rank.
#pragma once
#include <string>
#include <vector>

#include "kernels/comm/comm.h"

namespace nestling {

// Called by every rank with its own.
std::vector<std::string> texts_of_ranks(Comm& comm, const std::string& own);
// That of rank 0; the others' are not read.
std::string text_of_root(Comm& comm, const std::string& own);

}  // namespace nestling
