// y = convolution(x, w) with a kernel for each channel.
#pragma once

#include <cstdint>

#include "finish.h"
#include "threads.h"

namespace cnnjax {

// Images are [n][h][w][channels], weights [kernel][kernel][channels]; the kernel is 3, 5 or 7, the stride 1 or 2, channels are
// 16 at least. `top` and `left` zeros stand before the first row and column; those behind the last follow from the output's size.
struct Depthwise {
  int64_t n, h, w, channels, kernel, stride, top, left, rows, columns;
};

// Throws std::bad_alloc. Its gradients are those of `depthwise_linked_backward` without a norm.
void depthwise_forward(const Pool& pool, const Depthwise& conv, const float* x, const float* w, const Finish& after, float* y);

}  // namespace cnnjax
