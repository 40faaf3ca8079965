#include "adam.h"

#include <cmath>

namespace cnnjax {

void adam(const Pool& pool, const Adam& adam, int64_t n, const float* __restrict g, float* __restrict p, float* __restrict m,
          float* __restrict v) {
  constexpr int64_t step = 1 << 14;
  parallel_for(pool, (n + step - 1) / step, [=](int64_t job) {
    const Adam a = adam;
    const int64_t end = std::min(n, (job + 1) * step);
    for (int64_t i = job * step; i < end; ++i) {
      const float gradient = a.clip * g[i];
      const float first = (1 - a.beta1) * gradient + a.beta1 * m[i];
      const float second = (1 - a.beta2) * (gradient * gradient) + a.beta2 * v[i];
      m[i] = first, v[i] = second;
      p[i] -= a.rate * (first * a.mean / (std::sqrt(second * a.square) + a.epsilon) + a.decay * p[i]);
    }
  });
}

}  // namespace cnnjax
