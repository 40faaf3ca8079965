// The functions that pixels/__init__.py calls.

#include <cmath>
#include <new>

#include "pixels.h"

namespace {

thread_local pixels::Pixels image;  // the last one of this thread

void copy(uint8_t* out) {
  const uint8_t* from = image.bytes.data();
  for (long i = 0; i < image.height * image.width; i++, from += 4, out += 3) std::memcpy(out, from, 3);
  if (image.bytes.size() > pixels::LARGE) image.bytes = {};
}

// The last image to `out`, uint8 [side, side, 3], as images.resize does.
void fit(uint8_t* out, long side, bool pad) {
  static thread_local std::vector<uint8_t> kept;
  const long height = image.height, width = image.width;
  uint8_t* plain = pixels::room(kept, 3 * height * width);
  copy(plain);
  long to_height = side, to_width = side;
  if (pad) {
    const double scale = double(side) / std::max(height, width);
    to_height = std::max(std::nearbyint(height * scale), 1.0), to_width = std::max(std::nearbyint(width * scale), 1.0);
    std::memset(out, 0, 3 * side * side);
    out += 3 * ((side - to_height) / 2 * side + (side - to_width) / 2);
  }
  pixels::resize(plain, 3 * width, height, width, out, 3 * side, to_height, to_width);
  if (kept.size() > pixels::LARGE) kept = {};
}

}  // namespace

// `count` files to `out`, uint8 [count, side, side, 3]; `found` gets height and width of each, 0 of those that are not done.
PUBLIC void cnnjax_decode_resized(long count, const uint8_t* const* files, const long* sizes, const pixels::Inflater* inflater,
                                  long side, int pad, uint8_t* out, int32_t (*found)[2]) {
  for (long i = 0; i < count; i++) {
    found[i][0] = found[i][1] = 0;
    try {
      if (!sizes[i] || !pixels::decode_png(files[i], sizes[i], *inflater, image)) continue;
      fit(out + 3 * side * side * i, side, pad);
      found[i][0] = image.height, found[i][1] = image.width;
    } catch (const std::bad_alloc&) {
    }
  }
}

// One PNG, of which `cnnjax_copy` in the same thread gives the pixels; 0: not sure to be decoded as by Pillow.
PUBLIC int cnnjax_decode(const uint8_t* file, long size, const pixels::Inflater* inflater, int32_t* found) try {
  if (!pixels::decode_png(file, size, *inflater, image)) return 0;
  found[0] = image.height, found[1] = image.width;
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}

PUBLIC void cnnjax_copy(uint8_t* out) { copy(out); }

// `height` rows of `width` pixels of three bytes -> `to_height` rows of `to_width`. 1 where memory is missing.
PUBLIC int cnnjax_resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long out_stride,
                         long to_height, long to_width) try {
  pixels::resize(source, stride, height, width, out, out_stride, to_height, to_width);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// By which pixels/__init__.py knows a library that is older than its sources.
PUBLIC const char* cnnjax_sources() { return CNNJAX_SOURCES; }
