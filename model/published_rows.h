// published_rows.h - weights in memory as the tensors of the published layout: their names, and
// rows in published order. The one place that goes from slot-major to published rows and back, for
// whatever file they are written to or read from.
//
// Threads       const, on weights that nobody writes.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/tensor.h"
#include "model/weights.h"

namespace nestling {

// One published tensor and the parameters that are its rows.
struct Published {
  std::vector<int64_t> parts;  // indices into the list, by rising row
  int64_t expert = 0;
};
struct NamedPublished {
  std::string name;
  Published from;
};
// As the list goes; the experts of one parameter one after another, or, where they are published as
// one tensor, all of them in the one of expert 0.
std::vector<NamedPublished> published_tensors(const Weights& weights);

// Rows of published tensors as f32: of masters, or of what codes stand for
// (kernels/ops/dequantize.h), which is made of these parameters for as long as this lives.
// `weights` on the CPU must outlive it.
class PublishedRows {
 public:
  PublishedRows(const Weights& weights, const std::vector<int64_t>& parts);
  // Row `row` of an expert's tensor, or of the only one; out: its columns.
  void read(int64_t expert, int64_t row, std::span<float> out) const;

 private:
  const Weights& weights_;
  std::vector<int64_t> parts_;
  std::vector<Tensor> made_;
  std::vector<const float*> matrices_;
};

// The way back of one matrix of a parameter (an expert's, or the only one), whose rows are those
// from `first_row` on of a published tensor. read(row, out) gives one, in published order; out: rows
// x columns of memory. Throws kInput where a number is not finite, naming `where`.
using ReadRow = std::function<void(int64_t row, std::span<float> out)>;
void fill_matrix(const ParameterSpec& spec, int64_t first_row, const ReadRow& read,
                 const std::string& where, float* out);

// An array of bytes that a published tensor is kept as: `unit` bytes stand for `elements` of a row
// and move together.
struct CodeArray {
  int64_t unit, elements;
  bool blocks = false;  // the scales of blocks, not codes
  int64_t row_bytes(int64_t cols) const { return cols / elements * unit; }
};
inline constexpr CodeArray kFp8Codes{.unit = 1, .elements = 1};
inline constexpr CodeArray kNvfp4Codes{.unit = kNvfp4Block / 2, .elements = kNvfp4Block};
inline constexpr CodeArray kBlockScales{.unit = 1, .elements = kNvfp4Block, .blocks = true};

// Row `row` of a published tensor that is codes; out: its row_bytes.
void gather_codes(const Weights& weights, const Published& p, const CodeArray& a, int64_t row,
                  std::span<std::byte> out);
// The way back of one matrix, as fill_matrix: read(row) gives row_bytes.
using ReadCodes = std::function<std::span<const std::byte>(int64_t row)>;
void scatter_codes(const ParameterSpec& spec, int64_t first_row, const CodeArray& a,
                   const ReadCodes& read, std::byte* out);

}  // namespace nestling
