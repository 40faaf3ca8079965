// y = convolution(x, w) and its gradients, where a norm follows; in evaluation the norm is part of the weights and what follows.
#pragma once

#include <cstdint>

#include "finish.h"
#include "threads.h"

namespace cnnjax {

// Of an odd kernel, with zeros on the four sides. Images are [n][h][w][ci], weights
// [kernel][kernel][ci][co]; co is a multiple of 16, but for `is_product`.
struct Plain {
  int64_t n, h, w, ci, co, kernel, stride;
  int64_t top = kernel / 2, bottom = kernel / 2, left = kernel / 2, right = kernel / 2;

  int64_t rows() const { return (h + top + bottom - kernel) / stride + 1; }
  int64_t columns() const { return (w + left + right - kernel) / stride + 1; }
};

// Whether a product of matrices computes it: then channels are any multiples of 4 from 16 on.
bool is_product(const Plain& conv);

// Whether `after` may be something: not where tiles compute 2x2 outputs.
bool finishes(const Plain& conv);

// Both throw std::bad_alloc. g: gradient of y. dx: null where it is not wanted, else ci is a multiple of 16, too, or `is_product`.
void plain_forward(const Pool& pool, const Plain& conv, const float* x, const float* w, const Finish& after, float* y);
void plain_backward(const Pool& pool, const Plain& conv, const float* x, const float* w, const float* g, float* dw, float* dx);

}  // namespace cnnjax
