// embedding.h - rows of a table by token id, and the gradient of the table.
//
// Shapes        y [T, D]   table [V, D]   ids [T] i32
// Dtypes        table f32 or bf16, y f32, dtable f32.
// Errors        an id outside [0, V) throws, naming its position; on CUDA, from Context::synchronize.
// Determinism   equal ids are summed in token order: same inputs, same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

struct EmbeddingForward {
  View y;           // [T, D] overwritten
  ConstView table;  // [V, D]
  ConstView ids;    // [T] i32
};
struct EmbeddingBackward {
  View dtable;    // [V, D] accumulated
  ConstView dy;   // [T, D]
  ConstView ids;  // [T] i32
};

void embedding_forward(Context& ctx, const EmbeddingForward& a);
void embedding_backward(Context& ctx, const EmbeddingBackward& a);

namespace cpu {
void run(Context& ctx, const EmbeddingForward& a);
void run(Context& ctx, const EmbeddingBackward& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const EmbeddingForward& a);
void run(Context& ctx, const EmbeddingBackward& a);
}  // namespace cuda

}  // namespace nestling
