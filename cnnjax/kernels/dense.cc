#include "dense.h"

#include <vector>

#include "vector.h"

namespace cnnjax {
namespace {

constexpr int kRows = std::min(kTilePixels, 6), kWide = kLanes == 16 ? 4 : 1;  // a tile: kRows x 16 * kWide
constexpr int64_t kColumns = kWide * kBlock;
constexpr int64_t kPartialSums = int64_t(1) << 24;  // of all jobs together, in numbers

// c[p][:] = sum over i of a[p * ap + i * ai] * b[i * bi + :].
template <int P, int V>
void matmul_tile(const float* a, int64_t ap, int64_t ai, const float* b, int64_t bi, int64_t n, float* c, int64_t cp) {
  Vec sum[P][V * kVecs] = {};
  for (int64_t i = 0; i < n; ++i, a += ai, b += bi) {
    Vec row[V * kVecs];
    UNROLL for (int v = 0; v < V * kVecs; ++v) row[v] = load(b + v * kLanes);
    UNROLL for (int p = 0; p < P; ++p)
      UNROLL for (int v = 0; v < V * kVecs; ++v) sum[p][v] += row[v] * a[p * ap];
  }
  UNROLL for (int p = 0; p < P; ++p)
    UNROLL for (int v = 0; v < V * kVecs; ++v) store(c + p * cp + v * kLanes, sum[p][v]);
}

template <int V, int P = kRows>
void matmul_rows(const float* a, int64_t ap, int64_t ai, const float* b, int64_t bi, int64_t n, float* c, int64_t cp,
                 int64_t rows) {
  for (; rows >= P; rows -= P, a += P * ap, c += P * cp) matmul_tile<P, V>(a, ap, ai, b, bi, n, c, cp);
  if constexpr (P > 1)
    if (rows) matmul_rows<V, P - 1>(a, ap, ai, b, bi, n, c, cp, rows);
}

// c [rows][columns] = a b; columns is a multiple of 16.
void matmul(const float* a, int64_t ap, int64_t ai, const float* b, int64_t bi, int64_t n, float* c, int64_t cp,
            int64_t rows, int64_t columns) {
  int64_t q = 0;
  for (; q + kColumns <= columns; q += kColumns) matmul_rows<kWide>(a, ap, ai, b + q, bi, n, c + q, cp, rows);
  for (; q < columns; q += kBlock) matmul_rows<1>(a, ap, ai, b + q, bi, n, c + q, cp, rows);
}

// Numbers of k for a job: 256, or more where the sums of all jobs would not fit. The number of threads has no say.
int64_t chunk(int64_t m, int64_t k, int64_t n) {
  const int64_t jobs = std::max<int64_t>(1, kPartialSums / (m * n));
  return std::max<int64_t>(256, blocks((k + jobs - 1) / jobs) * kBlock);
}

}  // namespace

void dense_forward(const Pool& pool, int64_t m, int64_t k, int64_t n, const float* x, const float* w, float* y) {
  const int64_t step = chunk(m, k, n), jobs = (k + step - 1) / step;
  std::vector<float> sums(jobs * m * n);
  parallel_for(pool, jobs, [&](int64_t job) {
    const int64_t k0 = job * step;
    matmul(x + k0, k, 1, w + k0 * n, n, std::min(step, k - k0), &sums[job * m * n], n, m, n);
  });
  std::copy_n(sums.data(), m * n, y);
  for (int64_t job = 1; job < jobs; ++job)
    for (int64_t i = 0; i < m * n; ++i) y[i] += sums[job * m * n + i];
}

// Each job reads its weights once and gives both gradients.
void dense_backward(const Pool& pool, int64_t m, int64_t k, int64_t n, const float* x, const float* w, const float* g,
                    float* dx, float* dw) {
  constexpr int64_t step = 256;
  parallel_for(pool, (k + step - 1) / step, [&](int64_t job) {
    const int64_t k0 = job * step, k1 = std::min(k, k0 + step);
    matmul(x + k0, 1, k, g, n, m, dw + k0 * n, n, k1 - k0, n);
    float* turned = scratch(Scratch::kInput, n * kColumns);  // a strip of w, transposed
    for (int64_t q = k0; q < k1; q += kColumns) {
      const int64_t columns = std::min(kColumns, k1 - q);
      for (int64_t j = 0; j < columns; ++j)
        for (int64_t i = 0; i < n; ++i) turned[i * kColumns + j] = w[(q + j) * n + i];
      matmul(g, n, 1, turned, kColumns, n, dx + q, k, m, columns);
    }
  });
}

}  // namespace cnnjax
