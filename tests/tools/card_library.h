// card_library.h - a libnvidia-ml.so.1 of one card, at "0000:1B:00.0", that knows what a test lets it know.
#pragma once
#include <set>
#include <string>

namespace nestling::testing {

std::set<std::string>& unknown_functions();  // what this card cannot say: NVML_ERROR_NOT_SUPPORTED

}  // namespace nestling::testing
