#include "norm.h"

namespace cnnjax {
namespace {

// Rows in parts that the shape alone decides; work(part, first row, end).
template <typename Work>
void for_parts(const Pool& pool, const Norm& s, int64_t parts, const Work& work) {
  parallel_for(pool, parts, [&](int64_t part) { work(part, s.rows * part / parts, s.rows * (part + 1) / parts); });
}

// About 64 kB each.
int64_t parts_of(const Norm& s) { return std::clamp<int64_t>(s.rows * s.channels / 16384, 1, s.rows); }

// Two sums of each channel; add(row's place, vector, sums) adds a vector of a row to both.
template <typename Add>
void two_sums(const Pool& pool, const Norm& s, float* first, float* second, const Add& add) {
  const int64_t parts = std::min<int64_t>(64, parts_of(s));  // each costs sums to write and to add
  std::vector<float> sums(parts * 2 * s.channels);
  for_parts(pool, s, parts, [&](int64_t part, int64_t begin, int64_t end) {
    float* own = sums.data() + part * 2 * s.channels;
    for_channels(0, s.channels, [&](int64_t c, auto count) {
      Vec a[count] = {}, b[count] = {};
      for (int64_t r = begin; r < end; ++r)
        UNROLL for (int v = 0; v < count; ++v) add(r * s.channels + c + v * kLanes, c + v * kLanes, a[v], b[v]);
      UNROLL for (int v = 0; v < count; ++v) store(own + c + v * kLanes, a[v]), store(own + s.channels + c + v * kLanes, b[v]);
    });
  });
  for_channels(0, s.channels, [&](int64_t c, auto count) {
    Vec a[count] = {}, b[count] = {};
    for (int64_t part = 0; part < parts; ++part)
      UNROLL for (int v = 0; v < count; ++v) {
        const float* own = sums.data() + part * 2 * s.channels + c + v * kLanes;
        a[v] += load(own), b[v] += load(own + s.channels);
      }
    UNROLL for (int v = 0; v < count; ++v) store(first + c + v * kLanes, a[v]), store(second + c + v * kLanes, b[v]);
  });
}

// Numbers of channels, in registers.
template <int kCount>
struct Own {
  Vec vectors[kCount];
  explicit Own(const float* from) {
    UNROLL for (int v = 0; v < kCount; ++v) vectors[v] = load(from + v * kLanes);
  }
  Vec operator[](int v) const { return vectors[v]; }
};

// The gradient before the activation.
inline Vec through(Activation activation, const float* g, const float* y, int64_t i) {
  Vec dz = load(g + i);
  if (activation == Activation::kNone) return dz;
  dz = keep(less(Vec{}, load(y + i)), dz);
  return activation == Activation::kRelu6 ? keep(less(load(y + i), Vec{} + 6.f), dz) : dz;
}

}  // namespace

void norm_sums(const Pool& pool, const Norm& s, const float* x, float* sum, float* squares) {
  two_sums(pool, s, sum, squares, [&](int64_t i, int64_t, Vec& a, Vec& b) {
    const Vec value = load(x + i);
    a += value, b += value * value;
  });
}

void norm_forward(const Pool& pool, const Norm& s, const float* x, const float* mean, const float* scale, const float* bias,
                  const float* more, float* y) {
  for_parts(pool, s, parts_of(s), [&](int64_t, int64_t begin, int64_t end) {
    for_channels(0, s.channels, [&](int64_t c, auto count) {
      const Own<count> middle(mean + c), factor(scale + c), offset(bias + c);
      for (int64_t r = begin; r < end; ++r)
        UNROLL for (int v = 0; v < count; ++v) {
          const int64_t i = r * s.channels + c + v * kLanes;
          Vec value = (load(x + i) - middle[v]) * factor[v] + offset[v];
          if (more) value += load(more + i);
          store(y + i, activated(s.activation, value));
        }
    });
  });
}

void norm_gradient_sums(const Pool& pool, const Norm& s, const float* g, const float* y, const float* x, const float* mean,
                        float* sum, float* product) {
  two_sums(pool, s, sum, product, [&](int64_t i, int64_t c, Vec& a, Vec& b) {
    const Vec dz = through(s.activation, g, y, i);
    a += dz, b += dz * (load(x + i) - load(mean + c));
  });
}

void norm_backward(const Pool& pool, const Norm& s, const float* g, const float* y, const float* x, const float* mean,
                   const float* scale, const float* shift, const float* slope, float* dx, float* dz) {
  for_parts(pool, s, parts_of(s), [&](int64_t, int64_t begin, int64_t end) {
    for_channels(0, s.channels, [&](int64_t c, auto count) {
      const Own<count> middle(mean + c), factor(scale + c), offset(shift + c), along(slope + c);
      for (int64_t r = begin; r < end; ++r)
        UNROLL for (int v = 0; v < count; ++v) {
          const int64_t i = r * s.channels + c + v * kLanes;
          const Vec z = through(s.activation, g, y, i);
          store(dx + i, factor[v] * (z - offset[v] - along[v] * (load(x + i) - middle[v])));
          if (dz) store(dz + i, z);
        }
    });
  });
}

}  // namespace cnnjax
