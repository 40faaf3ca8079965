// A convolution with bias, ReLU and pool, or its gradients, one image at a time. What depends on the weights alone is prepared.
#pragma once

#include <functional>

#include "conv.h"

namespace cnnjax {

struct Forward {
  int64_t bands;  // of an image; in any order, at the same time
  std::function<void(int64_t band, const void* x, float* y, uint8_t* code)> compute;
};
Forward prepare_forward(const Conv& conv, const float* w, const float* b);

struct Backward {
  int64_t frequencies;  // numbers that images are summed in, all zero at first
  // Adds to dw [blocks of 16 outputs][taps][16], or to the frequencies where there are some, and to db [co].
  std::function<void(const void* x, const void* kept, const float* g, float* dx, float* dw, float* db, float* frequencies)>
      add_image;
  std::function<void(const float* frequencies, float* dw)> finish;  // after the last image; null where there are none
};
// kind: of what is kept.
Backward prepare_backward(const Conv& conv, const float* w, Kind kind, bool input_gradient);

}  // namespace cnnjax
