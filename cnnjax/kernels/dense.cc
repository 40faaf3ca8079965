#include "dense.h"

#include <memory>
#include <type_traits>
#include <vector>

#include "product.h"
#include "vector.h"

namespace cnnjax {
namespace {

constexpr int kRows = std::min(kTilePixels, 6), kWide = kLanes == 16 ? 4 : 1;  // a tile: kRows x 16 * kWide
constexpr int64_t kColumns = kWide * kBlock;
constexpr int64_t kPartialSums = int64_t(1) << 24;  // of all jobs together, in numbers

// c[p][:] = sum over i of a[p * ap + i * ai] * b[i * bi + :]. Steps of a and b are in words, of which n are summed.
template <typename M, int P, int V, typename C>
void matmul_tile(const char* a, int64_t ap, int64_t ai, const float* b, int64_t bi, int64_t n, C* c, int64_t cp) {
  Vec sum[P][V * kVecs] = {};
  for (int64_t i = 0; i < n; ++i, a += 4 * ai, b += bi) {
    Vec row[V * kVecs];
    UNROLL for (int v = 0; v < V * kVecs; ++v) row[v] = load(b + v * kLanes);
    UNROLL for (int p = 0; p < P; ++p)
      UNROLL for (int v = 0; v < V * kVecs; ++v) sum[p][v] = M::multiply_add(sum[p][v], row[v], a + 4 * p * ap);
  }
  UNROLL for (int p = 0; p < P; ++p)
    UNROLL for (int v = 0; v < V * kVecs; ++v) store(c + p * cp + v * kLanes, sum[p][v]);
}

template <typename M, int V, int P = kRows, typename C>
void matmul_rows(const char* a, int64_t ap, int64_t ai, const float* b, int64_t bi, int64_t n, C* c, int64_t cp, int64_t rows) {
  for (; rows >= P; rows -= P, a += 4 * P * ap, c += P * cp) matmul_tile<M, P, V>(a, ap, ai, b, bi, n, c, cp);
  if constexpr (P > 1)
    if (rows) matmul_rows<M, V, P - 1>(a, ap, ai, b, bi, n, c, cp, rows);
}

// c [rows][columns] = a b; columns is a multiple of 16.
template <typename M, typename C>
void matmul(const void* a, int64_t ap, int64_t ai, const void* b, int64_t bi, int64_t n, C* c, int64_t cp, int64_t rows,
            int64_t columns) {
  const char* left = static_cast<const char*>(a);
  const float* right = static_cast<const float*>(b);
  int64_t q = 0;
  for (; q + kColumns <= columns; q += kColumns) matmul_rows<M, kWide>(left, ap, ai, right + q, bi, n, c + q, cp, rows);
  for (; q < columns; q += kBlock) matmul_rows<M, 1>(left, ap, ai, right + q, bi, n, c + q, cp, rows);
}

// Rows of `columns` numbers, `step` apart, each as taps; or each two as pairs, where zeros follow the last.
template <typename M>
void rows_to_taps(const float* from, int64_t step, int64_t rows, int64_t columns, char* to) {
  for (int64_t r = 0; r < rows; ++r) to_taps<M>(from + r * step, columns, to + r * columns * 4 / M::kPack);
}

template <typename M, typename X>
void rows_to_pairs(const X* from, int64_t step, int64_t rows, int64_t columns, const X* zeros, char* to) {
  for (int64_t r = 0; r < rows; r += M::kPack, to += columns * 4)
    to_pairs<M>(from + r * step, r + 1 < rows ? from + (r + 1) * step : zeros, columns, to);
}

// Numbers of k for a job: 256, or more where the sums of all jobs would not fit. The number of threads has no say.
int64_t chunk(int64_t m, int64_t k, int64_t n) {
  const int64_t jobs = std::max<int64_t>(1, kPartialSums / (m * n));
  return std::max<int64_t>(256, blocks((k + jobs - 1) / jobs) * kBlock);
}

// X: of x and its gradient.
template <typename M, typename X>
void forward(const Pool& pool, int64_t m, int64_t k, int64_t n, const X* x, const float* w, float* y) {
  constexpr bool kRounded = M::kPack == 2, kReady = !std::is_same_v<X, float>;  // kReady: x is as it is multiplied
  const int64_t step = chunk(m, k, n), jobs = (k + step - 1) / step;
  const std::unique_ptr<float[]> sums(new float[jobs * m * n]);
  parallel_for(pool, jobs, [&](int64_t job) {
    const int64_t k0 = job * step, count = std::min(step, k - k0);
    const X* left = x + k0;
    const float* right = w + k0 * n;
    if constexpr (kRounded) {
      char* pairs = scratch_bytes(Scratch::kPadded, count * n * 2);
      rows_to_pairs<M, float>(right, n, count, n, nullptr, pairs);
      if constexpr (kReady) {
        matmul<M>(left, k / 2, 1, pairs, n, count / 2, &sums[job * m * n], n, m, n);
      } else {
        char* taps = scratch_bytes(Scratch::kInput, m * count * 2);
        rows_to_taps<M>(left, k, m, count, taps);
        matmul<M>(taps, count / 2, 1, pairs, n, count / 2, &sums[job * m * n], n, m, n);
      }
    } else {
      matmul<M>(left, k, 1, right, n, count, &sums[job * m * n], n, m, n);
    }
  });
  parallel_for(pool, m, [&](int64_t row) {
    std::copy_n(&sums[row * n], n, y + row * n);
    for (int64_t job = 1; job < jobs; ++job)
      for (int64_t i = row * n; i < (row + 1) * n; ++i) y[i] += sums[job * m * n + i];
  });
}

// Each job reads its weights once and gives both gradients.
template <typename M, typename X>
void backward(const Pool& pool, int64_t m, int64_t k, int64_t n, const X* x, const float* w, const float* g, X* dx, float* dw) {
  constexpr bool kRounded = M::kPack == 2;
  constexpr int64_t step = 256;
  const int64_t words = n / M::kPack, pairs = (m + M::kPack - 1) / M::kPack;
  const std::vector<float> zeros(kRounded ? std::max(n, step) : 0);
  std::vector<float> g_taps(kRounded ? m * words : 0), g_pairs(kRounded ? pairs * n : 0);
  if constexpr (kRounded) {
    rows_to_taps<M>(g, n, m, n, reinterpret_cast<char*>(g_taps.data()));
    rows_to_pairs<M, float>(g, n, m, n, zeros.data(), reinterpret_cast<char*>(g_pairs.data()));
  }
  parallel_for(pool, (k + step - 1) / step, [&](int64_t job) {
    const int64_t k0 = job * step, k1 = std::min(k, k0 + step);
    if constexpr (kRounded) {
      char* x_pairs = scratch_bytes(Scratch::kPadded, pairs * (k1 - k0) * 4);
      rows_to_pairs<M, X>(x + k0, k, m, k1 - k0, reinterpret_cast<const X*>(zeros.data()), x_pairs);
      matmul<M>(x_pairs, 1, k1 - k0, g_pairs.data(), n, pairs, dw + k0 * n, n, k1 - k0, n);
    } else {
      matmul<M>(x + k0, 1, k, g, n, m, dw + k0 * n, n, k1 - k0, n);
    }
    float* turned = scratch(Scratch::kInput, n * kColumns);  // a strip of w, its words transposed
    float* row = kRounded ? scratch(Scratch::kLine, kLanes * words + kLanes) : nullptr;  // a load may go beyond
    for (int64_t q = k0; q < k1; q += kColumns) {
      const int64_t columns = std::min(kColumns, k1 - q);
      for (int64_t j = 0; j < columns; j += kLanes) {
        const float* from = w + (q + j) * n;
        if constexpr (kRounded) {
          rows_to_taps<M>(from, n, kLanes, n, reinterpret_cast<char*>(row));
          from = row;
        }
        for (int64_t i = 0; i < words; i += kLanes) {
          Vec part[kLanes];
          for (int l = 0; l < kLanes; ++l) part[l] = load(from + l * words + i);
          transpose(part);
          for (int l = 0; l < kLanes && i + l < words; ++l) store(turned + (i + l) * kColumns + j, part[l]);
        }
      }
      matmul<M>(kRounded ? g_taps.data() : g, words, 1, turned, kColumns, words, dx + q, k, m, columns);
    }
  });
}

// call(arithmetic, number of x).
template <typename Call>
void with_types(const Dense& s, const Call& call) {
  if constexpr (Bfloat16::kPack == 2)
    if (s.rounded) return call(Bfloat16{}, uint16_t{});
  s.bfloat16 ? call(Bfloat16{}, float{}) : call(Float32{}, float{});
}

}  // namespace

void dense_forward(const Pool& pool, const Dense& s, const void* x, const float* w, float* y) {
  with_types(s, [&](auto m, auto kind) {
    using X = decltype(kind);
    forward<decltype(m)>(pool, s.m, s.k, s.n, static_cast<const X*>(x), w, y);
  });
}

void dense_backward(const Pool& pool, const Dense& s, const void* x, const float* w, const float* g, void* dx, float* dw) {
  with_types(s, [&](auto m, auto kind) {
    using X = decltype(kind);
    backward<decltype(m)>(pool, s.m, s.k, s.n, static_cast<const X*>(x), w, g, static_cast<X*>(dx), dw);
  });
}

}  // namespace cnnjax
