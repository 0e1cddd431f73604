#include "kernels/cpu/matmul.h"

#include <dnnl.hpp>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "kernels/core/parallel.h"
#include "kernels/cpu/dnnl.h"

namespace nestling::cpu {

namespace {

using dnnl::memory;

struct Key {
  int64_t m, n, k, a_pitch, b_pitch, c_pitch;
  int threads;
  DType in, out;
  bool transpose_a, transpose_b, bias, accumulate;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0;
    const auto mix = [&h](auto x) {
      h = (h ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    };
    for (int64_t x : {key.m, key.n, key.k, key.a_pitch, key.b_pitch, key.c_pitch}) mix(x);
    mix(key.threads << 8 | static_cast<int>(key.in) << 4 | static_cast<int>(key.out));
    mix(key.transpose_a << 3 | key.transpose_b << 2 | key.bias << 1 | int{key.accumulate});
    return h;
  }
};

struct Product {
  memory::desc a, b, c, bias;
  dnnl::matmul primitive;
  int64_t scratch_bytes = 0;
};

// Up to this many multiplications one thread is as fast as two (64^3: 4.4 us against 4.8 us, most of
// the rest is fork and join), and does not wait for a core that is busy elsewhere.
constexpr int64_t kSerialProducts = int64_t{64} * 64 * 64;

// oneDNN takes its threads from OpenMP, when a primitive is made and when it runs.
class ThreadLimit {
 public:
  explicit ThreadLimit(int threads) : before_(thread_count()) {
    if (threads < before_) set_thread_count(threads);
  }
  ~ThreadLimit() {
    if (thread_count() != before_) set_thread_count(before_);
  }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int before_;
};

int threads_for(int64_t products) {
  return in_parallel() || products <= kSerialProducts ? 1 : thread_count();
}

// A product runs under the shared lock, so that emptying a full table cannot pull it away.
struct Table {
  static constexpr size_t kMost = 4096;  // shapes; then the table starts anew
  std::shared_mutex mutex;
  std::unordered_map<Key, Product, KeyHash> products;
};
Table& table() {
  static Table products;
  return products;
}

Product make_product(const Key& key) {
  const auto matrix = [](int64_t rows, int64_t cols, int64_t pitch, bool transpose, DType dtype) {
    return memory::desc({rows, cols}, dnnl_type(dtype),
                        transpose ? memory::dims{1, pitch} : memory::dims{pitch, 1});
  };
  Product p;
  p.a = matrix(key.m, key.k, key.a_pitch, key.transpose_a, key.in);
  p.b = matrix(key.k, key.n, key.b_pitch, key.transpose_b, key.in);
  p.c = matrix(key.m, key.n, key.c_pitch, false, key.out);
  if (key.bias) p.bias = matrix(1, key.n, key.n, false, DType::kF32);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attr.set_post_ops(sum);
  }
  const auto described =
      key.bias ? dnnl::matmul::desc(p.a, p.b, p.bias, p.c) : dnnl::matmul::desc(p.a, p.b, p.c);
  const dnnl::matmul::primitive_desc made(described, attr, dnnl_engine());
  p.scratch_bytes = static_cast<int64_t>(made.scratchpad_desc().get_size());
  p.primitive = dnnl::matmul(made);
  return p;
}

// From this many columns on oneDNN's sgemm is faster than its matmul primitive (Ice Lake, one thread,
// f32, GFLOP/s: 1024 x 384 x 1536 148 against 128, 2048^3 152 against 143; 512 columns and fewer about
// even or slower).
constexpr int64_t kSgemmColumns = 640;

bool prefers_sgemm(const Matmul& p, int64_t columns) {
  return columns >= kSgemmColumns && p.a.dtype() == DType::kF32 && !p.bias;
}

// Elements from row to row. One row has no next: its pitch must not split the table or be rejected.
int64_t pitch_of(ConstView v) {
  return v.rows() <= 1 ? v.dim(v.rank() - 1) : v.pitch();
}

void execute(Context& ctx, const Product& product, const Matmul& p) {
  const Arena::Mark mark(ctx.scratch());
  DnnlArguments arguments;
  arguments.add(DNNL_ARG_SRC, product.a, p.a.data());
  arguments.add(DNNL_ARG_WEIGHTS, product.b, p.b.data());
  arguments.add(DNNL_ARG_DST, product.c, p.c.data());
  if (p.bias) arguments.add(DNNL_ARG_BIAS, product.bias, p.bias.data());
  if (product.scratch_bytes > 0) {
    const View scratch = ctx.scratch().alloc(DType::kU8, {product.scratch_bytes});
    const memory::desc bytes({product.scratch_bytes}, memory::data_type::u8, memory::dims{1});
    arguments.add(DNNL_ARG_SCRATCHPAD, bytes, scratch.data());
  }
  arguments.run(product.primitive);
}

}  // namespace

void matmul(Context& ctx, const Matmul& p) {
  check_dnnl_isa();
  const bool wide = p.a.rows() > 0 && p.b.rows() > 0 && p.c.rows() > 0;
  NESTLING_CHECK(wide, "matmul: c ", p.c.describe(), " from a ", p.a.describe(), " and b ",
                 p.b.describe(), " has an empty extent");
  const int last = p.a.rank() - 1;
  const int64_t m = p.c.rows();
  const int64_t n = p.c.dim(p.c.rank() - 1);
  const int64_t k = p.transpose_a ? p.a.rows() : p.a.dim(last);
  if (prefers_sgemm(p, n)) return matmul_any_rows(p);
  const Key key{.m = m,
                .n = n,
                .k = k,
                .a_pitch = pitch_of(p.a),
                .b_pitch = pitch_of(p.b),
                .c_pitch = pitch_of(p.c),
                .threads = threads_for(m * n * k),
                .in = p.a.dtype(),
                .out = p.c.dtype(),
                .transpose_a = p.transpose_a,
                .transpose_b = p.transpose_b,
                .bias = static_cast<bool>(p.bias),
                .accumulate = p.accumulate};
  Table& all = table();
  const ThreadLimit limit(key.threads);
  try {
    {
      const std::shared_lock lock(all.mutex);
      if (const auto at = all.products.find(key); at != all.products.end())
        return execute(ctx, at->second, p);
    }
    Product made = make_product(key);
    {
      const std::scoped_lock lock(all.mutex);
      if (all.products.size() >= Table::kMost) all.products.clear();
      all.products.try_emplace(key, made);
    }
    execute(ctx, made, p);
  } catch (const dnnl::error& e) {
    throw Error(str("matmul: c ", p.c.describe(), " from a ", p.a.describe(), " and b ",
                    p.b.describe(), ": oneDNN: ", e.what()));
  }
}

void matmul_any_rows(const Matmul& p) {
  check_dnnl_isa();
  const int64_t m = p.c.rows();
  const int64_t n = p.c.dim(p.c.rank() - 1);
  const int64_t k = p.transpose_a ? p.a.rows() : p.a.dim(p.a.rank() - 1);
  if (m == 0 || n == 0 || (k == 0 && p.accumulate)) return;
  const auto status =
      dnnl_sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', m, n, k, 1.0f,
                 p.a.ptr<float>(), pitch_of(p.a), p.b.ptr<float>(), pitch_of(p.b),
                 p.accumulate ? 1.0f : 0.0f, p.c.ptr<float>(), pitch_of(p.c));
  NESTLING_CHECK(status == dnnl_success, "matmul_any_rows: c ", p.c.describe(), " from a ",
                 p.a.describe(), " and b ", p.b.describe(), ": oneDNN status ", status);
}

Bf16Path bf16_path() {
  return cpu_isa() == CpuIsa::kAvx512Bf16 ? Bf16Path::kNative : Bf16Path::kWidened;
}

}  // namespace nestling::cpu
