// y = convolution(x, w) and its gradients, without bias and ReLU: where a norm follows.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// Of an odd kernel, padded with kernel / 2 zeros on all four sides. Images are [n][h][w][ci], weights
// [kernel][kernel][ci][co]; co is a multiple of 16.
struct Plain {
  int64_t n, h, w, ci, co, kernel, stride;

  int64_t rows() const { return (h - 1) / stride + 1; }
  int64_t columns() const { return (w - 1) / stride + 1; }
};

// Both throw std::bad_alloc. g: gradient of y. dx: null where it is not wanted, else ci is a multiple of 16, too.
void plain_forward(const Pool& pool, const Plain& conv, const float* x, const float* w, float* y);
void plain_backward(const Pool& pool, const Plain& conv, const float* x, const float* w, const float* g, float* dw, float* dx);

}  // namespace cnnjax
