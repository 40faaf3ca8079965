// PNG files -> rows of pixels, and the resize: declarations that the sources of this library share.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

// The loader takes the best that the CPU has; integers alone, so that the pixels are the same on all. Clang and other C
// libraries: what every CPU of the kind has.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, type{__VA_ARGS__})
#endif
#define INLINE inline __attribute__((always_inline))
#define PUBLIC extern "C" __attribute__((visibility("default")))

namespace pixels {

constexpr long MAX_PIXELS = 1L << 27;  // images.MAX_PIXELS
constexpr size_t LARGE = 1 << 25;      // bytes that a thread does not keep from one image to the next

// Room that is not cleared and only grows.
inline uint8_t* room(std::vector<uint8_t>& bytes, size_t size) {
  if (bytes.size() < size) bytes.resize(size);
  return bytes.data();
}

// Red, green, blue and a byte without meaning; rows follow each other without gaps, and 32 bytes follow them.
struct Pixels {
  std::vector<uint8_t> bytes;
  long height = 0, width = 0;

  uint8_t* room(long rows, long columns) {
    height = rows, width = columns;
    return pixels::room(bytes, 4 * rows * columns + 32);
  }
};

// libdeflate's functions.
struct Inflater {
  void* (*open)();
  void (*close)(void*);
  int (*inflate)(void*, const void*, size_t, void*, size_t, size_t*);
  uint32_t (*crc32)(uint32_t, const void*, size_t);
};

INLINE uint32_t big32(const uint8_t* at) { return uint32_t(at[0]) << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

// A plain file, of which Pillow is sure to read the same pixels; false for all others, damaged ones among them.
bool decode_png(const uint8_t* data, long size, const Inflater& inflater, Pixels& out);

// Pillow's BILINEAR of rows of pixels of three bytes, which are `stride` and `out_stride` bytes apart.
void resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long out_stride, long to_height,
            long to_width);

}  // namespace pixels
