// Vectors of the instruction set that this file is compiled for, and the one operation that everything is made of.
//
// Written with the vector types of GCC and Clang, so that one source serves AVX-512, AVX2, SSE2 and NEON.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))  // what keeps a tile in registers
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

namespace cnnjax {
namespace {  // each library has its own

// A tile is as large as the registers allow: sums, one row of weights and a temporary.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kTilePixels = 14, kTileTaps = 24;  // 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8, kTilePixels = 6, kTileTaps = 6;  // 16 registers
#elif defined(__aarch64__)
constexpr int kLanes = 4, kTilePixels = 6, kTileTaps = 6;  // 32 registers
#else
constexpr int kLanes = 4, kTilePixels = 3, kTileTaps = 3;  // 16 registers
#endif
constexpr int kBlock = 16;              // output channels of a tile, on every instruction set
constexpr int kVecs = kBlock / kLanes;  // vectors in a block

inline int64_t blocks(int64_t channels) { return (channels + kBlock - 1) / kBlock; }

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));
typedef uint8_t ByteVec __attribute__((vector_size(kLanes)));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vec load(const uint16_t* p) {  // bfloat16
  typedef uint16_t Short __attribute__((vector_size(kLanes * 2)));
  Short bits;
  std::memcpy(&bits, p, sizeof bits);
  return (Vec)(__builtin_convertvector(bits, IntVec) << 16);
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// Past the caches, to a place that is a multiple of a vector: for whole lines, which otherwise are read before they are written. Other
// threads see it after a fence.
inline void store_past(float* p, Vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#else
  store(p, v);
#endif
}
inline void fence() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

constexpr int kTogether = 4;  // vectors of neighbouring channels at once

// work(first channel, number of vectors as a constant) for channels [begin, end). Where they are no multiple, the last two vectors overlap.
template <typename Work>
void for_channels(int64_t begin, int64_t end, const Work& work) {
  int64_t c = begin;
  for (; c + kTogether * kLanes <= end; c += kTogether * kLanes) work(c, std::integral_constant<int, kTogether>());
  for (; c + kLanes <= end; c += kLanes) work(c, std::integral_constant<int, 1>());
  if (c < end) work(end - kLanes, std::integral_constant<int, 1>());
}

// The larger; b where one of them is not a number.
inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}
// The smaller; b where one of them is not a number.
inline Vec smaller(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (Vec)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
// 1 / a to 2e-7 of it, for normal numbers: an estimate and a step of Newton's.
inline Vec reciprocal(Vec a) {
#if defined(__AVX512F__)
  const Vec r = (Vec)_mm512_rcp14_ps((__m512)a);
#elif defined(__FMA__)
  const Vec r = (Vec)_mm256_rcp_ps((__m256)a);
#else
  return 1.f / a;
#endif
#if defined(__AVX512F__) || defined(__FMA__)
  return r + r * (1.f - a * r);
#endif
}
inline Vec relu(Vec a) { return larger(Vec{}, a); }  // NaN stays NaN

// v in a register, whatever the compiler would like better.
inline Vec held(Vec v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#else
  asm("" : "+w"(v));
#endif
  return v;
}
// Weights of several products: with AVX-512 those read the other factor from memory, so these must not be read again for each.
inline Vec load_weights(const float* p) { return kLanes == 16 ? held(load(p)) : load(p); }

// a + b and a - b with `one` of ones(): as multiplications and additions, for the units that are idle while others add.
#if defined(__FMA__) || defined(__aarch64__)
inline Vec ones() { return held(Vec{} + 1.f); }  // or the compiler would see that nothing is multiplied
inline Vec add(Vec a, Vec b, Vec one) { return a * one + b; }
inline Vec subtract(Vec a, Vec b, Vec one) { return a - b * one; }
#else
inline Vec ones() { return Vec{}; }
inline Vec add(Vec a, Vec b, Vec) { return a + b; }
inline Vec subtract(Vec a, Vec b, Vec) { return a - b; }
#endif

// Comparisons, false where a or b is not a number, and codes, a byte for each lane.
#if defined(__AVX512F__)
typedef __mmask16 Mask;
typedef uint8_t Codes __attribute__((vector_size(16)));
inline Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
inline Mask at_most(Vec a, Vec b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
inline Vec pick(Mask m, Vec a, Vec b) { return (Vec)_mm512_mask_mov_ps((__m512)b, m, (__m512)a); }
inline Codes pick(Mask m, Codes a, Codes b) { return (Codes)_mm_mask_mov_epi8((__m128i)b, m, (__m128i)a); }
inline Mask is(Codes codes, int64_t code) {
  return _mm_cmpeq_epi8_mask((__m128i)codes, _mm_set1_epi8(static_cast<char>(code)));
}
inline Vec add_where(Mask m, Vec a, Vec b) { return (Vec)_mm512_mask_add_ps((__m512)a, m, (__m512)a, (__m512)b); }
inline Codes load_codes(const uint8_t* p) {
  Codes codes;
  std::memcpy(&codes, p, sizeof codes);
  return codes;
}
inline void store_codes(uint8_t* p, Codes codes) { std::memcpy(p, &codes, sizeof codes); }
#else
typedef IntVec Mask, Codes;
inline Mask less(Vec a, Vec b) { return a < b; }
inline Mask at_most(Vec a, Vec b) { return a <= b; }
inline Vec pick(Mask m, Vec a, Vec b) { return m ? a : b; }
inline Codes pick(Mask m, Codes a, Codes b) { return m ? a : b; }
inline Mask is(Codes codes, int64_t code) { return codes == static_cast<int32_t>(code); }
inline Vec add_where(Mask m, Vec a, Vec b) { return a + (Vec)((IntVec)b & m); }
inline Codes load_codes(const uint8_t* p) {
  ByteVec codes;
  std::memcpy(&codes, p, sizeof codes);
  return __builtin_convertvector(codes, IntVec);
}
inline void store_codes(uint8_t* p, Codes codes) {
  const ByteVec bytes = __builtin_convertvector(codes, ByteVec);
  std::memcpy(p, &bytes, sizeof bytes);
}
#endif
inline Codes all_codes(int64_t code) { return Codes{} + static_cast<uint8_t>(code); }
inline Vec keep(Mask m, Vec v) { return pick(m, v, Vec{}); }

// Arithmetic. A tile works on words of 32 bits: one float32, or two bfloat16 that are multiplied and added at once. The
// two are neighbouring inputs of a pixel ("taps", in the convolution) or the same input of neighbouring pixels ("pairs",
// in the gradient of the weights); rows are laid out for one or the other.
struct Float32 {
  static constexpr int kPack = 1;  // values in a word
  static Vec multiply_add(Vec sum, Vec w, const char* x) {
    float value;
    std::memcpy(&value, x, 4);
    return sum + w * value;
  }
};
#if defined(__AVX512BF16__)
struct Bfloat16 {
  static constexpr int kPack = 2;
  static Vec multiply_add(Vec sum, Vec w, const char* x) {
    int32_t pair;
    std::memcpy(&pair, x, 4);
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(pair));
  }
};
inline void store(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
inline __mmask16 first(int64_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }
inline __m512i rounded(const float* p, __mmask16 m) {  // 16 values, each in the low half of a word
  return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, p)));
}
#else
using Bfloat16 = Float32;  // more exact than what was asked for
#endif

inline uint32_t bfloat16_bits(float value) {  // nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;  // rounding could make an infinity of a NaN
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Numbers as M has them in memory between a forward and a backward pass.
template <typename M>
Vec load_factors(const uint16_t* p) { return load(p); }
template <typename M>
Vec load_factors(const float* p) {
#if defined(__AVX512BF16__)
  if constexpr (M::kPack == 2)
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)load(p))), 16);
#endif
  return load(p);
}

// kCount vectors, of kBlock values each in sequence.
template <typename M, int kCount>
void store_blocks(char* p, const Vec* v) {
#if defined(__AVX512BF16__)
  if constexpr (M::kPack == 2) {
    UNROLL for (int j = 0; j < kCount; j += 2)
      _mm512_storeu_si512(p + j * 32, (__m512i)_mm512_cvtne2ps_pbh((__m512)v[j + 1], (__m512)v[j]));
    return;
  }
#endif
  UNROLL for (int j = 0; j < kCount; ++j) std::memcpy(p + j * kBlock * 4, v + j, sizeof *v);
}

// A vector of words {a[i], b[i]}; in float32 just a[i].
template <typename M>
void store_pairs(char* p, Vec a, [[maybe_unused]] Vec b) {
#if defined(__AVX512BF16__)
  if constexpr (M::kPack == 2) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, both));
    return;
  }
#endif
  std::memcpy(p, &a, sizeof a);
}

// n values in sequence.
template <typename M>
void to_taps(const float* row, int64_t n, char* dst) {
#if defined(__AVX512BF16__)
  if constexpr (M::kPack == 2) {
    for (; n >= 32; n -= 32, row += 32, dst += 64) {
      const Vec v[] = {load(row), load(row + 16)};
      store_blocks<M, 2>(dst, v);
    }
    for (; n > 0; n -= 16, row += 16, dst += 32)
      _mm256_mask_storeu_epi16(dst, first(n), _mm512_cvtepi32_epi16(rounded(row, first(n))));
    return;
  }
#endif
  std::memcpy(dst, row, n * sizeof(float));
}

// n words {a[i], b[i]} of bfloat16.
template <typename M>
void to_pairs(const uint16_t* a, const uint16_t* b, int64_t n, char* dst) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t word = a[i] | uint32_t(b[i]) << 16;
    std::memcpy(dst + 4 * i, &word, 4);
  }
}

// n words {a[i], b[i]}; in float32 just a[i].
template <typename M>
void to_pairs(const float* a, [[maybe_unused]] const float* b, int64_t n, char* dst) {
#if defined(__AVX512BF16__)
  if constexpr (M::kPack == 2) {
    for (; n >= 16; n -= 16, a += 16, b += 16, dst += 64) store_pairs<M>(dst, load(a), load(b));
    if (n > 0) {
      const __m512i high = _mm512_slli_epi32(rounded(b, first(n)), 16);
      _mm512_mask_storeu_epi32(dst, first(n), _mm512_or_si512(rounded(a, first(n)), high));
    }
    return;
  }
#endif
  std::memcpy(dst, a, n * sizeof(float));
}

}  // namespace
}  // namespace cnnjax
