// What follows the sums of a convolution or a norm in the same pass: y = activation(sum + offset + more).
#pragma once

#include "vector.h"

namespace cnnjax {

enum class Activation : int64_t { kNone, kRelu, kRelu6, kHardSwish };
constexpr int64_t kActivations = 4;

// offset: of each channel; more: of the shape of y; null where there is none.
struct Finish {
  const float *offset = nullptr, *more = nullptr;
  Activation activation = Activation::kNone;
};

namespace {

// The smaller; b where one of them is not a number.
inline Vec smaller(Vec a, Vec b) { return -larger(-a, -b); }

inline Vec activated(Activation kind, Vec v) {
  switch (kind) {
    case Activation::kNone: return v;
    case Activation::kRelu: return relu(v);
    case Activation::kRelu6: return smaller(Vec{} + 6.f, relu(v));
    case Activation::kHardSwish: return v * smaller(Vec{} + 6.f, relu(v + 3.f)) * (1 / 6.f);
  }
  return v;
}

// A vector of sums, of channels from `channel` on, at place i of y.
inline void finish(const Finish& f, Vec sum, int64_t channel, float* y, int64_t i) {
  if (f.offset) sum += load(f.offset + channel);
  if (f.more) sum += load(f.more + i);
  store(y + i, activated(f.activation, sum));
}

}  // namespace
}  // namespace cnnjax
