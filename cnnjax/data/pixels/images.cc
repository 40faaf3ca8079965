// The functions that pixels/__init__.py calls.

#include <new>

#include "pixels.h"

namespace {

thread_local pixels::Pixels image;  // the last one of this thread

}  // namespace

// One PNG, of which `cnnjax_copy` in the same thread gives the pixels; 0: not sure to be decoded as by Pillow.
PUBLIC int cnnjax_decode(const uint8_t* file, long size, const pixels::Inflater* inflater, int32_t* found) try {
  if (!pixels::decode_png(file, size, *inflater, image)) return 0;
  found[0] = image.height, found[1] = image.width;
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}

PUBLIC void cnnjax_copy(uint8_t* out) {
  const uint8_t* from = image.bytes.data();
  for (long i = 0; i < image.height * image.width; i++, from += 4, out += 3) std::memcpy(out, from, 3);
  if (image.bytes.size() > pixels::LARGE) image = {};
}

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
