// A 3x3 max-pool of stride 2, padded by one pixel, and its gradient.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// Images are [n][h][w][channels], channels a multiple of 16.
struct MaxPool {
  int64_t n, h, w, channels;

  int64_t rows() const { return (h - 1) / 2 + 1; }
  int64_t columns() const { return (w - 1) / 2 + 1; }
};

// code: for each output which of its nine was the largest (row by row, 0 to 8), or 9 where one of them is not a number; null where
// it is not wanted. At a tie the upper one, then the left one.
void max_pool_forward(const Pool& pool, const MaxPool& s, const float* x, float* y, uint8_t* code);

// g: gradient of y.
void max_pool_backward(const Pool& pool, const MaxPool& s, const uint8_t* code, const float* g, float* dx);

}  // namespace cnnjax
