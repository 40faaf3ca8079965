// The functions that pixels/__init__.py calls.

#include <new>

#include "pixels.h"

// `count` PNG files that begin as 8-bit RGB of `shapes`, height and width, to `outs`; `done` says which are decoded as by Pillow.
PUBLIC void cnnjax_decode(long count, const uint8_t* const* files, const long* sizes, const pixels::Inflater* inflater,
                          const long (*shapes)[2], uint8_t* const* outs, bool* done) {
  for (long i = 0; i < count; i++) try {
      done[i] = pixels::decode_png(files[i], sizes[i], *inflater, shapes[i][0], shapes[i][1], outs[i]);
    } catch (const std::bad_alloc&) {
      done[i] = false;
    }
}

// `height` rows of `width` pixels of three bytes -> `to_height` rows of `to_width`. 1 where memory is missing.
PUBLIC int cnnjax_resize(const uint8_t* source, long stride, long height, long width, uint8_t* out, long out_stride,
                         long to_height, long to_width) try {
  pixels::resize(source, stride, height, width, out, out_stride, to_height, to_width);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// Statistics of `count` images of one size that follow each other, 18 of each. 1 where memory is missing.
PUBLIC int cnnjax_statistics(const uint8_t* images, long count, long height, long width, double* out) try {
  for (long i = 0; i < count; i++) pixels::statistics(images + 3 * height * width * i, height, width, out + 18 * i);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// By which pixels/__init__.py knows a library that is older than its sources.
PUBLIC const char* cnnjax_sources() { return CNNJAX_SOURCES; }
