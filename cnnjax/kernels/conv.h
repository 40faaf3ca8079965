// y = pool(relu(convolution(scale * x, w) + b)), and its gradients.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// 3x3, stride 1. Images are [n][h][w][ci], weights [3][3][ci][co]; co is a multiple of 16.
struct Conv {
  int64_t n, h, w, ci, co;
  int64_t padding;      // zeros on all four sides: 0 or 1
  int64_t pool_stride;  // of the 2x2 max-pool: 1 or 2; 0: no pool
  bool bytes;           // x is uint8, else float
  float scale;
  bool bfloat16;  // products of rounded factors, where the instruction set has them; sums are float32 all the same

  int64_t conv_rows() const { return h + 2 * padding - 2; }
  int64_t conv_columns() const { return w + 2 * padding - 2; }
  int64_t rows() const { return pool_stride ? (conv_rows() - 2) / pool_stride + 1 : conv_rows(); }
  int64_t columns() const { return pool_stride ? (conv_columns() - 2) / pool_stride + 1 : conv_columns(); }
  int64_t padded_row() const { return (w + 2 * padding) * ci; }  // values
};

// code: for each pooled value, which of its four was the largest (row by row, 0 to 3), or 4 where ReLU lets nothing
// through; null where it is not wanted. Both throw std::bad_alloc.
void conv_forward(const Pool& pool, const Conv& conv, const void* x, const float* w, const float* b, float* y,
                  uint8_t* code);

// g: gradient of y. kept: y, or the code where there is a pool. dx: null where it is not wanted.
void conv_backward(const Pool& pool, const Conv& conv, const void* x, const float* w, const void* kept, const float* g,
                   float* dw, float* db, float* dx);

}  // namespace cnnjax
