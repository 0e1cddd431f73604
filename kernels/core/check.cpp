#include "kernels/core/check.h"

namespace nestling {

void throw_check_failed(const char* expression, const char* file, int line,
                        const std::string& message) {
  std::string name(file);
  name = name.substr(name.find_last_of('/') + 1);
  throw Error(str(name, ":", line, ": ", message, "  [", expression, "]"));
}

}  // namespace nestling
