// expect_error.h - the one way a test says "this is refused, and the message names that".
#pragma once
#include <gtest/gtest.h>
#include <initializer_list>
#include <string>

#include "kernels/core/check.h"

namespace nestling::testing {

// Fails the test unless call() throws an Error of this kind whose message holds every part.
template <class Call>
void expect_error(Call&& call, std::initializer_list<const char*> parts,
                  ErrorKind kind = ErrorKind::kInput) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    for (const char* part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos)
          << "\"" << part << "\" is not in: " << e.what();
    return;
  }
  ADD_FAILURE() << "accepted; expected an error with " << *parts.begin();
}

}  // namespace nestling::testing
