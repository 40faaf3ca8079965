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

// Rows, each after a byte with its filter, to rows without, in the same memory: a row moves to before where it was read. A byte
// behind the last is read. False where a filter is none of the five.
bool unfilter(uint8_t* out, long height, long width) {
  const long bytes = 3 * width;
  const std::vector<uint8_t> zeros(bytes + 1);
  const uint8_t *above = zeros.data(), *rows = out;
  for (long y = 0; y < height; y++, above = out, out += bytes, rows += bytes) {
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
  whole = zlib.inflate(inflater, joined.data(), joined.size(), out, expected) && unfilter(out, height, width);
  if (joined.capacity() > LARGE) joined = {};
  return whole;
}

}  // namespace pixels
