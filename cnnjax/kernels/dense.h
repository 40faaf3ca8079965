// y = x w for few rows and a long inner dimension: the layer after a flatten.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// x is [m][k], w is [k][n], both row by row; k and n are multiples of 16.
struct Dense {
  int64_t m, k, n;
  bool bfloat16;  // as of Conv
  bool rounded;   // x, and so dx, is bfloat16, else float; only where `keeps_rounded`
};

// Both throw std::bad_alloc.
void dense_forward(const Pool& pool, const Dense& s, const void* x, const float* w, float* y);
void dense_backward(const Pool& pool, const Dense& s, const void* x, const float* w, const float* g, void* dx, float* dw);

}  // namespace cnnjax
