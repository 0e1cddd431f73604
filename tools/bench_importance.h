// bench_importance.h - whether cutting by importance loses less than cutting by chance, axis by axis.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace nestling {

struct BenchImportanceOptions {
  std::string model;                     // a Hugging Face directory with a tokenizer
  std::vector<std::string> calibration;  // texts (data/text_source.h), in equal shares
  std::vector<std::string> held_out;     // a table each; one in both lists is read on, not again
  int64_t seq_len = 512;
  int64_t samples = 32;  // calibration sequences
  // Of them, for the greedy search of layers: 4, or all where there are fewer.
  std::optional<int64_t> depth_samples;
  int64_t evaluated = 4;  // sequences of each held-out text
  int64_t orders = 8;     // random ones
  int threads = 0;        // 0: all
  bool json = false;
};

// Prints a table a held-out text: a row an axis, score and width.
int bench_importance(const BenchImportanceOptions& options);

}  // namespace nestling
