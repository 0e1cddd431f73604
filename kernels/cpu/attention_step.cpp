#include <cmath>

#include "kernels/core/parallel.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/ops/attention.h"

namespace nestling::cpu {

namespace {

using namespace attention;  // NOLINT(google-build-using-namespace)

constexpr int64_t kKeysPerTask =
    512;  // a longer cache is cut, so that one sequence feeds all cores

// kKeysPerTask keys of one (sequence, KV head) against up to kBlock of its query heads.
struct Task {
  int64_t sequence, kv, chunk;
  int64_t slot, slots;         // query heads
  int64_t key_begin, key_end;  // positions in the cache
};

// The tasks in order: sequence, KV head, slot block, chunk. A chunk's keys depend on the length
// alone, so the sums do not depend on the threads.
class Tasks {
 public:
  Tasks(const AttentionStep& a)  // NOLINT(google-explicit-constructor)
      : lengths_(a.lengths),
        window_(a.window),
        kv_heads_(a.k.dim(2) / a.q.dim(2)),
        slots_(a.q.dim(1) / kv_heads_) {}

  int64_t count() const {
    int64_t n = 0;
    for (size_t b = 0; b < lengths_.size(); ++b) n += per_sequence(static_cast<int64_t>(b));
    return n;
  }
  int64_t chunks(int64_t b) const {
    return (length(b) - begin(b) + kKeysPerTask - 1) / kKeysPerTask;
  }

  // Calls fn(task) for the tasks [from, to).
  template <class Fn>
  void for_each(int64_t from, int64_t to, Fn&& fn) const {
    int64_t at = 0;
    for (int64_t b = 0; b < static_cast<int64_t>(lengths_.size()) && at < to; ++b) {
      const int64_t n = per_sequence(b);
      for (int64_t i = std::max(from - at, int64_t{0}); i < std::min(n, to - at); ++i)
        fn(task(b, i));
      at += n;
    }
  }

 private:
  int64_t length(int64_t b) const { return lengths_[static_cast<size_t>(b)]; }
  int64_t begin(int64_t b) const {
    return window_ > 0 ? std::max<int64_t>(0, length(b) - window_) : 0;
  }
  int64_t slot_blocks() const { return (slots_ + kBlock - 1) / kBlock; }
  int64_t per_sequence(int64_t b) const { return kv_heads_ * slot_blocks() * chunks(b); }
  Task task(int64_t b, int64_t i) const {
    const int64_t chunk = i % chunks(b);
    const int64_t slot = i / chunks(b) % slot_blocks() * kBlock;
    const int64_t key = begin(b) + chunk * kKeysPerTask;
    return {.sequence = b,
            .kv = i / chunks(b) / slot_blocks(),
            .chunk = chunk,
            .slot = slot,
            .slots = std::min(kBlock, slots_ - slot),
            .key_begin = key,
            .key_end = std::min(length(b), key + kKeysPerTask)};
  }

  std::span<const int32_t> lengths_;
  int64_t window_, kv_heads_, slots_;
};

struct Heads {  // the operands of one task
  int64_t width, slots, key_begin, key_end;
  float scale;
  Rows<const float> q;     // one query head a row
  Rows<const float> k, v;  // one token of the cache a row
  Rows<float> partial;     // [slots, width + 2]: sums of p v, then sum of p, then peak
};

template <class V>
NESTLING_INLINE void attend(const Heads& h, float* memory) {
  const Online o(h.width, h.slots, memory);
  const Mask everything{.first = h.key_end, .count = 1, .window = 0};
  pack_lanes<V>(h.q, h.slots, h.width, h.scale * kLog2E, o.q);
  for (int64_t key = h.key_begin; key < h.key_end; key += kTile)
    absorb<V>(o, everything, key, std::min(kTile, h.key_end - key), {h.k.row(key), h.k.pitch},
              {h.v.row(key), h.v.pitch});
  for (int64_t i = 0; i < h.slots; ++i) {
    h.partial.row(i)[h.width] = o.total[i];
    h.partial.row(i)[h.width + 1] = o.peak[i];
  }
  std::fill_n(o.total, kBlock, 1.0f);
  unpack_lanes<V>(o.out, h.slots, h.width, o.total, h.partial);
}
void attend_avx2(const Heads& h, float* memory) {
  attend<simd::F8>(h, memory);
}
NESTLING_TARGET_AVX512 void attend_avx512(const Heads& h, float* memory) {
  attend<simd::F16>(h, memory);
}

// The new row of sequence b.
void append(View cache, ConstView rows, int64_t b, int64_t length) {
  std::copy_n(rows.ptr<float>() + b * rows.stride(0), rows.dim(1),
              cache.ptr<float>() + b * cache.stride(0) + (length - 1) * cache.stride(1));
}

// Where the chunks of every (sequence, query head) leave their sums: [B, chunks, Q, h + 2].
struct Partials {
  float* data;
  int64_t chunks, heads, row;
  float* at(int64_t sequence, int64_t chunk, int64_t head) const {
    return data + ((sequence * chunks + chunk) * heads + head) * row;
  }
};

Heads operands(const AttentionStep& a, const Task& t, const Partials& partials) {
  const int64_t width = a.q.dim(2);
  const int64_t kv_heads = a.k.dim(2) / width;
  const int64_t head = t.slot * kv_heads + t.kv;
  const auto cache = [&](ConstView x) {
    return Rows{x.ptr<float>() + t.sequence * x.stride(0) + t.kv * width, x.stride(1)};
  };
  return {.width = width,
          .slots = t.slots,
          .key_begin = t.key_begin,
          .key_end = t.key_end,
          .scale = a.scale,
          .q = {a.q.ptr<float>() + t.sequence * a.q.stride(0) + head * a.q.stride(1),
                a.q.stride(1) * kv_heads},
          .k = cache(a.k),
          .v = cache(a.v),
          .partial = {partials.at(t.sequence, t.chunk, head), partials.row * kv_heads}};
}

// y = sum of out_c 2^(peak_c - peak) / sum of total_c 2^(peak_c - peak), chunks in order.
void combine(const Partials& partials, int64_t sequence, int64_t head, int64_t chunks, float* y) {
  const int64_t width = partials.row - 2;
  float peak = kLowest;
  for (int64_t c = 0; c < chunks; ++c)
    peak = std::max(peak, partials.at(sequence, c, head)[width + 1]);
  float total = 0;
  std::fill_n(y, width, 0.0f);
  for (int64_t c = 0; c < chunks; ++c) {
    const float* part = partials.at(sequence, c, head);
    const float weight = std::exp2(part[width + 1] - peak);
    total += weight * part[width];
    for (int64_t i = 0; i < width; ++i) y[i] += weight * part[i];
  }
  for (int64_t i = 0; i < width; ++i) y[i] /= total;
}

}  // namespace

void run(Context& ctx, const AttentionStep& a) {
  const int64_t batch = a.q.dim(0);
  const int64_t heads = a.q.dim(1);
  const int64_t width = a.q.dim(2);
  const Tasks tasks(a);
  int64_t chunks = 0;
  for (int64_t b = 0; b < batch; ++b) {
    append(a.k, a.new_k, b, a.lengths[static_cast<size_t>(b)]);
    append(a.v, a.new_v, b, a.lengths[static_cast<size_t>(b)]);
    chunks = std::max(chunks, tasks.chunks(b));
  }

  const Arena::Mark mark(ctx.scratch());
  const int64_t parts = thread_count();
  const int64_t floats = Online::floats(width);
  float* scratch = ctx.scratch().floats(parts * floats);
  const Partials partials{ctx.scratch().floats(batch * chunks * heads * (width + 2)), chunks, heads,
                          width + 2};
  auto* body = cpu_isa() >= CpuIsa::kAvx512 ? attend_avx512 : attend_avx2;
  const int64_t count = tasks.count();
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      tasks.for_each(count * part / parts, count * (part + 1) / parts, [&](const Task& task) {
        body(operands(a, task, partials), scratch + part * floats);
      });
  });
  parallel_for(batch * heads, kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / heads;
      combine(partials, b, i % heads, tasks.chunks(b),
              a.y.ptr<float>() + b * a.y.stride(0) + i % heads * a.y.stride(1));
    }
  });
}

}  // namespace nestling::cpu
