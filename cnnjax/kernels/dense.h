// y = x w for few rows and a long inner dimension: the layer after a flatten.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// x is [m][k], w is [k][n], both row by row; k and n are multiples of 16. bfloat16: as of Conv. Both throw std::bad_alloc.
void dense_forward(const Pool& pool, int64_t m, int64_t k, int64_t n, bool bfloat16, const float* x, const float* w,
                   float* y);

void dense_backward(const Pool& pool, int64_t m, int64_t k, int64_t n, bool bfloat16, const float* x, const float* w,
                    const float* g, float* dx, float* dw);

}  // namespace cnnjax
