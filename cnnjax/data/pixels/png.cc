// PNG: the chunks of 8-bit RGB without interlace, and the filters undone.

#include "pixels.h"

namespace pixels {
namespace {

constexpr int ROWS = 4;  // that are unfiltered together, each one pixel behind the one above it
using Lanes = int16_t __attribute__((vector_size(32)));  // a pixel of each: red, green, blue and something
using Words = uint32_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));

INLINE Lanes widened(Words pixels) { return __builtin_convertvector((Bytes)pixels, Lanes); }

INLINE Words narrowed(Lanes lanes) { return (Words)__builtin_convertvector(lanes, Bytes); }

// What the filter of each row takes of the left, upper and upper left pixel: all bits or none. With the others zero, Paeth's
// choice among the three is what None, Sub and Up mean as well.
struct Taken {
  Lanes left{}, up{}, corner{}, average{};

  void set(int row, int filter) {
    for (int i = 4 * row; i < 4 * row + 4; i++) {
      left[i] = filter == 1 || filter >= 3 ? -1 : 0;
      up[i] = filter >= 2 ? -1 : 0;
      corner[i] = filter == 4 ? -1 : 0;
      average[i] = filter == 3 ? -1 : 0;
    }
  }
};

INLINE Lanes unfiltered(Lanes raw, Lanes left, Lanes up, Lanes corner, const Taken& taken) {
  left &= taken.left, up &= taken.up, corner &= taken.corner;
  // Paeth: the nearest to left + up - corner, in this order where two are as near. Comparisons alone, none of them on distances:
  // the next pixel waits for this one.
  const Lanes low = left < up ? left : up, high = left < up ? up : left, limit = 3 * corner - up - left;
  Lanes guess = high <= limit ? low : corner;
  guess = limit <= low ? high : guess;
  guess = taken.average ? (left + up) >> 1 : guess;
  return (raw + guess) & 255;
}

INLINE uint32_t load(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return word;
}

INLINE void store(uint32_t word, uint8_t* at) { std::memcpy(at, &word, 4); }

// Up to ROWS rows of `width` pixels: `rows`, of three bytes, each after a byte with its filter, go to `out`, of four; `above` is
// the row before `out`. A row waits for one pixel of the row above it, not for the whole row, so that four of the long chains of
// dependent additions run at once.
FOR_EACH_CPU void unfilter_rows(const uint8_t* rows, const uint8_t* above, uint8_t* out, long width, int count,
                                const Taken& filters) {
  Lanes done{}, up{};
  const Taken taken = filters;
  auto step = [&](uint32_t over, Words raw) __attribute__((always_inline)) {
    const Lanes corner = up;
    up = SHUFFLE(Lanes, widened(Words{over}), done, 0, 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27);
    done = unfiltered(widened(raw), done, up, corner, taken);
  };
  auto from = [&](int row, long i) { return rows + row * (3 * width + 1) + 3 * (i - row); };  // a fourth byte is there
  auto to = [&](int row, long i) { return out + 4 * (row * width + i - row); };
  auto edge = [&](long i) {  // some of the rows have no pixel here
    Words raw{};
    const int begin = std::max(i - width + 1, 0L), end = std::min<long>(count, i + 1);
    for (int row = begin; row < end; row++) raw[row] = load(from(row, i));
    step(i < width ? load(above + 4 * i) : 0, raw);
    const Words pixels = narrowed(done);
    for (int row = begin; row < end; row++) store(pixels[row], to(row, i));
  };
  long i = 0;
  if (count == ROWS) {
    for (; i < std::min<long>(ROWS - 1, width); i++) edge(i);
    for (; i < width; i++) {
      step(load(above + 4 * i), Words{load(from(0, i)), load(from(1, i)), load(from(2, i)), load(from(3, i))});
      const Words pixels = narrowed(done);
      for (int row = 0; row < ROWS; row++) store(pixels[row], to(row, i));
    }
  }
  for (; i < width + count - 1; i++) edge(i);
}

// False where a filter is none of the five.
bool unfilter(const uint8_t* rows, long height, long width, uint8_t* out, const uint8_t* above) {
  for (long y = 0; y < height; y += ROWS) {
    const int count = std::min<long>(ROWS, height - y);
    const uint8_t* first = rows + y * (3 * width + 1);
    Taken taken;
    for (int row = 0; row < count; row++) {
      const int filter = first[row * (3 * width + 1)];
      if (filter > 4) return false;
      taken.set(row, filter);
    }
    uint8_t* to = out + 4 * width * y;
    unfilter_rows(first + 1, above, to, width, count, taken);
    above = to + 4 * width * (count - 1);
  }
  return true;
}

// Bytes of a chunk that change no pixel, by its name; -1 of others.
long facts(uint32_t name) {
  struct Known {
    char name[5];
    long length;
  };
  for (const Known& known : {Known{"tIME", 7}, {"pHYs", 9}, {"gAMA", 4}, {"cHRM", 32}, {"sRGB", 1}, {"sBIT", 3}, {"bKGD", 6}})
    if (name == big32(reinterpret_cast<const uint8_t*>(known.name))) return known.length;
  return -1;
}

struct Stream {  // libdeflate's state, of one thread
  void* state = nullptr;
  void (*close)(void*) = nullptr;
  ~Stream() {
    if (state) close(state);
  }
};

}  // namespace

bool decode_png(const uint8_t* data, long size, const Inflater& inflater, Pixels& out) {
  static thread_local std::vector<uint8_t> joined, rows, zeros;
  static thread_local Stream stream;
  static const uint8_t header[16] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R'};
  static const uint8_t kind[5] = {8, 2, 0, 0, 0};
  if (size < 33 || std::memcmp(data, header, 16) || std::memcmp(data + 24, kind, 5)) return false;
  const long width = big32(data + 16), height = big32(data + 20);
  if (!width || !height || width > MAX_PIXELS || height > MAX_PIXELS || width * height > MAX_PIXELS) return false;
  const uint8_t* compressed = nullptr;
  long length = 0, at = 8;
  bool ended = false;
  for (;;) {
    if (at + 12 > size) return false;
    const long bytes = big32(data + at);
    if (bytes > size - at - 12) return false;
    const uint8_t *content = data + at + 8, *after = content + bytes;
    const uint32_t name = big32(data + at + 4);
    if (inflater.crc32(0, content - 4, bytes + 4) != big32(after)) return false;
    if (name == 0x49444154) {  // IDAT
      if (ended || !bytes) return false;
      if (length) {  // more than one
        if (compressed != joined.data()) {
          room(joined, size);
          std::memcpy(joined.data(), compressed, length);
          compressed = joined.data();
        }
        std::memcpy(joined.data() + length, content, bytes);
      } else {
        compressed = content;
      }
      length += bytes;
    } else if (name == 0x49454E44) {  // IEND
      if (after + 4 != data + size || !compressed) return false;
      break;
    } else {
      if (at != 8 && facts(name) != bytes) return false;
      ended = compressed;
    }
    at += bytes + 12;
  }
  if (!stream.state) stream.state = inflater.open(), stream.close = inflater.close;
  const long expected = (3 * width + 1) * height;
  if (expected / 1100 > length) return false;  // more than deflate can give: no memory for mere claims
  room(rows, expected + 4);
  if (zeros.size() < size_t(4 * width)) zeros.resize(4 * width);
  size_t found = 0;
  const bool whole = stream.state && !inflater.inflate(stream.state, compressed, length, rows.data(), expected, &found) &&
                     long(found) == expected && unfilter(rows.data(), height, width, out.room(height, width), zeros.data());
  if (rows.size() > LARGE) rows = {};
  if (joined.size() > LARGE) joined = {};
  return whole;
}

}  // namespace pixels
