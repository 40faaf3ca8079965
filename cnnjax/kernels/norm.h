// Batch normalisation in training, with what is added and the activation after it: none, ReLU or ReLU6; and its gradients. Statistics of several devices can
// be put together between the two halves of each.
#pragma once

#include <cstdint>

#include "finish.h"
#include "threads.h"

namespace cnnjax {

// x is [rows][channels], 16 channels or more. All throw std::bad_alloc.
struct Norm {
  int64_t rows, channels;
  Activation activation;
};

// Sums of each channel: of x and of its squares.
void norm_sums(const Pool& pool, const Norm& norm, const float* x, float* sum, float* squares);

// y = activation((x - mean) * scale + bias + more); more: null where nothing is added.
void norm_forward(const Pool& pool, const Norm& norm, const float* x, const float* mean, const float* scale, const float* bias,
                  const float* more, float* y);

// g: gradient of y. With dz, that before the activation: sums of dz and of dz * (x - mean).
void norm_gradient_sums(const Pool& pool, const Norm& norm, const float* g, const float* y, const float* x, const float* mean,
                        float* sum, float* product);

// dx = scale * (dz - shift - slope * (x - mean)); dz: null where it is not wanted.
void norm_backward(const Pool& pool, const Norm& norm, const float* g, const float* y, const float* x, const float* mean,
                   const float* scale, const float* shift, const float* slope, float* dx, float* dz);

}  // namespace cnnjax
