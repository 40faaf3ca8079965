// Each image at the positions that a matrix gives: cnnjax/geometry.py says what they mean.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

enum class Fill { kReflect, kNearest, kConstant, kWrap };

struct Sampling {
  int64_t n, h, w, c;  // of the images; h * w * c is less than 2^31
  int64_t bits;        // positions are in units of 2^-bits pixels; at least 1, and h and w times 2^bits are less than 2^31
  bool bytes;          // the images are uint8, not float
  bool nearest;        // not bilinear
  Fill fill;
};

// images and y are [n][h][w][c]. An output pixel, at twice its distance from the centre, comes from the position
// factors[n][2][3] times (row, column, 1), counted from the centre. Any factors will do.
void sample(const Pool& pool, const Sampling& s, const void* images, const int32_t* factors, float* y);

}  // namespace cnnjax
