// What the dimensions of images, weights and outputs say about a convolution.
#pragma once

#include "calls.h"
#include "depthwise.h"
#include "plain.h"

namespace cnnjax {
namespace {

// The output's size along an axis, 0 where nothing is left.
int64_t outputs(int64_t pixels, int64_t before, int64_t after, int64_t kernel, int64_t stride) {
  const int64_t last = pixels + before + after - kernel;
  return last < 0 ? 0 : last / stride + 1;
}

// Fills in `conv`, or says what is wrong with the dimensions of images, weights and outputs. padding: top, bottom, left, right.
const char* describe(Dims x, Dims w, Dims y, int64_t stride, Dims padding, Plain& conv) {
  if (!sane(x) || !sane(w) || !sane(y)) return "sizes out of range";
  if (x.size() != 4 || w.size() != 4 || w[0] != w[1] || w[0] % 2 == 0 || x[3] != w[2]) return "images and weights do not fit";
  if (stride < 1 || stride > kLargest || padding.size() != 4) return "stride or padding out of range";
  for (int64_t zeros : padding)
    if (zeros < 0 || zeros >= w[0]) return "padding goes from 0 to one less than the kernel";
  conv = {x[0], x[1], x[2], x[3], w[3], w[0], stride, padding[0], padding[1], padding[2], padding[3]};
  if (w[3] % 16 && !is_product(conv)) return "output channels no multiple of 16";
  const int64_t rows = outputs(x[1], padding[0], padding[1], w[0], stride), columns = outputs(x[2], padding[2], padding[3], w[0], stride);
  return equal(y, {conv.n, rows, columns, conv.co}) ? nullptr : "output has another shape";
}

// The same of a kernel for each channel.
const char* describe(Dims x, Dims w, Dims y, int64_t stride, Dims padding, Depthwise& conv) {
  if (!sane(x) || !sane(w) || !sane(y)) return "sizes out of range";
  if (x.size() != 4 || w.size() != 4 || w[0] != w[1] || w[2] != 1 || x[3] != w[3]) return "images and weights do not fit";
  if (w[0] != 3 && w[0] != 5 && w[0] != 7) return "the kernel is 3, 5 or 7";
  if (x[3] < 16 || stride < 1 || stride > 2 || padding.size() != 4) return "channels are 16 or more, the stride is 1 or 2";
  for (int64_t zeros : padding)
    if (zeros < 0 || zeros >= w[0]) return "padding goes from 0 to one less than the kernel";
  const int64_t rows = outputs(x[1], padding[0], padding[1], w[0], stride), columns = outputs(x[2], padding[2], padding[3], w[0], stride);
  conv = {x[0], x[1], x[2], x[3], w[0], stride, padding[0], padding[2], rows, columns};
  return equal(y, {conv.n, conv.rows, conv.columns, conv.channels}) ? nullptr : "output has another shape";
}

}  // namespace
}  // namespace cnnjax
