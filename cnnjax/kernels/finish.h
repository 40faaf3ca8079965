// What follows the sums of a convolution or a norm in the same pass: y = activation(sum + offset + more).
#pragma once

#include <type_traits>

#include "vector.h"

namespace cnnjax {

enum class Activation : int64_t { kNone, kRelu, kRelu6, kHardSwish, kSilu, kGelu };
constexpr int64_t kActivations = 6;

// offset: of each channel; more: of the shape of y; null where there is none.
struct Finish {
  const float *offset = nullptr, *more = nullptr;
  Activation activation = Activation::kNone;
};

namespace {

template <Activation kActivation>
using Always = std::integral_constant<Activation, kActivation>;

// e^v to 2e-7 of it: 2^n times a polynomial of what is left, at most ln(2) / 2. Below 1e-38 it is that, above 2e38 infinite.
inline Vec exponential(Vec v) {
  v = smaller(larger(v, Vec{} - 87.3f), Vec{} + 89.f);
  const Vec magic = Vec{} + 12582912.f;  // 1.5 * 2^23: added, it leaves a whole number in the lowest bits
  const Vec shifted = v * 1.44269504f + magic;
  const Vec n = shifted - magic;
  const Vec r = v - n * 0.693359375f + n * 2.12194440e-4f;  // ln(2) in two parts, of which the first has few digits
  Vec p = Vec{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * (Vec)(((IntVec)shifted - (IntVec)magic + 127) << 23);
}

// 1 / (1 + e^-v), to 4e-7 of it.
inline Vec sigmoid(Vec v) {
  const Vec s = reciprocal(exponential(smaller(-v, Vec{} + 87.f)) + 1.f);
  return pick(less(v, Vec{} - 87.f), Vec{}, s);
}

// The error function, to 4e-7: a fraction of two polynomials of v^2, 1 from where it is so in float32. The coefficients are XLA's.
inline Vec error_function(Vec v) {
  v = smaller(larger(v, Vec{} - 3.8325069f), Vec{} + 3.8325069f);
  const Vec x = v * v;
  Vec above = Vec{} + 2.2905065861350646e-4f, below = Vec{} - 1.1791602954361697e-7f;
  above = above * x + 3.4082910107109506e-3f;
  above = above * x + 5.0955695062380861e-2f;
  above = above * x + 1.8520832239976145e-1f;
  above = above * x + 1.1283791435190840f;
  below = below * x + 2.3547966471313185e-5f;
  below = below * x + 1.0179625278914885e-3f;
  below = below * x + 1.4070470171167667e-2f;
  below = below * x + 1.1098505178285362e-1f;
  below = below * x + 4.9746925110067538e-1f;
  below = below * x + 1.f;
  return v * above / below;
}

inline Vec activated(Activation kind, Vec v) {
  switch (kind) {
    case Activation::kNone: return v;
    case Activation::kRelu: return relu(v);
    case Activation::kRelu6: return smaller(Vec{} + 6.f, relu(v));
    case Activation::kHardSwish: return v * smaller(Vec{} + 6.f, relu(v + 3.f)) * (1 / 6.f);
    case Activation::kSilu: return v * sigmoid(v);
    case Activation::kGelu: return v * 0.5f * (error_function(v * 0.70710678f) + 1.f);
  }
  return v;
}

// work(activation as a constant)
template <typename Work>
INLINE void with(Activation activation, const Work& work) {
  switch (activation) {
    case Activation::kNone: return work(Always<Activation::kNone>());
    case Activation::kRelu: return work(Always<Activation::kRelu>());
    case Activation::kRelu6: return work(Always<Activation::kRelu6>());
    case Activation::kHardSwish: return work(Always<Activation::kHardSwish>());
    case Activation::kSilu: return work(Always<Activation::kSilu>());
    case Activation::kGelu: return work(Always<Activation::kGelu>());
  }
}

// kCount vectors of sums, of the same channels from `channel` on, at places i, i + step, ... of y.
template <int kCount>
void finish(const Finish& f, const Vec* sums, int64_t channel, float* y, int64_t i, int64_t step) {
  Vec v[kCount];
  UNROLL for (int t = 0; t < kCount; ++t) v[t] = sums[t];
  if (f.offset) {
    const Vec offset = load(f.offset + channel);
    UNROLL for (int t = 0; t < kCount; ++t) v[t] += offset;
  }
  if (f.more) UNROLL for (int t = 0; t < kCount; ++t) v[t] += load(f.more + i + t * step);
  auto put = [&](auto kind) {
    UNROLL for (int t = 0; t < kCount; ++t) store(y + i + t * step, activated(kind, v[t]));
  };
  with(f.activation, put);
}

}  // namespace
}  // namespace cnnjax
