// The widths of a model that is elastic already: what a file means for an architecture, and what is refused.
#include "trainer/widths_file.h"

#include <gtest/gtest.h>

#include "model/huggingface.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_elastic.h"

namespace nestling {
namespace {

using testing::cut_by;
using testing::expect_error;

// Nemotron 3 Nano's widths, in five layers.
ModelConfig nano() {
  return read_model_config(testing::source_dir() / "configs/parents/nano3-5l-128e");
}

class WidthsFileTest : public ::testing::Test {
 protected:
  std::vector<Size> read(const std::string& text) {
    const std::filesystem::path file = dir_.write("widths.yaml", text);
    return sizes_of(read_widths_file(file), nano(), file.string());
  }
  void refused(const std::string& sizes, std::initializer_list<const char*> parts) {
    expect_error([&] { read("sizes:\n" + sizes); }, parts);
  }
  testing::TempDir dir_;
};

TEST_F(WidthsFileTest, WidthsAreOfTheParentOrAbsolute) {
  const ModelConfig c = nano();
  const std::vector<Size> sizes = read(R"(
sizes:
  - {name: 30B}
  - {name: 23B, hidden: 2304, expert_ffn: 1632, mamba_heads: 75%}
  - name: 12B
    hidden: 1920
    mamba_heads: 32
    mamba_channels: 50%
    state: 64
    query_heads: 16
    experts: 75%
    expert_ffn: 50%
    shared_ffn: 1856
    layers_left_out: [1, 3]
)");
  ASSERT_EQ(sizes.size(), 3u);
  EXPECT_EQ(sizes[0].widths, full_widths(c));
  EXPECT_EQ(sizes[1].widths,
            cut_by(c, {{Axis::kHidden, 2304}, {Axis::kExpertFfn, 1632}, {Axis::kMambaHeads, 48}}));
  Widths small = cut_by(c, {{Axis::kHidden, 1920},
                            {Axis::kMambaHeads, 32},
                            {Axis::kMambaChannels, 32},
                            {Axis::kState, 64},
                            {Axis::kQueryHeads, 16},
                            {Axis::kExperts, 96},
                            {Axis::kExpertFfn, 928},
                            {Axis::kSharedFfn, 1856}});
  for (const int64_t layer : {1, 3}) width_of(small, layer, Axis::kLayers) = 0;
  EXPECT_EQ(sizes[2].widths, small);
  for (const Size& s : sizes) {
    const auto of = [](int64_t n) { return static_cast<double>(n); };
    EXPECT_EQ(s.target.kind, CostKind::kActive);
    EXPECT_EQ(s.budget, of(parameter_cost(c, s.widths).active) / of(parameter_cost(c).active));
  }
}

TEST_F(WidthsFileTest, KeysAndTypesAreRefusedWithTheirLine) {
  refused("  - {name: all}\n  - {name: b, mamba_groups: 4}\n",
          {"widths.yaml:3: sizes.1.mamba_groups: there is no such key", "sizes.N.mamba_heads"});
  refused("  - {name: all}\n  - name: b\n    expert_ffn: [928, 960]\n",
          {"widths.yaml:4: sizes.1.expert_ffn: needs a width: 75% of the parent's, or 48, found a "
           "list"});
  refused("  - {name: all}\n  - {name: b, hidden: wide}\n",
          {"widths.yaml:3: sizes.1.hidden: needs a width", "found a plain word 'wide'"});
  refused("  - {name: all}\n  - {name: b, layers_left_out: 3}\n",
          {"widths.yaml:3: sizes.1.layers_left_out: needs a list of layers"});
  refused("  - {hidden: 2304}\n", {"widths.yaml: needs sizes.0.name"});
  expect_error([&] { read("sizes: []\n"); }, {"at least one item"});
}

TEST_F(WidthsFileTest, WhatDoesNotFitTheArchitectureIsRefused) {
  refused("  - {name: all}\n  - {name: b, hidden: 2300}\n",
          {"widths.yaml: sizes.1.hidden: a width of 2300 does not fit", "steps of 16",
           "the nearest good one is 2304"});
  refused("  - {name: all}\n  - {name: b, hidden: 2704}\n", {"sizes.1.hidden", "16 to 2688"});
  refused("  - {name: all}\n  - {name: b, mamba_heads: 44}\n",
          {"sizes.1.mamba_heads: a width of 44 does not fit", "8 to 64 in steps of 8"});
  refused("  - {name: all}\n  - {name: b, query_heads: 15}\n",
          {"sizes.1.query_heads", "steps of 2"});
  refused("  - {name: all}\n  - {name: b, experts: 4}\n", {"sizes.1.experts", "6 to 128"});
  // config.json gives a width of dense layers, and no layer is one.
  refused("  - {name: all}\n  - {name: b, ffn: 928}\n",
          {"sizes.1.ffn: the parent has no such axis"});
  refused("  - {name: all}\n  - {name: b, layers_left_out: [5]}\n",
          {"sizes.1.layers_left_out: '5' is no layer; needs 0 to 4"});
  refused("  - {name: all}\n  - {name: b, layers_left_out: [3, 3]}\n", {"layer 3 is there twice"});
  refused("  - {name: all}\n  - {name: b, layers_left_out: [0, 1, 2, 3, 4]}\n",
          {"sizes.1.layers_left_out: leaves no layer"});
}

TEST_F(WidthsFileTest, SizesThatDoNotNestAreRefused) {
  refused(
      "  - {name: a, hidden: 2304}\n",
      {"widths.yaml: sizes.0: 'a' is narrower than the model; the first size is the whole of it"});
  refused("  - {name: all}\n  - {name: b, hidden: 2304}\n  - {name: c, expert_ffn: 928}\n",
          {"sizes.2.hidden: 2688 is wider than the 2304 of 'b' before it"});
  refused(
      "  - {name: all}\n  - {name: b, layers_left_out: [3]}\n"
      "  - {name: c, hidden: 2304, layers_left_out: [1]}\n",
      {"sizes.2.layers_left_out: needs layer 3, which 'b' before it leaves out"});
  refused("  - {name: all}\n  - {name: b}\n",
          {"sizes.1: 'b' touches as many parameters as 'all' before it"});
  refused("  - {name: all}\n  - {name: all, hidden: 2304}\n",
          {"sizes.1.name: 'all' is the name of another size"});
}

}  // namespace
}  // namespace nestling
