// Convolutions of one pixel are products of matrices: y [rows][co] = x [rows][ci] w [ci][co].
#pragma once

#include <cstdint>

#include "finish.h"
#include "threads.h"

namespace cnnjax {

// ci and co are 16 at least and multiples of 4.
struct Pointwise {
  int64_t rows, ci, co, images = 1;  // rows of all images

  int64_t pixels() const { return rows / images; }
};

// All throw std::bad_alloc. turned: w is [co][ci], as of the gradient of the input.
void pointwise_forward(const Pool& pool, const Pointwise& s, const float* x, const float* w, bool turned, const Finish& after, float* y);
void pointwise_weights(const Pool& pool, const Pointwise& s, const float* x, const float* g, float* dw);

}  // namespace cnnjax
