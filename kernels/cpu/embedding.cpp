#include "kernels/ops/embedding.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/parallel.h"

namespace nestling::cpu {

namespace {

constexpr int64_t kElementsPerTask = 16384;
constexpr int64_t kColumnsPerTask = 64;  // 256 bytes: whole cache lines of an aligned table

void check_ids(const char* op, const int32_t* ids, int64_t tokens, int64_t vocabulary) {
  for (int64_t t = 0; t < tokens; ++t)
    NESTLING_CHECK(ids[t] >= 0 && ids[t] < vocabulary, op, ": id ", ids[t], " at position ", t,
                   ", the table has ", vocabulary, " rows");
}

void copy_row(float* to, const float* from, int64_t n) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}
void copy_row(float* to, const bf16* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

template <class Element>
void gather(const EmbeddingForward& a) {
  auto* y = a.y.ptr<float>();
  const auto* table = a.table.ptr<Element>();
  const auto* ids = a.ids.ptr<int32_t>();
  const int64_t width = a.y.dim(1);
  const int64_t y_pitch = a.y.pitch();
  const int64_t table_pitch = a.table.pitch();
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(width, 1));
  parallel_for(a.ids.dim(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      copy_row(y + t * y_pitch, table + ids[t] * table_pitch, width);
  });
}

}  // namespace

void run(Context&, const EmbeddingForward& a) {
  check_ids("embedding_forward", a.ids.ptr<int32_t>(), a.ids.dim(0), a.table.dim(0));
  if (a.table.dtype() == DType::kBF16)
    gather<bf16>(a);
  else
    gather<float>(a);
}

// Threads share the columns, not the tokens: each walks all tokens in order, so no two threads meet
// in a row, equal ids are summed in token order, and the bits do not depend on the thread count.
void run(Context&, const EmbeddingBackward& a) {
  const auto* ids = a.ids.ptr<int32_t>();
  const int64_t tokens = a.ids.dim(0);
  const int64_t width = a.dy.dim(1);
  check_ids("embedding_backward", ids, tokens, a.dtable.dim(0));
  auto* dtable = a.dtable.ptr<float>();
  const auto* dy = a.dy.ptr<float>();
  const int64_t table_pitch = a.dtable.pitch();
  const int64_t dy_pitch = a.dy.pitch();
  const int64_t least = kElementsPerTask / std::max<int64_t>(tokens, 1);
  const int64_t grain = std::max<int64_t>(1, least / kColumnsPerTask) * kColumnsPerTask;
  parallel_for(width, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      float* row = dtable + ids[t] * table_pitch;
      const float* add = dy + t * dy_pitch;
      for (int64_t d = begin; d < end; ++d) row[d] += add[d];
    }
  });
}

}  // namespace nestling::cpu
