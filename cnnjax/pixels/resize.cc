// Pillow's bilinear resize: a triangle filter as wide as the reduction. 16 bits hold 8 of a level and 8 below it.

#include <cmath>

#include "pixels.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace pixels {
namespace {

constexpr long MOST = 256;  // pixels under a triangle: the error of each product adds up
using Bytes = uint8_t __attribute__((vector_size(16)));
using Half = uint8_t __attribute__((vector_size(8)));
using Levels = uint16_t __attribute__((vector_size(16)));  // two pixels
using Wide = uint32_t __attribute__((vector_size(32)));

INLINE Levels high(Levels a, Levels b) {  // a * b / 65536, rounded down
#ifdef __SSE2__
  return (Levels)_mm_mulhi_epu16((__m128i)a, (__m128i)b);
#else
  return __builtin_convertvector(__builtin_convertvector(a, Wide) * __builtin_convertvector(b, Wide) >> 16, Levels);
#endif
}

INLINE Levels sum(Levels a, Levels b) {  // at most 65535
#ifdef __SSE2__
  return (Levels)_mm_adds_epu16((__m128i)a, (__m128i)b);
#else
  const Levels wrapped = a + b;
  return wrapped < a ? Levels{} - 1 : wrapped;
#endif
}

INLINE Levels low_pixels(Bytes pixels) {  // 256 times
  return (Levels)SHUFFLE(Bytes, Bytes{}, pixels, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

INLINE Levels high_pixels(Bytes pixels) {
  return (Levels)SHUFFLE(Bytes, Bytes{}, pixels, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// The weights of one direction: for each pixel of the result `count`, beginning at pixel `from`; together 65535.
struct Taps {
  long size = 0, wanted = 0, count = 0;
  std::vector<long> from;
  std::vector<Levels> weights;

  // Pillow's precompute_coeffs (src/libImaging/Resample.c) for its triangle filter.
  void set(long pixels, long result) {
    if (size == pixels && wanted == result) return;
    size = 0;  // of nothing, should memory end here
    const double scale = double(pixels) / result, support = std::max(scale, 1.0);
    count = std::min(long(std::ceil(2 * support)), pixels);
    from.resize(result), weights.resize(result * count);
    for (long i = 0; i < result; i++) {
      const double centre = (i + 0.5) * scale;
      const long begin = std::max(long(centre - support + 0.5), 0L), end = std::min(long(centre + support + 0.5), pixels);
      from[i] = std::min(begin, pixels - count);
      auto weight = [&](long at) {
        return at < begin || at >= end ? 0.0 : std::max(1 - std::abs(at - centre + 0.5) / support, 0.0);
      };
      double total = 0, before = 0;
      for (long k = 0; k < count; k++) total += weight(from[i] + k);
      for (long k = 0, given = 0; k < count; k++) {
        before += weight(from[i] + k);
        const long now = std::lround(before / total * 65535);
        weights[i * count + k] = Levels{} + uint16_t(now - given);
        given = now;
      }
    }
    size = pixels, wanted = result;
  }
};

// The weighted sums of `count` rows, for two rows of the result at once: pixel by pixel, one beside the other.
FOR_EACH_CPU void add_rows(const uint8_t* first, const uint8_t* second, long width, long count, const Levels* one, const Levels* two,
                     Levels* out) {
  const Levels half = Levels{} + uint16_t(count / 2);  // what rounding down takes away
  for (long x = 0; x < width; x += 4) {
    Levels a{}, b{}, c{}, d{};
    for (long k = 0; k < count; k++) {
      Bytes left, right;
      std::memcpy(&left, first + 4 * (k * width + x), 16), std::memcpy(&right, second + 4 * (k * width + x), 16);
      a += high(low_pixels(left), one[k]), b += high(high_pixels(left), one[k]);
      c += high(low_pixels(right), two[k]), d += high(high_pixels(right), two[k]);
    }
    a = sum(a, half), b = sum(b, half), c = sum(c, half), d = sum(d, half);
    out[x] = SHUFFLE(Levels, a, c, 0, 1, 2, 3, 8, 9, 10, 11), out[x + 1] = SHUFFLE(Levels, a, c, 4, 5, 6, 7, 12, 13, 14, 15);
    out[x + 2] = SHUFFLE(Levels, b, d, 0, 1, 2, 3, 8, 9, 10, 11), out[x + 3] = SHUFFLE(Levels, b, d, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// The weighted sum of `count` pixels, of two rows at once.
INLINE Half add_pixels(const Levels* sums, const Levels* weights, long count, Levels half) {
  Levels total{};
  for (long k = 0; k < count; k++) total += high(sums[k], weights[k]);
  return __builtin_convertvector(sum(total, half) >> 8, Half);
}

FOR_EACH_CPU void resize_rows(const Levels* sums, const Taps& columns, uint8_t* one, uint8_t* two) {
  const long count = columns.count, last = columns.wanted - 1;
  const Levels* weights = columns.weights.data();
  const long* from = columns.from.data();
  const Levels half = Levels{} + uint16_t(count / 2 + 128);
  for (long x = 0; x < last; x++) {  // the fourth byte gives way to the next pixel
    const Half pixels = add_pixels(sums + from[x], weights + x * count, count, half);
    std::memcpy(one + 3 * x, &pixels, 4);
    std::memcpy(two + 3 * x, reinterpret_cast<const char*>(&pixels) + 4, 4);
  }
  const Half pixels = add_pixels(sums + from[last], weights + last * count, count, half);
  std::memcpy(one + 3 * last, &pixels, 3);
  std::memcpy(two + 3 * last, reinterpret_cast<const char*>(&pixels) + 4, 3);
}

}  // namespace

bool resize(const Pixels& source, uint8_t* out, long stride, long to_height, long to_width) {
  static thread_local Taps kept[2];
  static thread_local std::vector<Levels> kept_sums;
  Taps &rows = kept[0], &columns = kept[1];
  rows.set(source.height, to_height), columns.set(source.width, to_width);
  if (rows.count > MOST || columns.count > MOST) return false;
  if (long(kept_sums.size()) < source.width + 4) kept_sums.resize(source.width + 4);
  Levels* sums = kept_sums.data();
  const uint8_t* from = source.bytes.data();
  const long row = 4 * source.width, taps = rows.count;
  for (long y = 0; y < to_height; y += 2) {
    const long z = std::min(y + 1, to_height - 1);
    add_rows(from + rows.from[y] * row, from + rows.from[z] * row, source.width, taps, &rows.weights[y * taps],
             &rows.weights[z * taps], sums);
    resize_rows(sums, columns, out + y * stride, out + z * stride);
  }
  return true;
}

}  // namespace pixels
