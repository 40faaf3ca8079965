// Baseline JPEG of three colours with chroma of full or of half size, as libjpeg-turbo decodes it by default: the accurate
// inverse DCT (jidctint.c), triangles between samples of chroma (jdsample.c), colours in 16-bit fixed point (jdcolor.c).

#include <cstdlib>
#include <memory>
#include <string_view>

#include "pixels.h"

namespace pixels {
namespace {

constexpr int QUICK = 10;  // bits of a code and its value that one look into a table decodes
constexpr int PADDING = 2048;  // zeros behind the compressed bits: more than an MCU can read
constexpr int COLUMN_LIMIT = 2900;  // of the absolute coefficients in a column together; real pixels give less
constexpr int BLOCK_ENDS = 128;  // more than any place
constexpr uint8_t NATURAL[80] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
    6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31,
    39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

// Of a coefficient among two blocks, which lie row beside row.
struct Places {
  uint8_t of[80];
  constexpr Places() : of() {
    for (int k = 0; k < 80; k++) of[k] = uint8_t(NATURAL[k] / 8 * 16 + NATURAL[k] % 8);
  }
  constexpr uint8_t operator[](int k) const { return of[k]; }
};
constexpr Places PLACE;

// Two blocks on their way from coefficients to pixels.
struct Pair {
  alignas(32) int16_t values[8][2][8];
  const int16_t* quant[2];
  uint8_t* to[2];
  long stride[2];
};

using Ints = int32_t __attribute__((vector_size(32)));
using Shorts = int16_t __attribute__((vector_size(16)));
using Unsigned = uint16_t __attribute__((vector_size(16)));
using Octet = uint8_t __attribute__((vector_size(8)));

// The bits that follow, the next one on top.
struct Bits {
  const uint8_t* next;
  uint64_t buffer = 0;
  int count = 0;

  INLINE void refill() {  // at least 56
    uint64_t word;
    std::memcpy(&word, next, 8);
    buffer |= __builtin_bswap64(word) >> count;
    next += (63 - count) >> 3;
    count |= 56;
  }
  INLINE void skip(int bits) { buffer <<= bits, count -= bits; }
  INLINE int take(int bits) {
    const int value = buffer >> (64 - bits);
    skip(bits);
    return value;
  }
};

INLINE int extended(int value, int bits) { return value < 1 << (bits - 1) ? value + 1 - (1 << bits) : value; }

struct Huffman {
  struct Entry {
    int16_t value;   // not 0: of the whole symbol
    uint8_t symbol;  // or, with a value, the run of zeros before it
    uint8_t bits;    // of the code, with those of the value if there is one; 0: a code longer than QUICK
  };
  struct Two {  // coefficients, or one and a zero, or none
    int16_t values[2];
    uint8_t places[2];  // counted from the next one
    uint8_t advance;    // with BLOCK_ENDS, if it does
    uint8_t bits;       // 0: `quick` says more
  };
  bool known = false;
  Entry quick[1 << QUICK];
  Two two[1 << QUICK];
  uint32_t limit[17];  // of codes of a length, as the top 16 bits
  int offset[17];
  uint8_t symbols[256];

  // The counts of codes of 1 to 16 bits and their symbols; false where they make no code.
  bool read(const uint8_t* counts, const uint8_t* given, int total, bool dc) {
    if (whole && !std::memcmp(lengths, counts, sizeof lengths) && !std::memcmp(symbols, given, total)) return known = true;
    whole = false;
    std::memcpy(lengths, counts, sizeof lengths), std::memcpy(symbols, given, total);
    std::memset(quick, 0, sizeof quick);
    uint32_t code = 0;
    for (int length = 1, i = 0; length <= 16; length++, code <<= 1) {
      offset[length] = i - int(code);
      for (int n = 0; n < counts[length - 1]; n++, i++, code++) {
        if (code >> length || (dc && given[i] > 15)) return false;
        if (length <= QUICK) enter(code, length, given[i]);
      }
      if (code >> length) return false;  // libjpeg: no code is all ones
      limit[length] = code << (16 - length);
    }
    for (int i = 0; i < 1 << QUICK && !dc; i++) two[i] = joined(i);
    return known = whole = true;
  }

  INLINE int slow(const Bits& bits, int& length) const {  // -1: no code
    const uint32_t top = bits.buffer >> 48;
    for (length = QUICK + 1; length <= 16; length++)
      if (top < limit[length]) return symbols[((top >> (16 - length)) + offset[length]) & 255];
    return -1;
  }

 private:
  bool whole = false;  // from the `lengths` and `symbols`, of this file or of another
  uint8_t lengths[16];

  Two joined(int index) const {
    Two result{};
    for (int i = 0; i < 3; i++) {
      const Entry& entry = quick[(index << result.bits) & ((1 << QUICK) - 1)];
      const bool ends = !entry.value && !entry.symbol;
      if (!entry.bits || result.bits + entry.bits > QUICK || !(ends || (i < 2 && entry.value))) break;
      result.bits += entry.bits;
      if (ends) {
        result.advance += BLOCK_ENDS;
        break;
      }
      result.places[i] = result.advance + entry.symbol, result.values[i] = entry.value;
      result.advance = result.places[i] + 1;
      if (!i) result.places[1] = result.advance;
    }
    return result;
  }

  void enter(uint32_t code, int length, uint8_t symbol) {
    const int free = QUICK - length, size = symbol & 15;
    Entry* at = quick + (code << free);
    for (int rest = 0; rest < 1 << free; rest++)
      if (size && size <= free) at[rest] = {int16_t(extended(rest >> (free - size), size)), uint8_t(symbol >> 4), uint8_t(length + size)};
      else at[rest] = {0, symbol, uint8_t(length)};
  }
};

struct Component {
  int across, down, dc, ac;  // samples per MCU in blocks; tables
  alignas(16) int16_t quant[64];
  int predicted;
  long stride, width, height;  // of the plane in bytes, and of the samples that count
  std::vector<uint8_t> plane;
};

// The coefficients of a block of zeros; 0: only the first one, or -1: damage. By itself, for then all it needs is in registers.
__attribute__((noinline)) int read_block(Bits& given, const Huffman& dc, const Huffman& ac, int& predicted, int16_t* block) {
  auto set = [&](int k, int value) __attribute__((always_inline)) {  // row by row, of 2 * 8
    block[PLACE[k]] = int16_t(value);
  };
  Bits bits = given;
  bits.refill();
  int length;
  Huffman::Entry entry = dc.quick[bits.buffer >> (64 - QUICK)];
  if (entry.value) {
    bits.skip(entry.bits);
    predicted += entry.value;
  } else {
    int size = entry.symbol;
    if (!(length = entry.bits) && (size = dc.slow(bits, length)) < 0) return -1;
    bits.skip(length);
    if (size) predicted += extended(bits.take(size), size);
  }
  if (predicted != int16_t(predicted)) return -1;
  set(0, predicted);
  int k = 1;
  auto quick = [&]() __attribute__((always_inline)) {
    const Huffman::Two two = ac.two[bits.buffer >> (64 - QUICK)];
    if (k + two.places[1] >= 63 || !two.bits) return false;  // what follows a full block is of the next one
    bits.skip(two.bits);
    for (int i = 0; i < 2; i++) set(k + two.places[i], two.values[i]);
    k += two.advance;
    return true;
  };
  while (k < 64) {
    bits.refill();  // enough for two quick looks and a code of any kind: the bits wait for each other, and a refill for them
    if (quick() && quick() && quick()) continue;
    if (k >= 64) break;
    entry = ac.quick[bits.buffer >> (64 - QUICK)];
    if (entry.value) {
      bits.skip(entry.bits);
      k += entry.symbol;
      set(k++, entry.value);
      continue;
    }
    int symbol = entry.symbol;
    if (!(length = entry.bits) && (symbol = ac.slow(bits, length)) < 0) return -1;
    bits.skip(length);
    const int size = symbol & 15;
    k += symbol >> 4;
    if (size) set(k++, extended(bits.take(size), size));
    else if (symbol == 0xF0) k++;
    else break;
  }
  given = bits;
  k &= BLOCK_ENDS - 1;
  return k <= 64 ? k - 1 : -1;
}

INLINE void transpose(Shorts* x) {
  for (int step = 0; step < 3; step++) {
    Shorts y[8];
    for (int i = 0; i < 4; i++) {
      y[2 * i] = SHUFFLE(Shorts, x[i], x[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      y[2 * i + 1] = SHUFFLE(Shorts, x[i], x[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    std::copy(y, y + 8, x);
  }
}

INLINE Shorts packed(Ints x) {  // as libjpeg-turbo keeps them between the directions: the nearest of 16 bits
#ifdef __SSE2__
  __m128i halves[2];
  std::memcpy(halves, &x, sizeof x);
  return (Shorts)_mm_packs_epi32(halves[0], halves[1]);
#else
  x = x < -32768 ? Ints{} - 32768 : x;
  return __builtin_convertvector(x > 32767 ? Ints{} + 32767 : x, Shorts);
#endif
}

INLINE Octet levels(Shorts x) {  // from differences to the middle
#ifdef __SSE2__
  const __m128i bytes = _mm_packs_epi16((__m128i)x, (__m128i)x);
  Octet low;
  std::memcpy(&low, &bytes, sizeof low);
#else
  x = x < -128 ? Shorts{} - 128 : x;
  const Octet low = __builtin_convertvector(x > 127 ? Shorts{} + 127 : x, Octet);
#endif
  return low ^ 128;
}

INLINE Ints wide(Shorts x) { return __builtin_convertvector(x, Ints); }

// One direction, eight rows or columns at once: jidctint.c's numbers, of 13 bits. Up to COLUMN_LIMIT no sum of the two directions
// leaves its 16 or 32 bits; beyond, libjpeg-turbo's pixels depend on the CPU.
INLINE void inverse_dct(Shorts* x, int shift) {
  const int half = 1 << (shift - 1);
  const Ints x1 = wide(x[1]), x2 = wide(x[2]), x3 = wide(x[3]), x5 = wide(x[5]), x6 = wide(x[6]), x7 = wide(x[7]);
  const Ints even = (x2 + x6) * 4433, low = even - x6 * 15137, high = even + x2 * 6270;
  const Ints sum = (wide(x[0] + x[4]) << 13) + half, difference = (wide(x[0] - x[4]) << 13) + half;
  const Ints a = sum + high, b = difference + low, c = difference - low, d = sum - high;
  const Ints y3 = wide(x[7] + x[3]), y4 = wide(x[5] + x[1]), z5 = (y3 + y4) * 9633;
  const Ints z1 = (x7 + x1) * -7373, z2 = (x5 + x3) * -20995, z3 = y3 * -16069 + z5, z4 = y4 * -3196 + z5;
  const Ints p = x7 * 2446 + z1 + z3, q = x5 * 16819 + z2 + z4, r = x3 * 25172 + z2 + z3, s = x1 * 12299 + z1 + z4;
  x[0] = packed((a + s) >> shift), x[7] = packed((a - s) >> shift);
  x[1] = packed((b + r) >> shift), x[6] = packed((b - r) >> shift);
  x[2] = packed((c + q) >> shift), x[5] = packed((c - q) >> shift);
  x[3] = packed((d + p) >> shift), x[4] = packed((d - p) >> shift);
}

// False where a column has more than COLUMN_LIMIT.
FOR_EACH_CPU bool store_block(const Pair& pair, int side) {
  Shorts rows[8], quant;
  Ints sums{};
  for (int i = 0; i < 8; i++) {
    std::memcpy(&rows[i], pair.values[i][side], sizeof quant), std::memcpy(&quant, pair.quant[side] + 8 * i, sizeof quant);
    rows[i] = (Shorts)((Unsigned)rows[i] * (Unsigned)quant);  // wraps, as libjpeg-turbo
    const Ints signs = wide(rows[i]) >> 31;
    sums += (wide(rows[i]) ^ signs) - signs;
  }
  for (int i = 0; i < 8; i++)
    if (sums[i] > COLUMN_LIMIT) return false;
  for (int shift : {11, 18}) {
    inverse_dct(rows, shift);
    transpose(rows);
  }
  for (int i = 0; i < 8; i++) {
    const Octet row = levels(rows[i]);
    std::memcpy(pair.to[side] + i * pair.stride[side], &row, 8);
  }
  return true;
}

#ifdef WITH_AVX2
#pragma GCC push_options
#pragma GCC target("avx2")

// The same for two blocks, one in each half of the registers, with products that are added in pairs.
bool store_both(const Pair& pair) {
  __m256i x[8], sums{};
  auto numbers = [](int a, int b) { return _mm256_set1_epi32(int((a & 0xFFFF) | uint32_t(b) << 16)); };
  for (int i = 0; i < 8; i++) {
    const __m256i quant = _mm256_loadu2_m128i((const __m128i*)(pair.quant[1] + 8 * i), (const __m128i*)(pair.quant[0] + 8 * i));
    x[i] = _mm256_mullo_epi16(_mm256_load_si256((const __m256i*)pair.values[i]), quant);
    sums = _mm256_adds_epu16(sums, _mm256_abs_epi16(x[i]));
  }
  const __m256i beyond = _mm256_subs_epu16(sums, _mm256_set1_epi16(COLUMN_LIMIT));
  if (!_mm256_testz_si256(beyond, beyond)) return false;
  for (int shift : {11, 18}) {
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    const __m256i plus = _mm256_add_epi16(x[0], x[4]), minus = _mm256_sub_epi16(x[0], x[4]);
    const __m256i z3 = _mm256_add_epi16(x[7], x[3]), z4 = _mm256_add_epi16(x[5], x[1]);
    __m256i y[8][2];
    for (int i = 0; i < 2; i++) {
      auto both = [&](__m256i a, __m256i b) { return i ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b); };
      const __m256i far = both(x[2], x[6]), z = both(z3, z4), outer = both(x[7], x[1]), inner = both(x[5], x[3]);
      const __m256i high = _mm256_madd_epi16(far, numbers(4433 + 6270, 4433)), low = _mm256_madd_epi16(far, numbers(4433, 4433 - 15137));
      const __m256i sum = _mm256_add_epi32(_mm256_srai_epi32(both(__m256i{}, plus), 3), half);  // of 13 bits
      const __m256i difference = _mm256_add_epi32(_mm256_srai_epi32(both(__m256i{}, minus), 3), half);
      const __m256i a = _mm256_add_epi32(sum, high), d = _mm256_sub_epi32(sum, high);
      const __m256i b = _mm256_add_epi32(difference, low), c = _mm256_sub_epi32(difference, low);
      const __m256i even = _mm256_madd_epi16(z, numbers(9633 - 16069, 9633)), odd = _mm256_madd_epi16(z, numbers(9633, 9633 - 3196));
      const __m256i p = _mm256_add_epi32(_mm256_madd_epi16(outer, numbers(2446 - 7373, -7373)), even);
      const __m256i s = _mm256_add_epi32(_mm256_madd_epi16(outer, numbers(-7373, 12299 - 7373)), odd);
      const __m256i q = _mm256_add_epi32(_mm256_madd_epi16(inner, numbers(16819 - 20995, -20995)), odd);
      const __m256i r = _mm256_add_epi32(_mm256_madd_epi16(inner, numbers(-20995, 25172 - 20995)), even);
      const __m256i sums[4][2] = {{a, s}, {b, r}, {c, q}, {d, p}};
      for (int k = 0; k < 4; k++) {
        y[k][i] = _mm256_srai_epi32(_mm256_add_epi32(sums[k][0], sums[k][1]), shift);
        y[7 - k][i] = _mm256_srai_epi32(_mm256_sub_epi32(sums[k][0], sums[k][1]), shift);
      }
    }
    for (int k = 0; k < 8; k++) x[k] = _mm256_packs_epi32(y[k][0], y[k][1]);
    for (int step = 0; step < 3; step++) {  // transposed
      __m256i next[8];
      for (int k = 0; k < 4; k++)
        next[2 * k] = _mm256_unpacklo_epi16(x[k], x[k + 4]), next[2 * k + 1] = _mm256_unpackhi_epi16(x[k], x[k + 4]);
      std::copy(next, next + 8, x);
    }
  }
  for (int i = 0; i < 8; i += 2) {
    const __m256i rows = _mm256_xor_si256(_mm256_packs_epi16(x[i], x[i + 1]), _mm256_set1_epi8(char(128)));
    const __m128i halves[2] = {_mm256_castsi256_si128(rows), _mm256_extracti128_si256(rows, 1)};
    for (int side = 0; side < 2; side++) {
      uint8_t* to = pair.to[side] + i * pair.stride[side];
      std::memcpy(to, &halves[side], 8);
      std::memcpy(to + pair.stride[side], reinterpret_cast<const char*>(&halves[side]) + 8, 8);
    }
  }
  return true;
}

#pragma GCC pop_options
#endif

bool store_level(int value, uint8_t* out, long stride) {  // a block of nothing but its mean
  if (std::abs(value) > COLUMN_LIMIT) return false;
  const int level = std::clamp(((value + 4) >> 3) + 128, 0, 255);
  for (int i = 0; i < 8; i++) std::memset(out + i * stride, level, 8);
  return true;
}

// Twice as many samples as `near`, two in each number; `far` is the row on the other side, or the same for no rows between.
FOR_EACH_CPU void widen_both(const uint8_t* near, const uint8_t* far, long width, uint16_t* sums, uint16_t* out) {
  for (long i = 0; i < width; i++) sums[i + 1] = 3 * near[i] + far[i];
  sums[0] = sums[1], sums[width + 1] = sums[width];
  for (long i = 0; i < width; i++) {
    const uint16_t left = 3 * sums[i + 1] + sums[i] + 8, right = 3 * sums[i + 1] + sums[i + 2] + 7;
    out[i] = uint16_t(left >> 4 | right >> 4 << 8);
  }
}

FOR_EACH_CPU void widen_rows(const uint8_t* row, long width, uint16_t* sums, uint16_t* out) {
  for (long i = 0; i < width; i++) sums[i + 1] = row[i];
  sums[0] = sums[1], sums[width + 1] = sums[width];
  for (long i = 0; i < width; i++) {
    const uint16_t left = 3 * sums[i + 1] + sums[i] + 1, right = 3 * sums[i + 1] + sums[i + 2] + 2;
    out[i] = uint16_t(left >> 2 | right >> 2 << 8);
  }
}

INLINE int16_t high(int16_t a, int16_t b) { return int16_t(int32_t(a) * b >> 16); }

INLINE uint32_t level(int16_t value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

FOR_EACH_CPU void to_rgb(const uint8_t* luma, const uint8_t* blue, const uint8_t* red, uint32_t* out, long width) {
  for (long i = 0; i < width; i++) {  // rounded halves of products with twice the difference: 16 bits are enough
    const int16_t y = luma[i], b = blue[i] - 128, r = red[i] - 128;
    const int16_t to_red = r + ((high(2 * r, 26345) + 1) >> 1), to_blue = 2 * b + ((high(2 * b, -14942) + 1) >> 1);
    const int16_t to_green = int16_t((b * -22554 + r * 18734 + 32768) >> 16) - r;
    out[i] = level(y + to_red) | level(y + to_green) << 8 | level(y + to_blue) << 16;
  }
}

#ifdef WITH_AVX2
#pragma GCC push_options
#pragma GCC target("avx2")

// The same for 16 pixels at once; what is left over is left.
long to_rgb_16(const uint8_t* luma, const uint8_t* blue, const uint8_t* red, uint32_t* out, long width) {
  auto all = [](int value) { return _mm256_set1_epi16(short(value)); };
  auto levels = [](const uint8_t* at) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)at)); };
  auto rounded = [&](__m256i twice, int factor) {
    return _mm256_srai_epi16(_mm256_add_epi16(_mm256_mulhi_epi16(twice, all(factor)), all(1)), 1);
  };
  const __m256i factors = _mm256_set1_epi32((-22554 & 0xFFFF) | 18734 << 16), half = _mm256_set1_epi32(32768);
  long i = 0;
  for (; i + 16 <= width; i += 16) {
    const __m256i y = levels(luma + i), b = _mm256_sub_epi16(levels(blue + i), all(128)), r = _mm256_sub_epi16(levels(red + i), all(128));
    const __m256i twice_b = _mm256_add_epi16(b, b), twice_r = _mm256_add_epi16(r, r);
    const __m256i to_red = _mm256_add_epi16(r, rounded(twice_r, 26345)), to_blue = _mm256_add_epi16(twice_b, rounded(twice_b, -14942));
    const __m256i low = _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(b, r), factors), half), 16);
    const __m256i high = _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(b, r), factors), half), 16);
    const __m256i to_green = _mm256_sub_epi16(_mm256_packs_epi32(low, high), r);
    const __m256i reds = _mm256_add_epi16(y, to_red), greens = _mm256_add_epi16(y, to_green), blues = _mm256_add_epi16(y, to_blue);
    const __m256i red_blue = _mm256_packus_epi16(reds, blues), green_none = _mm256_packus_epi16(greens, __m256i{});
    const __m256i red_green = _mm256_unpacklo_epi8(red_blue, green_none), blue_none = _mm256_unpackhi_epi8(red_blue, green_none);
    const __m256i near = _mm256_unpacklo_epi16(red_green, blue_none), far = _mm256_unpackhi_epi16(red_green, blue_none);
    _mm256_storeu_si256((__m256i*)(out + i), _mm256_permute2x128_si256(near, far, 0x20));
    _mm256_storeu_si256((__m256i*)(out + i + 8), _mm256_permute2x128_si256(near, far, 0x31));
  }
  return i;
}

#pragma GCC pop_options
#endif

class Decoder {
 public:
  __attribute__((noinline)) bool decode(const uint8_t* data, long size, Pixels& out) {
    at = data, end = data + size, interval = 0, exif = sized = false;
    for (auto& tables : huffman)
      for (Huffman& table : tables) table.known = false;
    for (bool& known : quantised) known = false;
    if (size < 4 || big16(at) != 0xFFD8) return false;
    at += 2;
    while (end - at >= 4 && at[0] == 0xFF) {
      const int marker = at[1];
      const long length = big16(at + 2);
      if (length < 2 || length > end - at - 2) return false;
      const uint8_t *content = at + 4, *after = at + 2 + length;
      at = after;
      if (marker == 0xDA) return sized && read_scan_header(content, after) && read_scan() && combine(out);
      if (marker == 0xDB ? !read_quantisation(content, after)
          : marker == 0xC4 ? !read_huffman(content, after)
          : marker == 0xC0 ? !read_frame(content, after)
          : marker == 0xDD ? length != 4 || (interval = big16(content), false)
          : (marker & 0xF0) == 0xE0 ? !plain_metadata(marker, {reinterpret_cast<const char*>(content), size_t(length - 2)})
          : marker != 0xFE)
        return false;
    }
    return false;
  }

  void forget() {
    for (Component& each : components)
      if (each.plane.size() > LARGE) each.plane = {};
    if (bits.size() > LARGE) bits = {};
  }

 private:
  const uint8_t *at, *end;
  long interval, height, width, across, down;  // across, down: MCUs
  bool exif, sized, quantised[4];
  uint8_t ids[3], tables[3];
  uint16_t quant[4][64];
  Huffman huffman[2][4];
  Component components[3];
  Pair pair;
  int waiting;  // blocks in it
#ifdef WITH_AVX2
  const bool wide = __builtin_cpu_supports("avx2");
#endif
  std::vector<uint8_t> bits;
  std::vector<uint16_t> sums, line[2];

  // Whether a segment for applications leaves the pixels alone and gives Pillow no reason to refuse the file.
  bool plain_metadata(int marker, std::string_view text) {
    auto begins = [&](std::string_view name) { return text.substr(0, name.size()) == name; };
    switch (marker) {
      case 0xE0: return !begins("JFIF") || text.size() >= 14;
      case 0xE1: return begins({"Exif\0", 6}) ? plain_exif(text.substr(6)) : !xmp_turns(text);
      case 0xE2: return begins({"ICC_PROFILE", 12}) && text.size() >= 14;  // not of several images
      case 0xED: return text.size() < 6 || text.substr(text.size() - 6, 4) != "8BIM";
      case 0xEE: return !begins("Adobe") || (text.size() >= 12 && text[11] == 1);  // the colours are YCbCr
    }
    return true;
  }

  // Whether XMP may give an orientation other than the first.
  static bool xmp_turns(std::string_view text) {
    const std::string_view name = "Orientation";
    for (size_t at = 0; (at = text.find(name, at)) != text.npos;) {
      const auto before = text.substr(0, at), after = text.substr(at += name.size(), 4);
      const bool closes = before.size() > 7 && before.substr(before.size() - 7) == "</tiff:";
      if (!closes && after != "=\"1\"" && after.substr(0, 3) != ">1<") return true;
    }
    return false;
  }

  // Whether Exif gives no orientation but the first.
  bool plain_exif(std::string_view text) {
    const auto* tiff = reinterpret_cast<const uint8_t*>(text.data());
    const long size = text.size();
    if (exif || size < 8) return false;
    exif = true;
    const bool little = !std::memcmp(tiff, "II*\0", 4);
    if (!little && std::memcmp(tiff, "MM\0*", 4)) return false;
    auto two = [&](const uint8_t* at) { return little ? at[0] | at[1] << 8 : big16(at); };
    auto four = [&](const uint8_t* at) { return little ? two(at) | uint32_t(two(at + 2)) << 16 : big32(at); };
    const long first = four(tiff + 4);
    if (first < 8 || first + 2 > size) return false;
    const long count = two(tiff + first);
    if (first + 2 + 12 * count > size) return false;
    for (const uint8_t *entry = tiff + first + 2, *last = entry + 12 * count; entry < last; entry += 12) {
      const bool short_1 = two(entry + 2) == 3 && four(entry + 4) == 1 && two(entry + 8) == 1;
      const bool rational = two(entry + 2) == 5 && four(entry + 4) == 1;
      if ((two(entry) == 0x112 && !short_1) || (two(entry) == 0x11A && !rational)) return false;
    }
    return true;
  }

  bool read_quantisation(const uint8_t* from, const uint8_t* to) {
    for (; to - from >= 65; from += 65) {
      if (*from > 3) return false;
      for (int k = 0; k < 64; k++) quant[*from][NATURAL[k]] = from[1 + k];
      quantised[*from] = true;
    }
    return from == to;
  }

  bool read_huffman(const uint8_t* from, const uint8_t* to) {
    while (to - from >= 17) {
      const int kind = *from >> 4, number = *from & 15;
      int total = 0;
      for (int i = 1; i <= 16; i++) total += from[i];
      if (kind > 1 || number > 3 || total > 256 || total > to - from - 17) return false;
      if (!huffman[kind][number].read(from + 1, from + 17, total, !kind)) return false;
      from += 17 + total;
    }
    return from == to;
  }

  bool read_frame(const uint8_t* from, const uint8_t* to) {
    if (sized || to - from != 15 || from[0] != 8 || from[5] != 3) return false;
    height = big16(from + 1), width = big16(from + 3);
    if (!height || !width || height * width > MAX_PIXELS) return false;
    for (int i = 0; i < 3; i++) {
      ids[i] = from[6 + 3 * i], tables[i] = from[8 + 3 * i];
      components[i].across = from[7 + 3 * i] >> 4, components[i].down = from[7 + 3 * i] & 15;
      if (ids[i] != i + 1 || tables[i] > 3 || (i && from[7 + 3 * i] != 0x11)) return false;
    }
    const Component& luma = components[0];
    if (luma.across > 2 || luma.down > luma.across || !luma.across || !luma.down) return false;
    across = (width + 8 * luma.across - 1) / (8 * luma.across), down = (height + 8 * luma.down - 1) / (8 * luma.down);
    for (Component& each : components) {
      each.stride = 8 * across * each.across;
      each.width = (width * each.across + luma.across - 1) / luma.across;
      each.height = (height * each.down + luma.down - 1) / luma.down;
    }
    // libjpeg repeats the samples of the narrowest images instead.
    return sized = luma.across == 1 || components[1].width > 2;
  }

  bool read_scan_header(const uint8_t* from, const uint8_t* to) {
    if (to - from != 10 || from[0] != 3 || from[7] != 0 || from[8] != 63 || from[9] != 0) return false;
    const long blocks = across * down * (components[0].across * components[0].down + 2);
    if (8 * (end - at) < 2 * blocks) return false;  // a bit for the mean and one for the end: no memory for mere claims
    for (int i = 0; i < 3; i++) {
      Component& each = components[i];
      each.dc = from[2 + 2 * i] >> 4, each.ac = from[2 + 2 * i] & 15;
      if (from[1 + 2 * i] != ids[i] || each.dc > 3 || each.ac > 3 || !quantised[tables[i]]) return false;
      if (!huffman[0][each.dc].known || !huffman[1][each.ac].known) return false;
      for (int k = 0; k < 64; k++) each.quant[k] = int16_t(quant[tables[i]][k]);
      const size_t bytes = each.stride * down * 8 * each.down;
      if (each.plane.size() < bytes) each.plane.resize(bytes);
    }
    return true;
  }

  // The bits up to the next marker, which is returned, or 0; `length` is theirs in bytes.
  int read_bits(long& length) {
    if (long(bits.size()) < end - at + PADDING) bits.resize(end - at + PADDING);
    uint8_t* to = bits.data();
    while (true) {
      const auto* found = static_cast<const uint8_t*>(std::memchr(at, 0xFF, end - at));
      if (!found || end - found < 2) return 0;
      std::memcpy(to, at, found - at);
      to += found - at;
      at = found + 2;
      if (found[1]) {
        length = to - bits.data();
        std::memset(to, 0, PADDING);
        return found[1];
      }
      *to++ = 0xFF;
    }
  }

  bool read_scan() {
    const long all = across * down, each = interval ? interval : all;
    waiting = 0;
    clear();
    for (long done = 0; done < all; done += each) {
      long length;
      const bool final = done + each >= all;
      if (read_bits(length) != (final ? 0xD9 : 0xD0 + done / each % 8)) return false;
      Bits from{bits.data()};
      for (Component& component : components) component.predicted = 0;
      const uint8_t* behind = bits.data() + length + 8;
      for (long mcu = done; mcu < std::min(done + each, all); mcu++)
        if (!read_mcu(from, mcu / across, mcu % across) || from.next > behind) return false;
      const long left = 8 * length - (8 * (from.next - bits.data()) - from.count);
      if (left < 0 || left >= 8) return false;
    }
    return flush();
  }

  bool read_mcu(Bits& from, long y, long x) {
    for (Component& each : components)
      for (int v = 0; v < each.down; v++)
        for (int h = 0; h < each.across; h++) {
          uint8_t* to = each.plane.data() + 8 * ((y * each.down + v) * each.stride + x * each.across + h);
          int16_t* block = pair.values[0][waiting];
          const int last = read_block(from, huffman[0][each.dc], huffman[1][each.ac], each.predicted, block);
          if (last < 0) return false;
          if (!last) {
            if (!store_level(*block * each.quant[0], to, each.stride)) return false;
            *block = 0;
            continue;
          }
          pair.to[waiting] = to, pair.stride[waiting] = each.stride, pair.quant[waiting] = each.quant;
          if (++waiting == 2 && !flush()) return false;
        }
    return true;
  }

  bool flush() {
    bool done = true;
#ifdef WITH_AVX2
    if (waiting == 2 && wide) {
      done = store_both(pair);
      waiting = 0;
    }
#endif
    for (int side = 0; side < waiting; side++) done &= store_block(pair, side);
    waiting = 0;
    clear();
    return done;
  }

  void clear() {
    for (auto& row : pair.values)
      for (auto& side : row) std::memset(side, 0, sizeof side);
  }

  bool combine(Pixels& out) {
    const Component& luma = components[0];
    auto* to = reinterpret_cast<uint32_t*>(out.room(height, width));
    sums.resize(components[1].width + 2);
    for (auto& each : line) each.resize(components[1].width);
    for (long y = 0; y < height; y++, to += width) {
      const uint8_t* rows[2];
      for (int i = 0; i < 2; i++) {
        const Component& chroma = components[i + 1];
        const long near = luma.down == 2 ? y / 2 : y, far = std::clamp(y % 2 ? near + 1 : near - 1, 0L, chroma.height - 1);
        rows[i] = chroma.plane.data() + near * chroma.stride;
        if (luma.across == 1) continue;
        if (luma.down == 2)
          widen_both(rows[i], chroma.plane.data() + far * chroma.stride, chroma.width, sums.data(), line[i].data());
        else widen_rows(rows[i], chroma.width, sums.data(), line[i].data());
        rows[i] = reinterpret_cast<const uint8_t*>(line[i].data());
      }
      const uint8_t* bright = luma.plane.data() + y * luma.stride;
      long done = 0;
#ifdef WITH_AVX2
      if (wide) done = to_rgb_16(bright, rows[0], rows[1], to, width);
#endif
      to_rgb(bright + done, rows[0] + done, rows[1] + done, to + done, width - done);
    }
    return true;
  }
};

}  // namespace

bool decode_jpeg(const uint8_t* data, long size, Pixels& out) {
  static thread_local const auto decoder = std::make_unique<Decoder>();  // by its address: thread_local is looked up each time
  const bool done = decoder->decode(data, size, out);
  decoder->forget();
  return done;
}

}  // namespace pixels
