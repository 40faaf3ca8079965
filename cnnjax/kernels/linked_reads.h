// How linked convolutions read their inputs and the gradients of their outputs.
#pragma once

#include "linked.h"
#include "memory.h"
#include "vector.h"

namespace cnnjax {
namespace {

constexpr int64_t kKept = 6 << 20;  // numbers that the shared cache keeps for the kernel that reads them

// Whether to store results past the caches: where these would not keep them, and a vector is a line.
inline bool past_caches(const float* to, int64_t pixels, int64_t channels) {
  return kLanes == 16 && pixels * channels > kKept && channels % kLanes == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
}

// work(first row, number) of a few rows, which stay in the first-level cache
template <typename Work>
void for_rows(int64_t rows, const Work& work) {
  for (int64_t r = 0; r < rows; r += 16) work(r, std::min<int64_t>(16, rows - r));
}

// Rows that are read next, fetched into the second-level cache a few lines at a time while others are computed.
struct Ahead {
  const float* from;
  int64_t rows, step, width;  // numbers from row to row, and of a row
  int64_t row = 0, column = 0;

  int64_t lines() const { return rows * ceil_div(width, 16); }
  void fetch(int64_t lines) {
    for (; lines > 0 && row < rows; --lines) {
      __builtin_prefetch(from + row * step + column, 0, 2);
      if ((column += 16) >= width) column = 0, ++row;
    }
  }
};

// The gradient g of activation(u), before it. At the corners of ReLU and ReLU6 it is 0, as in torch.
inline Vec through(Activation kind, Vec u, Vec g) {
  const Vec zero{}, one = zero + 1.f;
  switch (kind) {
    case Activation::kNone: return g;
    case Activation::kRelu: return keep(less(zero, u), g);
    case Activation::kRelu6: return keep(less(u, zero + 6.f), keep(less(zero, u), g));
    case Activation::kHardSwish: return g * pick(less(u, zero + 3.f), keep(less(zero - 3.f, u), u * (1 / 3.f) + 0.5f), one);
    case Activation::kSilu: {
      const Vec s = sigmoid(u);
      return g * s * (u * (one - s) + 1.f);
    }
    case Activation::kGelu:
      return g * (0.5f * (error_function(u * 0.70710678f) + 1.f) + u * exponential(u * u * -0.5f) * 0.39894228f);
  }
  return g;
}

// A norm of kCount vectors of channels.
template <int kCount>
struct Own {
  Vec mean[kCount], scale[kCount], bias[kCount];
  Own(const Normed& norm, int64_t c) {
    UNROLL for (int v = 0; v < kCount; ++v)
      mean[v] = load(norm.mean + c + v * kLanes), scale[v] = load(norm.scale + c + v * kLanes), bias[v] = load(norm.bias + c + v * kLanes);
  }
  Vec operator()(Vec x, int v) const { return (x - mean[v]) * scale[v] + bias[v]; }
};

// `rows` pixels of an input, `step` numbers apart, channels from c on in kCount vectors, to pixels `to_step` apart; without the gate.
template <int kCount>
void read_input(const Normed& norm, const float* x, int64_t step, int64_t rows, int64_t c, float* to, int64_t to_step) {
  if (!norm.mean) {
    for (int64_t r = 0; r < rows; ++r)
      UNROLL for (int v = 0; v < kCount; ++v) store(to + r * to_step + v * kLanes, load(x + r * step + c + v * kLanes));
    return;
  }
  const Own<kCount> own(norm, c);
  with(norm.activation, [&](auto kind) __attribute__((always_inline)) {
    for (int64_t r = 0; r < rows; ++r)
      UNROLL for (int v = 0; v < kCount; ++v)
        store(to + r * to_step + v * kLanes, activated(kind, own(load(x + r * step + c + v * kLanes), v)));
  });
}

// The same of the gradient of an output; g and y are at the first pixel.
template <int kCount>
void read_gradient(const Incoming& in, const float* g, const float* y, int64_t step, int64_t rows, int64_t c, float* to, int64_t to_step) {
  Vec shift[kCount], slope[kCount];
  UNROLL for (int v = 0; v < kCount; ++v) shift[v] = load(in.shift + c + v * kLanes), slope[v] = load(in.slope + c + v * kLanes);
  for (int64_t r = 0; r < rows; ++r)
    UNROLL for (int v = 0; v < kCount; ++v) {
      const int64_t i = r * step + c + v * kLanes;
      store(to + r * to_step + v * kLanes, load(y + i) * slope[v] + (load(g + i) + shift[v]));
    }
}

// What becomes of the gradients of an input, kCount vectors `step` numbers apart, of the same channels: through the activation, into the
// sums of the norm, by its scale into dx.
template <int kCount>
INLINE void leave(const Normed& norm, const Vec* gradients, const float* x, int64_t c, int64_t step, float* dx, float* along, float* offset,
                  bool past) {
  if (!norm.mean) {
    UNROLL for (int t = 0; t < kCount; ++t) store(dx + t * step, gradients[t]);
    return;
  }
  const Own<1> own(norm, c);
  Vec a = load(along), b = load(offset);
  with(norm.activation, [&](auto kind) __attribute__((always_inline)) {
    UNROLL for (int t = 0; t < kCount; ++t) {
      const Vec value = load(x + t * step), z = through(kind, own(value, 0), gradients[t]);
      a += z * (value - own.mean[0]), b += z;
      past ? store_past(dx + t * step, z * own.scale[0]) : store(dx + t * step, z * own.scale[0]);
    }
  });
  store(along, a), store(offset, b);
}

// The same with a gate, which leaves the norm to `last_norm_backward`: x has what comes before the gate.
template <int kCount>
INLINE void leave_gate(const Vec* gradients, const float* x, int64_t x_step, int64_t step, float* dx, float* gate) {
  Vec a = load(gate);
  UNROLL for (int t = 0; t < kCount; ++t) {
    a += gradients[t] * load(x + t * x_step);
    store(dx + t * step, gradients[t]);
  }
  store(gate, a);
}

// kCount outputs, `step` numbers apart, of the same channels, and their sums, if these are wanted.
template <int kCount>
INLINE void put(const Vec* outputs, float* y, int64_t step, float* sum, float* squares, bool past) {
  if (!sum) {
    UNROLL for (int t = 0; t < kCount; ++t) store(y + t * step, outputs[t]);
    return;
  }
  Vec a = load(sum), b = load(squares);
  UNROLL for (int t = 0; t < kCount; ++t) {
    past ? store_past(y + t * step, outputs[t]) : store(y + t * step, outputs[t]);
    a += outputs[t], b += outputs[t] * outputs[t];
  }
  store(sum, a), store(squares, b);
}

}  // namespace
}  // namespace cnnjax
