#include "sample.h"

#include <algorithm>
#include <cstring>

#include "vector.h"

namespace cnnjax {
namespace {

constexpr int64_t kPixels = 64;     // whose places are found at once
constexpr int64_t kTask = 1 << 13;  // pixels of a task, about

// A pixel of three colours is read, and written, as four numbers.
typedef float Four __attribute__((vector_size(16)));

inline Four load_four(const float* p) {
  Four v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Four load_four(const uint8_t* p) {
#if defined(__x86_64__)
  int32_t bits;
  std::memcpy(&bits, p, 4);
  const __m128i bytes = _mm_cvtsi32_si128(bits);
#if defined(__AVX__)
  return (Four)_mm_cvtepi32_ps(_mm_cvtepu8_epi32(bytes));
#else
  return (Four)_mm_cvtepi32_ps(_mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, __m128i{}), __m128i{}));
#endif
#else
  return Four{float(p[0]), float(p[1]), float(p[2]), float(p[3])};
#endif
}

// Positions of the pixels i of a row: start + i * step.
struct Line {
  int64_t start, step;
  Line from(int64_t i) const { return {start + i * step, step}; }
};

struct Span {
  int64_t begin, end;
};

// The part of a span where a line lies in [0, limit).
Span within(Line line, int64_t limit, Span span) {
  if (line.step < 0) line = {limit - 1 - line.start, -line.step};
  int64_t begin = span.begin, end = span.end;
  if (line.step == 0) {
    if (line.start < 0 || line.start >= limit) end = begin;
  } else {
    if (line.start < 0) begin = std::max(begin, (line.step - 1 - line.start) / line.step);
    end = std::min(end, line.start < limit ? (limit - 1 - line.start) / line.step + 1 : 0);
  }
  begin = std::min(begin, span.end);
  return {begin, std::max(begin, end)};
}

// A place on an endless line -> one in [0, size); -1 outside where the fill is constant.
inline int64_t inside(int64_t i, int64_t size, Fill fill) {
  if (i >= 0 && i < size) return i;
  if (fill == Fill::kConstant) return -1;
  if (fill == Fill::kNearest) return i < 0 ? 0 : size - 1;
  const int64_t period = fill == Fill::kReflect ? 2 * size : size;
  if (i < -period || i >= period) i %= period;
  if (i < 0) i += period;
  return i < size ? i : period - 1 - i;
}

// Where the values of some pixels begin in their image, and the shares of the right and the lower ones.
struct Places {
  int32_t corner[4][kPixels];  // upper left, upper right, lower left, lower right; of nearest one; -1: nowhere
  float right[kPixels], down[kPixels];
};

// Of pixels whose four corners are all inside: the other three lie a pixel and a row behind the first.
void find_middle(const Sampling& s, Line y, Line x, int64_t count, Places& places) {
  const uint32_t y0 = y.start, dy = y.step, x0 = x.start, dx = x.step, mask = (1u << s.bits) - 1;
  const int32_t row = s.w * s.c, column = s.c, bits = s.bits;
  const float unit = 1.f / (1u << s.bits);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t yi = y0 + i * dy, xi = x0 + i * dx;
    places.corner[0][i] = (yi >> bits) * row + (xi >> bits) * column;
    places.down[i] = static_cast<float>(static_cast<int32_t>(yi & mask)) * unit;
    places.right[i] = static_cast<float>(static_cast<int32_t>(xi & mask)) * unit;
  }
}

void find_edge(const Sampling& s, Line y, Line x, int64_t count, Places& places) {
  const int64_t mask = (int64_t(1) << s.bits) - 1;
  const float unit = 1.f / (1u << s.bits);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t yi = y.start + i * y.step, xi = x.start + i * x.step;
    const int corners = s.nearest ? 1 : 2;
    for (int k = 0; k < corners; ++k) {
      const int64_t row = inside((yi >> s.bits) + k, s.h, s.fill);
      for (int j = 0; j < corners; ++j) {
        const int64_t column = inside((xi >> s.bits) + j, s.w, s.fill);
        places.corner[2 * k + j][i] = row < 0 || column < 0 ? -1 : (row * s.w + column) * s.c;
      }
    }
    places.down[i] = static_cast<float>(yi & mask) * unit;
    places.right[i] = static_cast<float>(xi & mask) * unit;
  }
}

template <typename T>
struct Image {
  const T *values, *end;  // end: of the whole batch
};

template <bool middle, typename T>
inline Four colours(const Image<T>& image, int32_t at) {
  const T* p = image.values + at;
  if (!middle && at < 0) return Four{};
  if (!middle && image.end - p < 4) return Four{float(p[0]), float(p[1]), float(p[2]), 0.f};
  return load_four(p);
}
template <bool middle, typename T>
inline float value(const Image<T>& image, int32_t at, int64_t c) {
  return !middle && at < 0 ? 0.f : static_cast<float>(image.values[at + c]);
}

// The value of pixel i of the places, where get(corner) gives that of a corner.
template <bool middle, bool nearest, typename Get>
inline auto blend(const Sampling& s, const Places& p, int64_t i, const Get& get) {
  const int32_t first = p.corner[0][i];
  if constexpr (nearest) {
    return get(first);
  } else {
    const int32_t right_of = s.c, below = s.w * s.c;
    const float right = p.right[i], left = 1 - right, down = p.down[i], up = 1 - down;
    const auto upper = get(first) * left + get(middle ? first + right_of : p.corner[1][i]) * right;
    const auto lower = get(middle ? first + below : p.corner[2][i]) * left
                       + get(middle ? first + below + right_of : p.corner[3][i]) * right;
    return upper * up + lower * down;
  }
}

// `last`: the row of the output ends with these pixels.
template <bool middle, bool nearest, typename T>
void write(const Sampling& s, const Places& places, const Image<T>& image, int64_t count, bool last, float* y) {
  if (s.c == 3) {
    const auto get = [&](int32_t at) { return colours<middle>(image, at); };
    const int64_t whole = last ? count - 1 : count;
    for (int64_t i = 0; i < whole; ++i) {
      const Four v = blend<middle, nearest>(s, places, i, get);
      std::memcpy(y + 3 * i, &v, sizeof v);  // the fourth number is overwritten by the next pixel
    }
    if (last) {
      const Four v = blend<middle, nearest>(s, places, whole, get);
      std::memcpy(y + 3 * whole, &v, 3 * sizeof(float));
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < s.c; ++c)
      y[i * s.c + c] = blend<middle, nearest>(s, places, i, [&](int32_t at) { return value<middle>(image, at, c); });
}

template <bool middle, bool nearest, typename T>
void write_span(const Sampling& s, Line y, Line x, Span span, const Image<T>& image, float* out) {
  Places places;
  for (int64_t i = span.begin; i < span.end; i += kPixels) {
    const int64_t count = std::min(kPixels, span.end - i);
    (middle ? find_middle : find_edge)(s, y.from(i), x.from(i), count, places);
    write<middle, nearest>(s, places, image, count, i + count == s.w, out + i * s.c);
  }
}

// Positions of the pixels of row r by three factors, along a side of so many pixels.
Line line(const Sampling& s, const int32_t* factors, int64_t r, int64_t side) {
  const int64_t f0 = factors[0], f1 = factors[1], half = int64_t(1) << (s.bits - 1);
  const int64_t start = f0 * (2 * r - (s.h - 1)) - f1 * (s.w - 1) + factors[2] + (side - 1) * half;
  return {start + (s.nearest ? half : 0), 2 * f1};
}

template <bool nearest, typename T>
void write_row(const Sampling& s, int64_t r, const int32_t* factors, const Image<T>& image, float* out) {
  const Line y = line(s, factors, r, s.h), x = line(s, factors + 3, r, s.w);
  // The last column is left out, for a pixel is read together with the number behind it.
  const int64_t pixel = int64_t(1) << s.bits, rows = s.h - !nearest, columns = s.w - 1 - !nearest;
  const Span row{0, s.w}, middle = within(x, columns * pixel, within(y, rows * pixel, row));
  write_span<false, nearest>(s, y, x, {0, middle.begin}, image, out);
  write_span<true, nearest>(s, y, x, middle, image, out);
  write_span<false, nearest>(s, y, x, {middle.end, s.w}, image, out);
}

template <typename T>
void sample_all(const Pool& pool, const Sampling& s, const T* images, const int32_t* factors, float* y) {
  const int64_t rows = s.n * s.h, step = (kTask + s.w - 1) / s.w, size = s.h * s.w * s.c;
  parallel_for(pool, (rows + step - 1) / step, [&](int64_t task) {
    for (int64_t i = task * step; i < std::min(rows, (task + 1) * step); ++i) {
      const Image<T> image{images + i / s.h * size, images + s.n * size};
      (s.nearest ? write_row<true, T> : write_row<false, T>)(s, i % s.h, factors + i / s.h * 6, image, y + i * s.w * s.c);
    }
  });
}

}  // namespace

void sample(const Pool& pool, const Sampling& s, const void* images, const int32_t* factors, float* y) {
  if (s.bytes)
    sample_all(pool, s, static_cast<const uint8_t*>(images), factors, y);
  else
    sample_all(pool, s, static_cast<const float*>(images), factors, y);
}

}  // namespace cnnjax
