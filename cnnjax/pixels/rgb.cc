// Rows of 8-bit RGB: the filters of PNG undone, and Pillow's bilinear resize. Plain C functions, called by pixels/__init__.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// The loader takes the best that the CPU has. Clang and other C libraries: what every CPU of the kind has.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Lanes{__VA_ARGS__})
#endif
#define INLINE inline __attribute__((always_inline))
#define PUBLIC extern "C" __attribute__((visibility("default")))

namespace {

constexpr int ROWS = 4;  // that are unfiltered together, each one pixel behind the one above it
using Lanes = int16_t __attribute__((vector_size(32)));  // a pixel of each: red, green, blue and something
using Words = uint32_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));

INLINE Lanes widened(Words pixels) { return __builtin_convertvector((Bytes)pixels, Lanes); }

INLINE Words narrowed(Lanes lanes) { return (Words)__builtin_convertvector(lanes, Bytes); }

// What the filter of each row takes of the left, upper and upper left pixel: all bits or none. With the others zero, Paeth's
// choice among the three is what None, Sub and Up mean as well.
struct Taken {
  Lanes left{}, up{}, corner{}, average{};

  void set(int row, int filter) {
    for (int i = 4 * row; i < 4 * row + 4; i++) {
      left[i] = filter == 1 || filter >= 3 ? -1 : 0;
      up[i] = filter >= 2 ? -1 : 0;
      corner[i] = filter == 4 ? -1 : 0;
      average[i] = filter == 3 ? -1 : 0;
    }
  }
};

INLINE Lanes unfiltered(Lanes raw, Lanes left, Lanes up, Lanes corner, const Taken& taken) {
  left &= taken.left, up &= taken.up, corner &= taken.corner;
  // Paeth: the nearest to left + up - corner, in this order where two are as near. Comparisons alone, none of them on distances:
  // the next pixel waits for this one.
  const Lanes low = left < up ? left : up, high = left < up ? up : left, limit = 3 * corner - up - left;
  Lanes guess = high <= limit ? low : corner;
  guess = limit <= low ? high : guess;
  guess = taken.average ? (left + up) >> 1 : guess;
  return (raw + guess) & 255;
}

INLINE uint32_t load3(const uint8_t* at) { return at[0] | at[1] << 8 | at[2] << 16; }

INLINE uint32_t load4(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return word;
}

INLINE void store3(uint8_t* at, uint32_t word) {
  const uint16_t low = word;
  std::memcpy(at, &low, 2);
  at[2] = word >> 16;
}

// Up to ROWS rows of `width` pixels, `stride` bytes apart; `above` is the row before them. A row waits for one pixel of the row
// above it, not for the whole row, so that four of the long chains of dependent additions run at once.
FOR_EACH_CPU void unfilter_rows(uint8_t* rows, const uint8_t* above, long stride, long width, int count, const Taken& filters) {
  Lanes done{}, up{};
  const Taken taken = filters;
  auto step = [&](uint32_t over, Words raw) __attribute__((always_inline)) {
    const Lanes corner = up;
    up = SHUFFLE(widened(Words{over}), done, 0, 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27);
    done = unfiltered(widened(raw), done, up, corner, taken);
  };
  auto at = [&](int row, long i) { return rows + row * stride + 3 * (i - row); };
  auto edge = [&](long i) {  // some of the rows have no pixel here
    Words raw{};
    const int begin = std::max(i - width + 1, 0L), end = std::min<long>(count, i + 1);
    for (int row = begin; row < end; row++) raw[row] = load3(at(row, i));
    step(i < width ? load3(above + 3 * i) : 0, raw);
    const Words pixels = narrowed(done);
    for (int row = begin; row < end; row++) store3(at(row, i), pixels[row]);
  };
  long i = 0;
  if (count == ROWS) {
    for (; i < std::min<long>(ROWS - 1, width); i++) edge(i);
    for (; i < width - 1; i++) {  // a fourth byte is there: it belongs to the next pixel or the next row
      step(load4(above + 3 * i), Words{load4(at(0, i)), load4(at(1, i)), load4(at(2, i)), load4(at(3, i))});
      const Words pixels = narrowed(done);
      for (int row = 0; row < ROWS; row++) store3(at(row, i), pixels[row]);
    }
  }
  for (; i < width + count - 1; i++) edge(i);
}

// The weights of one direction: for each pixel of the result `count`, and a zero where that is odd, beginning at pixel `from`.
struct Taps {
  long count, even;
  std::vector<long> from;
  std::vector<float> weights;
};

// Pillow's precompute_coeffs (src/libImaging/Resample.c) for its triangle filter.
Taps triangle(long size, long wanted) {
  const double scale = double(size) / wanted, support = std::max(scale, 1.0);
  const long count = std::min(long(std::ceil(2 * support)), size), even = count + count % 2;
  Taps taps{count, even, std::vector<long>(wanted), std::vector<float>(wanted * even)};
  for (long i = 0; i < wanted; i++) {
    const double centre = (i + 0.5) * scale;
    const long begin = std::max(long(centre - support + 0.5), 0L), end = std::min(long(centre + support + 0.5), size);
    const long from = std::min(begin, size - count);
    auto weight = [&](long at) { return std::max(1 - std::abs(at - centre + 0.5) / support, 0.0); };
    double sum = 0;
    for (long at = begin; at < end; at++) sum += weight(at);
    for (long at = begin; at < end; at++) taps.weights[i * even + at - from] = float(weight(at) / sum);
    taps.from[i] = from;
  }
  return taps;
}

// sum[i] (+)= a * even[i] + b * odd[i]
template <bool FIRST>
INLINE void add_rows(float* __restrict__ sum, const uint8_t* even, const uint8_t* odd, float a, float b, long values) {
  for (long i = 0; i < values; i++) sum[i] = (FIRST ? 0 : sum[i]) + (a * even[i] + b * odd[i]);
}

// One row of the result: the weighted sum of `taps` rows, then of the pixels of that sum; `sum` and `result` are room for them.
FOR_EACH_CPU void resize_row(const uint8_t* source, long stride, long width, long taps, const float* weights, const Taps& columns,
                             float* __restrict__ sum, float* __restrict__ result, uint8_t* __restrict__ out) {
  for (long tap = 0; tap < taps; tap += 2, source += 2 * stride) {  // by two, for fewer loads and stores of the sum
    const uint8_t* odd = tap + 1 < taps ? source + stride : source;
    if (tap) add_rows<false>(sum, source, odd, weights[tap], weights[tap + 1], 3 * width);
    else add_rows<true>(sum, source, odd, weights[tap], weights[tap + 1], 3 * width);
  }
  const float* weight = columns.weights.data();
  float* end = result;
  for (long from : columns.from) {
    Floats even{0.5f, 0.5f, 0.5f, 0.5f}, odd{};
    for (const float* next = sum + 3 * from; next < sum + 3 * (from + columns.even); next += 6, weight += 2) {
      Floats left, right;
      std::memcpy(&left, next, sizeof left), std::memcpy(&right, next + 3, sizeof right);
      even += weight[0] * left, odd += weight[1] * right;
    }
    even += odd;
    std::memcpy(end, &even, sizeof even);  // the fourth value gives way to the next pixel
    end += 3;
  }
  for (long i = 0; i < end - result; i++) out[i] = uint8_t(int(result[i]));
}

}  // namespace

// Undoes the filters of `height` rows in place: a byte with the filter, then `width` pixels. Returns 0, or 1 where a filter is
// none of the five (or without memory), and then the rows are not to be used.
PUBLIC int cnnjax_unfilter(uint8_t* rows, long height, long width) try {
  const long stride = 3 * width + 1;
  const std::vector<uint8_t> zeros(stride);
  const uint8_t* above = zeros.data();
  for (long y = 0; y < height; y += ROWS) {
    const int count = std::min<long>(ROWS, height - y);
    uint8_t* first = rows + y * stride + 1;
    Taken taken;
    for (int row = 0; row < count; row++) {
      const int filter = first[row * stride - 1];
      if (filter > 4) return 1;
      taken.set(row, filter);
    }
    unfilter_rows(first, above, stride, width, count, taken);
    above = first + (count - 1) * stride;
  }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// `height` rows of `width` pixels, `stride` bytes apart -> `to_height` rows of `to_width` pixels without gaps, within one level
// of Pillow's, which rounds to 8 bits between the two directions. Returns 0, or 1 without memory.
PUBLIC int cnnjax_resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long to_height,
                         long to_width) try {
  const Taps rows = triangle(height, to_height), columns = triangle(width, to_width);
  std::vector<float> sum(3 * width + 4), result(3 * to_width + 1);  // pixels are read two at a time, and as four values
  for (long y = 0; y < to_height; y++)
    resize_row(source + rows.from[y] * stride, stride, width, rows.count, &rows.weights[y * rows.even], columns, sum.data(),
               result.data(), out + 3 * to_width * y);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// By which pixels/__init__.py knows a library that is older than this file.
PUBLIC const char* cnnjax_sources() { return CNNJAX_SOURCES; }
