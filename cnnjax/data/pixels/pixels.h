// PNG files -> rows of pixels, and the resize: declarations that the sources of this library share.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define PUBLIC extern "C" __attribute__((visibility("default")))

namespace pixels {

constexpr size_t LARGE = 1 << 25;  // bytes that a thread does not keep from one image to the next

// Room that is not cleared and only grows.
inline uint8_t* room(std::vector<uint8_t>& bytes, size_t size) {
  if (bytes.size() < size) bytes.resize(size);
  return bytes.data();
}

// `zng_stream` of zlib-ng 2; `Inflater::open` is given its size and refuses another.
struct Stream {
  const uint8_t* next_in;
  uint32_t avail_in;
  size_t total_in;
  uint8_t* next_out;
  uint32_t avail_out;
  size_t total_out;
  const char* msg;
  void *state, *zalloc, *zfree, *opaque;
  int data_type;
  uint32_t adler;
  unsigned long reserved;
};

// zlib-ng's functions. Some versions take 32 bits of crc32's size.
struct Inflater {
  int32_t (*open)(Stream*, const char* version, int32_t size);
  int32_t (*reset)(Stream*);
  int32_t (*inflate)(Stream*, int32_t flush);
  int32_t (*close)(Stream*);
  uint32_t (*crc32)(uint32_t, const uint8_t*, size_t);
};

// A PNG file with the header of 8-bit RGB, `height` by `width`, to rows of three bytes a pixel; false where Pillow is not sure to
// read the same pixels: other chunks, or damage. `out` then holds anything. Behind the pixels it has room for three rows of them,
// `height` bytes, and one more.
bool decode_png(const uint8_t* data, long size, const Inflater& inflater, long height, long width, uint8_t* out);

// Pillow's BILINEAR of rows of pixels of three bytes, which are `stride` and `out_stride` bytes apart.
void resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long out_stride, long to_height,
            long to_width);

// 18 statistics of an image of at least 3 by 3 pixels, in units of 255 levels: means and standard deviations of the channels; of luma
// along rows the mean difference of neighbours, its root mean square, and the mean second difference; means of the middle quarter and of
// the top and bottom three rows; covariances of red and green, red and blue, green and blue.
void statistics(const uint8_t* image, long height, long width, double* out);

inline bool avx2() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx2");
#else
  return false;
#endif
}

}  // namespace pixels
