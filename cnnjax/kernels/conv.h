// y = pool(relu(convolution(scale * x, w) + b)), one or several in sequence, and their gradients.
#pragma once

#include <cstdint>

#include "threads.h"

namespace cnnjax {

// Of what images consist.
enum class Kind { kFloat, kByte, kBfloat16 };
inline int64_t bytes_of(Kind kind) { return kind == Kind::kFloat ? 4 : kind == Kind::kByte ? 1 : 2; }

// 3x3, stride 1. Images are [n][h][w][ci], weights [3][3][ci][co]; co is a multiple of 16.
struct Conv {
  int64_t n, h, w, ci, co;
  int64_t padding;      // zeros on all four sides: 0 or 1
  int64_t pool_stride;  // of the 2x2 max-pool: 1 or 2; 0: no pool
  Kind in;              // x
  float scale;
  bool bfloat16;  // products of rounded factors, where the instruction set has them; sums are float32 all the same

  int64_t conv_rows() const { return h + 2 * padding - 2; }
  int64_t conv_columns() const { return w + 2 * padding - 2; }
  int64_t rows() const { return pool_stride ? (conv_rows() - 2) / pool_stride + 1 : conv_rows(); }
  int64_t columns() const { return pool_stride ? (conv_columns() - 2) / pool_stride + 1 : conv_columns(); }
  int64_t padded_row() const { return (w + 2 * padding) * ci; }  // values
  int64_t input() const { return h * w * ci; }                   // values of an image
  int64_t output() const { return rows() * columns() * co; }
};

// One convolution of a sequence: x of the next is y of this one.
struct Layer {
  Conv conv;
  const float *w, *b;
  // y: null where nobody wants it, as between layers in inference. rounded: the same as bfloat16, for the gradients alone; null
  // where it is not wanted. code: for each pooled value, which of its four was the
  // largest (row by row, 0 to 3), or 4 where ReLU lets nothing through; null where it is not wanted.
  float* y;
  uint16_t* rounded;
  uint8_t* code;
};

// Whether outputs between layers may be kept for the gradients as bfloat16: where they are rounded to that anyway.
bool keeps_rounded(bool bfloat16);

// `y` or `rounded` of the last layer is not null. Both throw std::bad_alloc.
void forward(const Pool& pool, const Layer* layers, int64_t count, const void* x);

struct LayerGradient {
  Conv conv;
  const float* w;
  const void *x, *kept;  // its input; y, or the code where there is a pool
  Kind kind;             // of what is kept
  float *dw, *db;
};

// g: gradient of the last y, floats, or bfloat16 where `rounded`. dx: of the first x; null where it is not wanted.
void backward(const Pool& pool, const LayerGradient* layers, int64_t count, const void* g, bool rounded, float* dx);

}  // namespace cnnjax
