// Pillow's bilinear resize: a triangle filter as wide as the reduction. 16 bits hold 8 of a level and 8 below it.

#include <cmath>

#include "pixels.h"

namespace pixels {
namespace {

constexpr long MOST = 256;  // pixels under a triangle: the error of each product adds up
constexpr long LANES = 16;  // copies of a weight
using Bytes = uint8_t __attribute__((vector_size(16)));
using Half = uint8_t __attribute__((vector_size(8)));
using Levels = uint16_t __attribute__((vector_size(16)));  // two pixels
using Wide = uint32_t __attribute__((vector_size(32)));

INLINE Levels all(uint16_t value) { return Levels{value, value, value, value, value, value, value, value}; }

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
  return wrapped < a ? all(65535) : wrapped;
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
  std::vector<uint16_t> weights;  // [wanted, count, LANES]

  // Pillow's precompute_coeffs (src/libImaging/Resample.c) for its triangle filter.
  void set(long pixels, long result) {
    if (size == pixels && wanted == result) return;
    size = 0;  // of nothing, should memory end here
    const double scale = double(pixels) / result, support = std::max(scale, 1.0);
    count = std::min(long(std::ceil(2 * support)), pixels);
    if (count > MOST) return;
    from.resize(result), weights.resize(result * count * LANES);
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
        std::fill_n(&weights[(i * count + k) * LANES], LANES, uint16_t(now - given));
        given = now;
      }
    }
    size = pixels, wanted = result;
  }
};

INLINE Levels load(const uint16_t* at) {
  Levels levels;
  std::memcpy(&levels, at, sizeof levels);
  return levels;
}

// Some rows of the result: the weighted sums of rows, pixel by pixel one beside the other, then those of pixels.
template <int ROWS>
struct Rows {
  const uint8_t* from[ROWS];  // the first row of the sum
  const uint16_t* weights[ROWS];
  uint8_t* to[ROWS];
};

void resize_rows(const Rows<2>& rows, long width, long count, const Taps& columns, uint16_t* sums) {
  const Levels half = all(uint16_t(count / 2));  // what rounding down takes away
  for (long x = 0; x < width; x += 4) {
    Levels sum_of[2][2] = {};
    for (int row = 0; row < 2; row++) {
      for (long k = 0; k < count; k++) {
        Bytes pixels;
        std::memcpy(&pixels, rows.from[row] + 4 * (k * width + x), sizeof pixels);
        const Levels weight = load(rows.weights[row] + k * LANES);
        sum_of[row][0] += high(low_pixels(pixels), weight), sum_of[row][1] += high(high_pixels(pixels), weight);
      }
      for (Levels& each : sum_of[row]) each = sum(each, half);
    }
    for (int i = 0; i < 2; i++) {
      const Levels pairs[2] = {SHUFFLE(Levels, sum_of[0][i], sum_of[1][i], 0, 1, 2, 3, 8, 9, 10, 11),
                               SHUFFLE(Levels, sum_of[0][i], sum_of[1][i], 4, 5, 6, 7, 12, 13, 14, 15)};
      std::memcpy(sums + 8 * (x + 2 * i), pairs, sizeof pairs);
    }
  }
  const Levels rounded = all(uint16_t(columns.count / 2 + 128));
  const uint16_t* weights = columns.weights.data();
  for (long x = 0; x < columns.wanted; x++) {
    const uint16_t* from = sums + 8 * columns.from[x];
    Levels total{};
    for (long k = 0; k < columns.count; k++, weights += LANES) total += high(load(from + 8 * k), load(weights));
    const Half pixels = __builtin_convertvector(sum(total, rounded) >> 8, Half);
    for (int row = 0; row < 2; row++)
      for (int colour = 0; colour < 3; colour++) rows.to[row][3 * x + colour] = pixels[4 * row + colour];
  }
}

#ifdef WITH_AVX2
#pragma GCC push_options
#pragma GCC target("avx2")

INLINE __m256i load4(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

// The same numbers for four rows; FEW pixels under both triangles, or 0: of any number.
template <long FEW>
void resize_rows(const Rows<4>& rows, long width, long given, const Taps& columns, uint16_t* sums) {
  const long count = FEW ? FEW : given, taps = FEW ? FEW : columns.count, last = columns.wanted - 1;
  const __m256i half = _mm256_set1_epi16(short(count / 2)), rounded = _mm256_set1_epi16(short(columns.count / 2 + 128));
  for (long x = 0; x < width; x += 8) {
    __m256i low[4] = {}, high[4] = {};
    for (long k = 0; k < count; k++)
      for (int row = 0; row < 4; row++) {
        const __m256i pixels = load4(rows.from[row] + 4 * (k * width + x)), weight = load4(rows.weights[row] + k * LANES);
        const __m256i left = _mm256_unpacklo_epi8(__m256i{}, pixels), right = _mm256_unpackhi_epi8(__m256i{}, pixels);
        low[row] = _mm256_add_epi16(low[row], _mm256_mulhi_epu16(left, weight));
        high[row] = _mm256_add_epi16(high[row], _mm256_mulhi_epu16(right, weight));
      }
    for (int i = 0; i < 2; i++) {
      __m256i* each = i ? high : low;  // pixels 2i, 2i + 1, 2i + 4 and 2i + 5
      for (int row = 0; row < 4; row++) each[row] = _mm256_adds_epu16(each[row], half);
      for (int j = 0; j < 2; j++) {
        const __m256i one = j ? _mm256_unpackhi_epi64(each[0], each[1]) : _mm256_unpacklo_epi64(each[0], each[1]);
        const __m256i two = j ? _mm256_unpackhi_epi64(each[2], each[3]) : _mm256_unpacklo_epi64(each[2], each[3]);
        auto* to = reinterpret_cast<__m256i*>(sums + 16 * (x + 2 * i + j));
        _mm256_storeu_si256(to, _mm256_permute2x128_si256(one, two, 0x20));
        _mm256_storeu_si256(to + 4, _mm256_permute2x128_si256(one, two, 0x31));
      }
    }
  }
  auto pixel = [&](long x) __attribute__((always_inline)) {
    const uint16_t *from = sums + 16 * columns.from[x], *weights = &columns.weights[x * taps * LANES];
    __m256i total{};
    for (long k = 0; k < taps; k++)
      total = _mm256_add_epi16(total, _mm256_mulhi_epu16(load4(from + 16 * k), load4(weights + k * LANES)));
    return _mm256_srli_epi16(_mm256_adds_epu16(total, rounded), 8);
  };
  const __m256i three = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  auto four = [&](long x, __m128i* bytes) __attribute__((always_inline)) {  // of each row 12 bytes
    const __m256i a = pixel(x), b = pixel(std::min(x + 1, last)), c = pixel(std::min(x + 2, last)), d = pixel(std::min(x + 3, last));
    const __m256 left = (__m256)_mm256_packus_epi16(a, b), right = (__m256)_mm256_packus_epi16(c, d);
    const __m256i even = _mm256_shuffle_epi8((__m256i)_mm256_shuffle_ps(left, right, 0x88), three);  // rows 0 and 2
    const __m256i odd = _mm256_shuffle_epi8((__m256i)_mm256_shuffle_ps(left, right, 0xDD), three);
    bytes[0] = _mm256_castsi256_si128(even), bytes[1] = _mm256_castsi256_si128(odd);
    bytes[2] = _mm256_extracti128_si256(even, 1), bytes[3] = _mm256_extracti128_si256(odd, 1);
  };
  long x = 0;
  __m128i bytes[4];
  for (; x + 5 <= last; x += 4) {  // the four bytes behind them are of the next pixels
    four(x, bytes);
    for (int row = 0; row < 4; row++) std::memcpy(rows.to[row] + 3 * x, &bytes[row], 16);
  }
  for (; x <= last; x += 4) {
    four(x, bytes);
    for (int row = 0; row < 4; row++) std::memcpy(rows.to[row] + 3 * x, &bytes[row], 3 * std::min(last + 1 - x, 4L));
  }
}

void resize_rows(const Rows<4>& rows, long width, long count, const Taps& columns, uint16_t* sums) {
  (count == 3 && columns.count == 3 ? resize_rows<3> : resize_rows<0>)(rows, width, count, columns, sums);
}

#pragma GCC pop_options
#endif

template <int ROWS>
void resize_all(const Pixels& source, uint8_t* out, long stride, const Taps& down, const Taps& across, uint16_t* sums) {
  const long row = 4 * source.width;
  for (long y = 0; y < down.wanted; y += ROWS) {
    Rows<ROWS> rows;
    for (int i = 0; i < ROWS; i++) {
      const long at = std::min(y + i, down.wanted - 1);
      rows.from[i] = source.bytes.data() + down.from[at] * row;
      rows.weights[i] = &down.weights[at * down.count * LANES];
      rows.to[i] = out + at * stride;
    }
    resize_rows(rows, source.width, down.count, across, sums);
  }
}

}  // namespace

bool resize(const Pixels& source, uint8_t* out, long stride, long to_height, long to_width) {
  static thread_local Taps kept[2];
  static thread_local std::vector<uint16_t> kept_sums;
  Taps &down = kept[0], &across = kept[1];
  down.set(source.height, to_height), across.set(source.width, to_width);
  if (!down.size || !across.size) return false;
  const size_t room = 16 * (source.width + 8);
  if (kept_sums.size() < room) kept_sums.resize(room);
#ifdef WITH_AVX2
  if (__builtin_cpu_supports("avx2")) {
    resize_all<4>(source, out, stride, down, across, kept_sums.data());
    return true;
  }
#endif
  resize_all<2>(source, out, stride, down, across, kept_sums.data());
  return true;
}

}  // namespace pixels
