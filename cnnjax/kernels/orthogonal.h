// The matrix that Muon (Jordan et al. 2024) steps along: the singular vectors of another, and singular values near 1.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// Matrices x and y [rows][columns]; columns are a multiple of 16.
struct Matrix {
  int64_t rows, columns;
};

// Five turns of a Newton-Schulz iteration, on the Gram matrix of the columns.
void orthogonal(const Pool& pool, const Matrix& matrix, const float* x, float* y);

}  // namespace cnnjax
