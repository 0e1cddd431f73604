// elastic_fixture FILE bf16|fp32 - writes tiny-reasoner as an elastic file with three sizes, untrained:
// something to try commands and comparisons with other programs on.
#include <cstdio>

#include "tests/support/tiny_elastic.h"

int main(int argc, char** argv) {
  const std::string type = argc == 3 ? argv[2] : "";
  if (type != "bf16" && type != "fp32") {
    std::fprintf(stderr, "usage: elastic_fixture FILE bf16|fp32\n");
    return 2;
  }
  using nestling::StoredType;
  try {
    nestling::testing::write_tiny_reasoner(argv[1],
                                           type == "bf16" ? StoredType::kBF16 : StoredType::kF32);
  } catch (const nestling::Error& e) {
    std::fprintf(stderr, "elastic_fixture: %s\n", e.what());
    return 1;
  }
  return 0;
}
