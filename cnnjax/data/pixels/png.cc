// PNG: the chunks of 8-bit RGB without interlace, and the filters undone.

#include "pixels.h"

namespace pixels {
namespace {

using Levels = int16_t __attribute__((vector_size(16)));  // of a pixel: red, green, blue and something
using Bytes = uint8_t __attribute__((vector_size(8)));

inline Levels load(const uint8_t* pixel) {
  Bytes bytes{};
  std::memcpy(&bytes, pixel, 4);
  return __builtin_convertvector(bytes, Levels);
}

inline void store(Levels levels, uint8_t* pixel) {
  const Bytes bytes = __builtin_convertvector(levels, Bytes);
  std::memcpy(pixel, &bytes, 4);
}

// The nearest to left + up - corner, in this order where two are as near. Comparisons alone, none of them on distances: the next
// pixel waits for this one.
inline Levels paeth(Levels left, Levels up, Levels corner) {
  const Levels low = left < up ? left : up, high = left < up ? up : left, limit = 3 * corner - up - left;
  const Levels guess = high <= limit ? low : corner;
  return limit <= low ? high : guess;
}

#ifdef __x86_64__
// Whether the four rows have other filters than the average, for `undo_four`.
bool are_plain(const uint8_t* rows, long bytes) {
  for (long r = 0; r < 4; r++)
    if (const int filter = rows[r * (bytes + 1)]; filter > 4 || filter == 3) return false;
  return true;
}

// Undoes four rows together, each one pixel behind the row above it, so that none waits for another. Without its corner and one of the
// others Paeth's guess is the other one, which is what the plainer filters take; `keeps` says what a row's filter looks at.
__attribute__((target("avx2"))) void undo_four(const uint8_t* rows, const uint8_t* above, long width, uint8_t* out) {
  const long bytes = 3 * width;
  alignas(32) int64_t keeps[3][4], started[3][4];
  for (long r = 0; r < 4; r++) {
    const int filter = rows[r * (bytes + 1)];
    keeps[0][r] = -(filter == 1 || filter == 4), keeps[1][r] = -(filter == 2 || filter == 4), keeps[2][r] = -(filter == 4);
    for (long t = 0; t < 3; t++) started[t][r] = -(r <= t);
  }
  const auto mask = [](const int64_t* of) { return reinterpret_cast<const __m256i*>(of); };
  const __m256i sees_left = *mask(keeps[0]), sees_up = *mask(keeps[1]), sees_corner = *mask(keeps[2]);
  __m256i last{}, above_last{};  // what the step before gave, and what lay above it
  for (long t = 0; t < width + 3; t++) {
    const bool whole = t >= 3 && t < width - 1;  // all four are inside their rows, and not at the end, where a fourth byte is another's
    uint32_t raw[4]{}, first = 0, done[4];
    for (long r = 0; r < 4; r++)
      if (whole || (r <= t && t - r < width)) std::memcpy(&raw[r], rows + r * (bytes + 1) + 1 + 3 * (t - r), 4);
    if (t < width) std::memcpy(&first, above + 3 * t, 4);
    const __m256i highest = _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(first)));
    const __m256i over = _mm256_blend_epi32(_mm256_permute4x64_epi64(last, 0x90), highest, 3);
    const __m256i up = over & sees_up, left = last & sees_left, corner = above_last & sees_corner;
    const __m256i low = _mm256_min_epi16(left, up), high = _mm256_max_epi16(left, up);  // as in `paeth`
    const __m256i threefold = _mm256_add_epi16(corner, _mm256_add_epi16(corner, corner));
    const __m256i limit = _mm256_sub_epi16(_mm256_sub_epi16(threefold, up), left);
    const __m256i guess = _mm256_blendv_epi8(low, corner, _mm256_cmpgt_epi16(high, limit));
    const __m256i found = _mm256_blendv_epi8(high, guess, _mm256_cmpgt_epi16(limit, low));
    const __m256i given = _mm256_cvtepu8_epi16(_mm_setr_epi32(raw[0], raw[1], raw[2], raw[3]));
    last = _mm256_add_epi16(given, found) & _mm256_set1_epi16(255), above_last = over;
    if (t < 3) last &= *mask(started[t]);
    const __m128i packed = _mm_packus_epi16(_mm256_castsi256_si128(last), _mm256_extracti128_si256(last, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(done), packed);
    for (long r = 0; r < 4; r++)
      if (whole) std::memcpy(out + r * bytes + 3 * (t - r), &done[r], 4);
      else if (r <= t && t - r < width) std::memcpy(out + r * bytes + 3 * (t - r), &done[r], 3);
  }
}
#endif

// Rows, each after a byte with its filter, to rows without; they may begin three rows behind `out` in the same memory. A byte behind the
// last is read. False where a filter is none of the five.
bool unfilter(const uint8_t* rows, long height, long width, uint8_t* out) {
  const long bytes = 3 * width;
  const std::vector<uint8_t> zeros(bytes + 1);
  const uint8_t* above = zeros.data();
  for (long y = 0; y < height; y++, above = out, out += bytes, rows += bytes) {
#ifdef __x86_64__
    for (; y + 4 <= height && avx2() && are_plain(rows, bytes); y += 4, out += 4 * bytes, rows += 4 * (bytes + 1)) {
      undo_four(rows, above, width, out);
      above = out + 3 * bytes;
    }
    if (y == height) break;
#endif
    const int filter = *rows++;
    auto undo = [=](auto guess) {
      Levels left{}, corner{};
      for (long x = 0; x < bytes; x += 3) {
        const Levels up = load(above + x);
        left = (load(rows + x) + guess(left, up, corner)) & 255;
        corner = up;
        store(left, out + x);
      }
    };
    if (filter == 0) std::memmove(out, rows, bytes);
    else if (filter == 1) undo([](Levels left, Levels, Levels) { return left; });
    else if (filter == 2) undo([](Levels, Levels up, Levels) { return up; });
    else if (filter == 3) undo([](Levels left, Levels up, Levels) { return (left + up) >> 1; });
    else if (filter == 4) undo(paeth);
    else return false;
  }
  return true;
}

uint32_t big32(const uint8_t* at) { return uint32_t(at[0]) << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

// Bytes of a chunk that changes no pixel, by its name; -1 of others.
long harmless(const uint8_t* name) {
  struct Known {
    char name[5];
    long length;
  };
  for (const Known& known : {Known{"tIME", 7}, {"pHYs", 9}, {"gAMA", 4}, {"cHRM", 32}, {"sRGB", 1}, {"sBIT", 3}, {"bKGD", 6}})
    if (!std::memcmp(name, known.name, 4)) return known.length;
  return -1;
}

// One thread's stream, which keeps its memory from one image to the next.
struct Zlib {
  Stream stream{};
  int32_t (*close)(Stream*) = nullptr;  // once it is open
  ~Zlib() {
    if (close) close(&stream);
  }

  // Returns whether `from` is one whole zlib stream, of `expected` bytes.
  bool inflate(const Inflater& inflater, const uint8_t* from, size_t size, uint8_t* to, size_t expected) {
    constexpr int32_t OK = 0, STREAM_END = 1, FINISH = 4;
    if (size > UINT32_MAX) return false;
    if (!close && inflater.open(&stream, "2", sizeof stream) == OK) close = inflater.close;
    if (!close || inflater.reset(&stream) != OK) return false;
    stream.next_in = from, stream.avail_in = size;
    stream.next_out = to, stream.avail_out = expected;
    return inflater.inflate(&stream, FINISH) == STREAM_END && !stream.avail_in && !stream.avail_out;
  }
};

}  // namespace

bool decode_png(const uint8_t* data, long size, const Inflater& inflater, long height, long width, uint8_t* out) {
  static thread_local std::vector<uint8_t> joined;
  static thread_local Zlib zlib;
  long at = 8, expected = (3 * width + 1) * height;
  bool ended = false, whole = false;
  joined.clear();
  while (!whole) {
    if (at + 12 > size) return false;
    const long bytes = big32(data + at);
    if (bytes > INT32_MAX /* PNG's limit, and within crc32's */ || bytes > size - at - 12) return false;
    const uint8_t *name = data + at + 4, *content = name + 4, *after = content + bytes;
    if (inflater.crc32(0, name, bytes + 4) != big32(after)) return false;
    if (!std::memcmp(name, "IDAT", 4)) {
      if (ended || !bytes) return false;
      joined.insert(joined.end(), content, after);
    } else if (!std::memcmp(name, "IEND", 4)) {
      if (after + 4 != data + size || joined.empty()) return false;
      whole = true;
    } else {
      if (at != 8 && harmless(name) != bytes) return false;
      ended = !joined.empty();
    }
    at += bytes + 12;
  }
  uint8_t* const rows = out + 9 * width;
  whole = zlib.inflate(inflater, joined.data(), joined.size(), rows, expected) && unfilter(rows, height, width, out);
  if (joined.capacity() > LARGE) joined = {};
  return whole;
}

}  // namespace pixels
