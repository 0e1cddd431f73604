// attention_walk.cuh - one pass over keys for a tile of queries with the softmax online (Milakov and
// Gimelshein 2018; Dao 2023, algorithm 1): what attention forward and step share.
//
// Rows          each row sees the keys [low, high) of its own; the lanes of a row keep the largest
//               score so far, and their parts of the sum of exponentials.
// Weights       the exponentials are the operand of the second product: bf16 with bf16 operands.
//               Their sum is that of the f32 values.
#pragma once
#include "kernels/cuda/attention_tile.cuh"

namespace nestling::cuda {

inline constexpr float kHidden = -INFINITY;

template <class Shape>
struct WalkMemory {
  using T = typename Shape::T;
  static constexpr bool kApart = sizeof(T) != sizeof(float);  // weights do not lie over scores
  static constexpr int64_t kBytes =
      int64_t{sizeof(T)} * Shape::kLd * (Shape::kRows + 2 * Shape::kOther) +
      int64_t{sizeof(float)} * Shape::kRows * Shape::kScoreLd +
      (kApart ? int64_t{sizeof(T)} * Shape::kRows * Shape::kWeightLd : 0) +
      int64_t{sizeof(float)} * Shape::kRows;
  static_assert(kBytes >= int64_t{sizeof(float)} * Shape::kRows * Shape::kStageLd);

  T* queries;  // [kRows, kLd]
  T* keys;     // [kOther, kLd]
  T* values;   // [kOther, kLd]
  float* scores;
  T* weights;
  float* factors;  // [kRows]

  __device__ WalkMemory() {
    queries = dynamic_shared<T>();
    keys = queries + Shape::kRows * Shape::kLd;
    values = keys + Shape::kOther * Shape::kLd;
    scores = reinterpret_cast<float*>(values + Shape::kOther * Shape::kLd);
    float* behind = scores + Shape::kRows * Shape::kScoreLd;
    weights = reinterpret_cast<T*>(scores);
    if constexpr (kApart) {
      weights = reinterpret_cast<T*>(behind);
      behind = reinterpret_cast<float*>(weights + Shape::kRows * Shape::kWeightLd);
    }
    factors = behind;
  }
};

template <class Shape>
class Walk {
 public:
  using T = typename Shape::T;
  // The row of this lane, of those of the block; kLanes neighbours share it.
  static constexpr int kLanes = Shape::kRowThreads / kTileRows;
  static __device__ int row() { return Shape::first_row() + Shape::row_thread() / kLanes; }
  static __device__ bool leads_row() { return Shape::row_thread() % kLanes == 0; }

  // The queries are in m.queries, or will be before the first add's barrier.
  __device__ Walk(const WalkMemory<Shape>& m, float scale, int low, int high)
      : m_(m),
        rows_(m.scores + Shape::first_row() * Shape::kScoreLd + Shape::column_warp() * kTileRows,
              Shape::kScoreLd),
        scale_(scale),
        low_(low),
        high_(high) {
    outputs_.clear();
  }

  // Keys and values first .. first + count - 1, count <= kOther, at these addresses.
  __device__ void add(const T* keys, int64_t key_row, const T* values, int64_t value_row, int first,
                      int count, int width, bool vector) {
    __syncthreads();  // the tile before has been read
    load_rows<Shape, Shape::kOther>(m_.keys, keys, key_row, count, width, vector);
    load_rows<Shape, Shape::kOther>(m_.values, values, value_row, count, width, vector);
    __syncthreads();
    typename Shape::Scores scores;
    scores.clear();
    const int column = Shape::column_warp() * Shape::kWarpScores;
    scores.template add_nt<Shape::kDim>(m_.queries + Shape::first_row() * Shape::kLd, Shape::kLd,
                                        m_.keys + column * Shape::kLd, Shape::kLd);
    scores.store(m_.scores + Shape::first_row() * Shape::kScoreLd + column, Shape::kScoreLd);
    Shape::sync_rows();
    apply_softmax(first);
    Shape::sync_rows();
    outputs_.scale_rows(rows_, m_.factors + Shape::first_row());
    outputs_.template add_nn<Shape::kOther>(
        m_.weights + Shape::first_row() * Shape::kWeightLd, Shape::kWeightLd,
        m_.values + Shape::column_warp() * Shape::kWarpDim, Shape::kLd);
  }

  // Divides by the sums; returns the log of the sum of exponentials of this lane's row.
  __device__ float finish() {
    const float sum = warp_sum<kLanes>(sum_);
    Shape::sync_rows();  // the factors have been read
    if (leads_row()) m_.factors[row()] = 1.0f / sum;
    Shape::sync_rows();
    outputs_.scale_rows(rows_, m_.factors + Shape::first_row());
    return top_ + logf(sum);
  }
  __device__ const typename Shape::Outputs& outputs() const { return outputs_; }

 private:
  // Online softmax: scores of keys from `first` on become weights; `factors` is for what was summed before.
  __device__ void apply_softmax(int first) {
    constexpr int kPerLane = Shape::kOther / kLanes;
    const int lane = Shape::row_thread() % kLanes;
    const float* scores = m_.scores + row() * Shape::kScoreLd;
    T* weights = m_.weights + row() * Shape::kWeightLd;
    float x[kPerLane];
    float top = top_;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int c = j * kLanes + lane;
      const bool visible = first + c >= low_ && first + c < high_;
      x[j] = visible ? scores[c] * scale_ : kHidden;
      top = fmaxf(top, x[j]);
    }
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2)
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    const float factor = expf(top_ - top);
    top_ = top;
    sum_ *= factor;
    if (lane == 0) m_.factors[row()] = factor;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const float weight = expf(x[j] - top);
      sum_ += weight;
      store(weights + j * kLanes + lane, weight);
    }
  }

  WalkMemory<Shape> m_;
  typename Shape::Outputs outputs_;
  typename Shape::Tiles::Rows rows_;
  float scale_;
  int low_, high_;
  float top_ = kLowestScore;
  float sum_ = 0.0f;
};

}  // namespace nestling::cuda
