// Products of matrices, in tiles that stay in registers; and the order in which weights are laid out for them.
#pragma once

#include <algorithm>
#include <utility>

#include "vector.h"

namespace cnnjax {
namespace {

// Rows of a matrix lie so many numbers apart that the rows of a tile do not share sets of the first-level cache.
constexpr int64_t spread(int64_t numbers) { return numbers + (numbers / kBlock % 2 ? 2 : 1) * kBlock; }

// sum += x [kHeight][inner] w [inner][16]; rows of x are `step` numbers apart, inner is a multiple of 4.
template <int kHeight>
INLINE void multiply(const float* x, int64_t step, int64_t inner, const float* w, Vec (&sum)[kVecs][kHeight]) {
  constexpr int kDeep = kLanes == 16 ? 4 : 1;  // rows of weights at once, as far as there are registers
  for (int64_t k = 0; k < inner; k += kDeep, w += kDeep * kBlock) {
    Vec weight[kDeep][kVecs];
    UNROLL for (int d = 0; d < kDeep; ++d)
      UNROLL for (int v = 0; v < kVecs; ++v) weight[d][v] = load(w + d * kBlock + v * kLanes);
    UNROLL for (int r = 0; r < kHeight; ++r)
      UNROLL for (int d = 0; d < kDeep; ++d)
        UNROLL for (int v = 0; v < kVecs; ++v) sum[v][r] += weight[d][v] * x[r * step + k + d];
  }
}

// c [kRows][16] (+)= a [kRows][inner] w [inner][16]. a_step: numbers from row to row.
template <int kRows>
void product_tile(const float* a, int64_t a_step, int64_t inner, const float* w, float* c, bool add) {
  Vec sum[kVecs][kRows];
  UNROLL for (int v = 0; v < kVecs; ++v)
    UNROLL for (int r = 0; r < kRows; ++r) sum[v][r] = add ? load(c + r * kBlock + v * kLanes) : Vec{};
  multiply<kRows>(a, a_step, inner, w, sum);
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int v = 0; v < kVecs; ++v) store(c + r * kBlock + v * kLanes, sum[v][r]);
}

using ProductTile = void (*)(const float*, int64_t, int64_t, const float*, float*, bool);

template <int... kIndex>
const ProductTile* product_tiles(std::integer_sequence<int, kIndex...>) {
  static constexpr ProductTile table[] = {product_tile<kIndex + 1>...};
  return table;  // [r - 1]: of r rows
}

// The same for any number of rows.
inline void product(const float* a, int64_t a_step, int64_t rows, int64_t inner, const float* w, float* c, bool add = false) {
  static const ProductTile* tiles = product_tiles(std::make_integer_sequence<int, kTilePixels>{});
  const int64_t parts = (rows + kTilePixels - 1) / kTilePixels;
  for (int64_t part = 0; part < parts; ++part) {  // of nearly equal height
    const int64_t r = rows * part / parts, count = rows * (part + 1) / parts - r;
    tiles[count - 1](a + r * a_step, a_step, inner, w, c + r * kBlock, add);
  }
}

// c [kColumns][16] += transposed a [rows][kColumns] times b [rows][16]. Steps are numbers from row to row.
template <int kColumns>
void transposed_tile(const float* a, int64_t a_step, int64_t rows, const float* b, float* c, int64_t b_step = kBlock) {
  Vec sum[kColumns][kVecs] = {};
  for (int64_t r = 0; r < rows; ++r, a += a_step, b += b_step) {
    Vec right[kVecs];
    UNROLL for (int v = 0; v < kVecs; ++v) right[v] = load(b + v * kLanes);
    UNROLL for (int i = 0; i < kColumns; ++i)
      UNROLL for (int v = 0; v < kVecs; ++v) sum[i][v] += right[v] * a[i];
  }
  UNROLL for (int i = 0; i < kColumns; ++i)
    UNROLL for (int v = 0; v < kVecs; ++v) {
      float* to = c + i * kBlock + v * kLanes;
      store(to, load(to) + sum[i][v]);
    }
}

constexpr int64_t kChain = 128;  // short chains of additions round less

// The same for columns that are a multiple of 16.
inline void transposed_product(const float* a, int64_t a_step, int64_t rows, int64_t columns, const float* b, float* c) {
  constexpr int kColumns = kTileTaps < kBlock ? 4 : kBlock;
  for (int64_t r = 0; r < rows; r += kChain)
    for (int64_t i = 0; i < columns; i += kColumns)
      transposed_tile<kColumns>(a + r * a_step + i, a_step, std::min(kChain, rows - r), b + r * kBlock, c + i * kBlock);
}

#if defined(__clang__)
template <int kHalf, int... kIndex>
inline Vec interleave(Vec a, Vec b, std::integer_sequence<int, kIndex...>) {
  return __builtin_shufflevector(a, b, (kIndex / 2 + kHalf * kLanes / 2 + kIndex % 2 * kLanes)...);
}
#else
template <int kHalf, int... kIndex>
inline Vec interleave(Vec a, Vec b, std::integer_sequence<int, kIndex...>) {
  return __builtin_shuffle(a, b, IntVec{(kIndex / 2 + kHalf * kLanes / 2 + kIndex % 2 * kLanes)...});
}
#endif

// rows[i][j] -> rows[j][i]: each round interleaves the two halves.
inline void transpose(Vec* rows) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
  UNROLL for (int round = 1; round < kLanes; round *= 2) {
    Vec next[kLanes];
    UNROLL for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave<0>(rows[i], rows[i + kLanes / 2], lanes);
      next[2 * i + 1] = interleave<1>(rows[i], rows[i + kLanes / 2], lanes);
    }
    UNROLL for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

}  // namespace
}  // namespace cnnjax
