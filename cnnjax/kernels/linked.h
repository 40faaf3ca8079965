// Convolutions between two norms, in training: the norm and activation before are applied as the input is read, and the sums that the
// norm behind needs are made as the output is stored. Neither is a pass over images of its own.
#pragma once

#include <cstdint>

#include "depthwise.h"
#include "finish.h"
#include "pointwise.h"
#include "threads.h"

namespace cnnjax {

// How an input is read: activation((x - mean) * scale + bias), or as it is where `mean` is null. These are [channels]. Then, by a product
// of pixels, times `gate` [images][channels], which is null where nothing is multiplied.
struct Normed {
  const float *mean = nullptr, *scale = nullptr, *bias = nullptr;
  Activation activation = Activation::kNone;
  const float* gate = nullptr;
};

// How the gradient of an output y is read: g + shift + slope * y, the last two from the sums of y and of its squares, [channels]; or g
// alone, where the others are null.
struct Incoming {
  const float *g, *y = nullptr, *shift = nullptr, *slope = nullptr;
};

// Gradients of x, of the weights, and of the norm before: `along` that of its scale, `offset` that of its bias; unused without a norm.
// With a gate, dx is that of the input after it, `gate` that of the gate, [images][channels], and the norm's are unused.
struct Outgoing {
  float *dx, *dw, *along, *offset, *gate;
};

// All throw std::bad_alloc. sum, squares: of y, [channels]; a product of pixels may do without, then both are null.
// Depthwise gradients are those of any such convolution, too: without a norm, and with g alone.
void pointwise_linked(const Pool& pool, const Pointwise& s, const float* x, const Normed& before, const float* w, float* y, float* sum,
                      float* squares);
void pointwise_linked_backward(const Pool& pool, const Pointwise& s, const float* x, const Normed& before, const float* w,
                               const Incoming& in, const Outgoing& out);
void depthwise_linked(const Pool& pool, const Depthwise& s, const float* x, const Normed& before, const float* w, float* y, float* sum,
                      float* squares);
void depthwise_linked_backward(const Pool& pool, const Depthwise& s, const float* x, const Normed& before, const float* w,
                               const Incoming& in, const Outgoing& out);

// x [images][pixels][channels], 16 channels or more.
struct Images {
  int64_t images, pixels, channels;
};

// y = normed x + more, which is null where nothing is added.
void last_norm(const Pool& pool, const Images& s, const float* x, const Normed& norm, const float* more, float* y);

// Its gradients, without `dw`, from that of y: g, or with a gate g * gate + more, the last [images][channels].
void last_norm_backward(const Pool& pool, const Images& s, const float* x, const Normed& norm, const float* g, const float* more,
                     const Outgoing& out);

// The mean of normed x over the pixels: y [images][channels].
void squeeze(const Pool& pool, const Images& s, const float* x, const Normed& norm, float* y);

}  // namespace cnnjax
