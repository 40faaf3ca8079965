// What follows the sums of a convolution or a norm in the same pass: y = activation(sum + offset + more).
#pragma once

#include <type_traits>

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

template <Activation kActivation>
using Always = std::integral_constant<Activation, kActivation>;

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
  switch (f.activation) {
    case Activation::kNone: return put(Always<Activation::kNone>());
    case Activation::kRelu: return put(Always<Activation::kRelu>());
    case Activation::kRelu6: return put(Always<Activation::kRelu6>());
    case Activation::kHardSwish: return put(Always<Activation::kHardSwish>());
  }
}

}  // namespace
}  // namespace cnnjax
