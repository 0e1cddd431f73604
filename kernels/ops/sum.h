// sum.h - sums that stay on the device until somebody asks: of losses over a step, of tokens an expert.
//
// Dtypes        totals and counts f64.
// Determinism   fixed order: same inputs, same bits.
#pragma once
#include "kernels/core/context.h"

namespace nestling {

// total += sum of x, itself added up in f64.
struct AddSum {
  View total;   // [1] f64 accumulated
  ConstView x;  // [T] f32
};
// counts[e] += rows of expert e
struct CountRows {
  View counts;        // [E] f64 accumulated
  ConstView offsets;  // [E+1] i32, as in experts.h
};

void add_sum(Context& ctx, const AddSum& a);
void count_rows(Context& ctx, const CountRows& a);

namespace cpu {
void run(Context& ctx, const AddSum& a);
void run(Context& ctx, const CountRows& a);
}  // namespace cpu
namespace cuda {
void run(Context& ctx, const AddSum& a);
void run(Context& ctx, const CountRows& a);
}  // namespace cuda

}  // namespace nestling
