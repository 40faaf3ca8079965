#include "orthogonal.h"

#include <cmath>

#include "memory.h"
#include "product.h"

namespace cnnjax {
namespace {

constexpr float kA = 3.4445f, kB = -4.775f, kC = 2.0315f;  // as in orthogonal.py
constexpr int kIterations = 5;
constexpr int64_t kTile = kBlock * kBlock, kRows = 16 * kTilePixels;

const auto as_it_is = [](float*, int64_t, int64_t) {};

// c = transposed a times b, where that is symmetric: what is below its diagonal is mirrored. Matrices are stored as blocks of 16
// columns, [count][rows][16]. finish(tile, i, j) may change the tile [16][16] of rows 16 i and columns 16 j.
template <typename Finish>
void symmetric_product(const Pool& pool, int64_t rows, int64_t count, const float* a, const float* b, float* c, const Finish& finish) {
  parallel_for(pool, count, [&](int64_t job) {
    const int64_t j = job % 2 ? count - 1 - job / 2 : job / 2;  // long columns and short ones in turn
    for (int64_t i = 0; i <= j; ++i) {
      float* tile = c + (j * count + i) * kTile;
      std::fill_n(tile, kTile, 0.f);
      transposed_product(a + i * rows * kBlock, kBlock, rows, kBlock, b + j * rows * kBlock, tile);
      finish(tile, i, j);
      float* mirrored = c + (i * count + j) * kTile;
      if (i < j)
        for (int64_t k = 0; k < kTile; ++k) mirrored[k] = tile[k % kBlock * kBlock + k / kBlock];
    }
  });
}

// x [rows][columns] as blocks of 16 columns.
void to_blocks(const Pool& pool, const Matrix& m, const float* x, float* blocks) {
  const Parts parts(m.rows, kRows);
  parallel_for(pool, parts.parts, [&](int64_t part) {
    for (int64_t r = parts.begin(part); r < parts.end(part); ++r)
      for (int64_t c = 0; c < m.columns; c += kBlock) std::copy_n(x + r * m.columns + c, kBlock, blocks + c * m.rows + r * kBlock);
  });
}

// y = scale * x w; w as blocks.
void multiply(const Pool& pool, const Matrix& m, const float* x, const float* w, float scale, float* y) {
  const Parts parts(m.rows, kRows);
  parallel_for(pool, parts.parts, [&](int64_t part) {
    const int64_t begin = parts.begin(part), rows = parts.end(part) - begin;
    float* block = scratch(Scratch::kOutput, rows * kBlock);
    for (int64_t c = 0; c < m.columns; c += kBlock) {
      product(x + begin * m.columns, m.columns, rows, m.columns, w + c * m.columns, block);
      for (int64_t k = 0; k < rows * kBlock; ++k) y[(begin + k / kBlock) * m.columns + c + k % kBlock] = scale * block[k];
    }
  });
}

}  // namespace

void orthogonal(const Pool& pool, const Matrix& matrix, const float* x, float* y) {
  const int64_t columns = matrix.columns, count = columns / kBlock, square = columns * columns;
  const Memory memory(matrix.rows * columns + 4 * square);
  float *gram = memory.get(), *factor = gram + square, *total = factor + square, *spare = total + square, *blocks = spare + square;
  to_blocks(pool, matrix, x, blocks);
  symmetric_product(pool, matrix.rows, count, blocks, blocks, gram, as_it_is);
  float trace = 0;
  for (int64_t i = 0; i < columns; ++i) trace += gram[(i / kBlock * columns + i) * kBlock + i % kBlock];
  const float shrink = 1 / (std::sqrt(trace) + 1e-7f);
  for (int64_t i = 0; i < square; ++i) gram[i] *= shrink * shrink;

  const auto find_factor = [&] {
    symmetric_product(pool, columns, count, gram, gram, factor, [&](float* tile, int64_t i, int64_t j) {
      const float* first = gram + (j * count + i) * kTile;
      for (int64_t k = 0; k < kTile; ++k) tile[k] = kB * first[k] + kC * tile[k];
      for (int64_t k = 0; i == j && k < kBlock; ++k) tile[k * kBlock + k] += kA;
    });
  };
  const auto multiply_into = [&](const float* a, const float* b, float* c) {
    symmetric_product(pool, columns, count, a, b, c, as_it_is);
  };
  find_factor();
  std::copy_n(factor, square, total);
  for (int turn = 1; turn < kIterations; ++turn) {
    multiply_into(factor, gram, spare);
    multiply_into(spare, factor, gram);
    find_factor();
    multiply_into(total, factor, spare);
    std::swap(total, spare);
  }
  multiply(pool, matrix, x, total, shrink, y);
}

}  // namespace cnnjax
