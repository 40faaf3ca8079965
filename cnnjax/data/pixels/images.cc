// What pixels/__init__.py calls.

#include <cmath>
#include <new>

#include "pixels.h"

using pixels::Inflater;
using pixels::Pixels;

namespace {

thread_local Pixels image;  // the last one of this thread

// 1: a PNG, 2: a JPEG, now in `image`; 0: neither, or not sure to be what Pillow reads.
int decode(const uint8_t* data, long size, const Inflater* inflater) {
  if (size > 8 && data[0] == 0x89 && inflater) return pixels::decode_png(data, size, *inflater, image) ? 1 : 0;
  if (size > 8 && data[0] == 0xFF) return pixels::decode_jpeg(data, size, image) ? 2 : 0;
  return 0;
}

void forget() {
  if (image.bytes.size() > pixels::LARGE) image = {};
}

bool fit(uint8_t* out, long side, bool pad) {
  if (!pad) return pixels::resize(image, out, 3 * side, side, side);
  const double scale = double(side) / std::max(image.height, image.width);
  const long height = std::max(std::nearbyint(image.height * scale), 1.0), width = std::max(std::nearbyint(image.width * scale), 1.0);
  std::memset(out, 0, 3 * side * side);
  return pixels::resize(image, out + 3 * ((side - height) / 2 * side + (side - width) / 2), 3 * side, height, width);
}

}  // namespace

// `count` files to `out`, uint8 [count, side, side, 3]; `found` gets kind, height and width of each, of which kind 0 is not done.
PUBLIC void cnnjax_decode_resized(long count, const uint8_t* const* files, const long* sizes, const Inflater* inflater, long side,
                                  int pad, uint8_t* out, int32_t (*found)[3]) {
  for (long i = 0; i < count; i++) {
    int kind = 0;
    try {
      kind = decode(files[i], sizes[i], inflater);
      if (kind && !fit(out + 3 * side * side * i, side, pad)) kind = 0;
    } catch (const std::bad_alloc&) {
      kind = 0;
    }
    found[i][0] = kind, found[i][1] = kind ? image.height : 0, found[i][2] = kind ? image.width : 0;
    forget();
  }
}

// One file, of which `cnnjax_copy` in the same thread gives the pixels.
PUBLIC int cnnjax_decode(const uint8_t* file, long size, const Inflater* inflater, int32_t* found) try {
  const int kind = decode(file, size, inflater);
  if (kind) found[0] = image.height, found[1] = image.width;
  return kind;
} catch (const std::bad_alloc&) {
  return 0;
}

PUBLIC void cnnjax_copy(uint8_t* out) {
  const uint8_t* from = image.bytes.data();
  for (long i = 0; i < image.height * image.width; i++, from += 4, out += 3) std::memcpy(out, from, 3);
  forget();
}

// `height` rows of `width` pixels of three bytes -> `to_height` rows of `to_width`. 1 where it is not done.
PUBLIC int cnnjax_resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long to_height,
                         long to_width) try {
  uint8_t* to = image.room(height, width);
  for (long y = 0; y < height; y++)
    for (long x = 0; x < width; x++, to += 4) std::memcpy(to, source + y * stride + 3 * x, 3);
  const bool done = pixels::resize(image, out, 3 * to_width, to_height, to_width);
  forget();
  return !done;
} catch (const std::bad_alloc&) {
  return 1;
}

// By which pixels/__init__.py knows a library that is older than its sources.
PUBLIC const char* cnnjax_sources() { return CNNJAX_SOURCES; }
