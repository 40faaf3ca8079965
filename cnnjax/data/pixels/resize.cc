// Pillow's bilinear resize, bit for bit: a triangle filter as wide as the reduction, first along rows, then along columns, in
// integers with 22 bits below the point (src/libImaging/Resample.c).

#include <cmath>

#include "pixels.h"

namespace pixels {
namespace {

constexpr int PRECISION = 22, LOW = 11;  // a weight is two numbers of 16 bits: its upper bits and its lower LOW
constexpr int32_t HALF = 1 << (PRECISION - 1);
constexpr long SLACK = 32;  // bytes that may be read or written behind a row

// The weights of one direction: for each pixel of the result `pairs` pairs, of pixels beginning at `from`.
struct Taps {
  long size = 0, wanted = 0, pairs = 0;
  std::vector<long> from;
  std::vector<int32_t> weights;    // [wanted, pairs, 2]
  std::vector<int32_t> high, low;  // [wanted, pairs]: two halves of 16 bits

  void set(long pixels, long result) {  // precompute_coeffs and normalize_coeffs_8bpc
    if (size == pixels && wanted == result) return;
    size = 0;  // of nothing, should memory end here
    const double scale = double(pixels) / result, support = std::max(scale, 1.0);
    pairs = (std::min(long(std::ceil(2 * support)), pixels) + 1) / 2;
    from.resize(result), weights.assign(result * pairs * 2, 0), high.resize(result * pairs), low.resize(result * pairs);
    std::vector<double> triangle(2 * pairs);
    for (long i = 0; i < result; i++) {
      const double centre = (i + 0.5) * scale, inverse = 1.0 / support;
      const long begin = std::max(long(int(centre - support + 0.5)), 0L);
      const long end = std::min({long(int(centre + support + 0.5)), pixels, begin + 2 * pairs});
      double total = 0;
      for (long k = 0; k < end - begin; k++) {
        const double distance = std::abs((k + begin - centre + 0.5) * inverse);
        total += triangle[k] = distance < 1.0 ? 1.0 - distance : 0.0;
      }
      from[i] = begin;
      for (long k = 0; k < end - begin; k++)
        weights[i * pairs * 2 + k] = int(0.5 + (total != 0.0 ? triangle[k] / total : triangle[k]) * (1 << PRECISION));
    }
    for (long i = 0; i < result * pairs; i++) {
      const int32_t a = weights[2 * i], b = weights[2 * i + 1], mask = (1 << LOW) - 1;
      high[i] = a >> LOW | (b >> LOW) << 16, low[i] = (a & mask) | (b & mask) << 16;
    }
    size = pixels, wanted = result;
  }
};

// A row of pixels of three bytes -> a row of `taps.wanted`.
void along(const uint8_t* row, const Taps& taps, uint8_t* out) {
  const int32_t* weights = taps.weights.data();
  for (long i = 0; i < taps.wanted; i++, out += 3, weights += 2 * taps.pairs) {
    const uint8_t* at = row + 3 * taps.from[i];
    int32_t sums[3] = {HALF, HALF, HALF};
    for (long k = 0; k < 2 * taps.pairs; k++, at += 3)
      for (int c = 0; c < 3; c++) sums[c] += at[c] * weights[k];
    for (int c = 0; c < 3; c++) out[c] = std::min(sums[c] >> PRECISION, 255);
  }
}

// A row of the result from `2 * pairs` rows of `bytes` bytes.
void down(const uint8_t* const* rows, const int32_t* weights, long pairs, long bytes, uint8_t* out) {
  for (long x = 0; x < bytes; x++) {
    int32_t sum = HALF;
    for (long k = 0; k < 2 * pairs; k++) sum += rows[k][x] * weights[k];
    out[x] = std::min(sum >> PRECISION, 255);
  }
}

#ifdef __x86_64__
#define AVX2 __attribute__((target("avx2")))

struct Sums {  // of eight levels
  __m256i high, low;
};

AVX2 inline void add(Sums& sums, __m256i pairs, __m256i high, __m256i low) {
  sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(pairs, high));
  sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(pairs, low));
}

AVX2 inline __m256i levels(const Sums& sums) {
  return _mm256_srai_epi32(_mm256_add_epi32(_mm256_slli_epi32(sums.high, LOW), sums.low), PRECISION);
}

// `along` of two rows.
AVX2 void along_avx2(const uint8_t* const row[2], const Taps& taps, uint8_t* const out[2]) {
  const __m256i apart = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));  // of two pixels the red, green and blue levels
  const int32_t *high = taps.high.data(), *low = taps.low.data();
  const long *from = taps.from.data(), wanted = taps.wanted, pairs = taps.pairs;
  for (long i = 0; i < wanted; i++, high += pairs, low += pairs) {
    const uint8_t *first = row[0] + 3 * from[i], *second = row[1] + 3 * from[i];
    Sums sums{__m256i{}, _mm256_set1_epi32(HALF)};
    for (long k = 0; k < pairs; k++) {
      const __m256i pixels = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(second + 6 * k),
                                                 reinterpret_cast<const __m128i*>(first + 6 * k));
      add(sums, _mm256_shuffle_epi8(pixels, apart), _mm256_set1_epi32(high[k]), _mm256_set1_epi32(low[k]));
    }
    const __m256i words = _mm256_packus_epi32(levels(sums), __m256i{}), pixels = _mm256_packus_epi16(words, words);
    const int32_t one = _mm256_extract_epi32(pixels, 0), two = _mm256_extract_epi32(pixels, 4);
    std::memcpy(out[0] + 3 * i, &one, 4), std::memcpy(out[1] + 3 * i, &two, 4);
  }
}

AVX2 void down_avx2(const uint8_t* const* rows, const int32_t* high, const int32_t* low, long pairs, long bytes, uint8_t* out) {
  const __m256i zero{};
  for (long x = 0; x < bytes; x += 32) {
    Sums sums[4];
    for (Sums& each : sums) each = {zero, _mm256_set1_epi32(HALF)};
    for (long k = 0; k < pairs; k++) {
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[2 * k] + x));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[2 * k + 1] + x));
      const __m256i left = _mm256_unpacklo_epi8(a, b), right = _mm256_unpackhi_epi8(a, b);
      const __m256i upper = _mm256_set1_epi32(high[k]), lower = _mm256_set1_epi32(low[k]);
      add(sums[0], _mm256_unpacklo_epi8(left, zero), upper, lower), add(sums[1], _mm256_unpackhi_epi8(left, zero), upper, lower);
      add(sums[2], _mm256_unpacklo_epi8(right, zero), upper, lower), add(sums[3], _mm256_unpackhi_epi8(right, zero), upper, lower);
    }
    const __m256i left = _mm256_packus_epi32(levels(sums[0]), levels(sums[1]));
    const __m256i right = _mm256_packus_epi32(levels(sums[2]), levels(sums[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), _mm256_packus_epi16(left, right));
  }
}
#endif

}  // namespace

void resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long out_stride, long to_height,
            long to_width) {
  static thread_local Taps kept[2];
  static thread_local std::vector<uint8_t> kept_rows, kept_row;
  Taps &columns = kept[0], &rows = kept[1];
  columns.set(width, to_width), rows.set(height, to_height);
  const long bytes = 3 * to_width, step = bytes + SLACK, longest = std::max(3 * (width + 2 * columns.pairs), step) + SLACK;
  const long kept_most = 2 * rows.pairs + 2;  // rows of the first pass that are kept: a triangle's, and one more each way
  uint8_t *between = room(kept_rows, step * kept_most), *row[2] = {room(kept_row, 2 * longest), kept_row.data() + longest};
  const bool quick = avx2();
  std::vector<const uint8_t*> summed(2 * rows.pairs);
  for (long y = 0, done = 0; y < to_height; y++) {
    for (; done < std::min(rows.from[y] + 2 * rows.pairs, height); done += 2) {  // of an odd number the last row twice
      uint8_t* const to[2] = {between + done % kept_most * step, between + (done + 1) % kept_most * step};
      for (int i = 0; i < 2; i++) std::memcpy(row[i], source + std::min(done + i, height - 1) * stride, 3 * width);
#ifdef __x86_64__
      if (quick) {
        along_avx2(row, columns, to);
        continue;
      }
#endif
      along(row[0], columns, to[0]), along(row[1], columns, to[1]);
    }
    for (long k = 0; k < 2 * rows.pairs; k++)  // of weight 0 beyond the last
      summed[k] = between + std::min(rows.from[y] + k, height - 1) % kept_most * step;
    const long at = y * rows.pairs;
#ifdef __x86_64__
    if (quick) down_avx2(summed.data(), &rows.high[at], &rows.low[at], rows.pairs, bytes, row[0]);
#endif
    if (!quick) down(summed.data(), &rows.weights[2 * at], rows.pairs, bytes, row[0]);
    std::memcpy(out + y * out_stride, row[0], bytes);
  }
  if (kept_rows.size() > LARGE) kept_rows = {};
}

}  // namespace pixels
