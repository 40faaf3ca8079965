#include "conv.h"

#include <array>
#include <utility>
#include <vector>

#include "vector.h"
#include "winograd.h"

namespace cnnjax {
namespace {

// Partial sums of all groups of images together, in numbers.
constexpr int64_t kPartialSums = int64_t(1) << 24;

// Rows in a band, whole tiles: about 400 kB of `wide` values each, so that a band stays in the second-level cache.
int64_t band(int64_t wide, int64_t rows) {
  const int64_t fit = std::max<int64_t>(8, 96 * 1024 / wide), bands = (rows + fit - 1) / fit;
  return ((rows + bands - 1) / bands + 3) / 4 * 4;
}

// How the convolution is cut: no tiles, or Tiles2, Tiles4.
struct NoTiles {
  static constexpr int kOut = 1, kFrequencies = 9;
};
template <typename T>
constexpr bool kTiled = T::kOut > 1;

// Outputs of a tile in each direction. Where channels fill vectors, tiles save more than they cost; larger ones need many
// registers.
int64_t tile_size(const Conv& s) {
  const int64_t rows = s.conv_rows(), columns = s.conv_columns();
  if (s.ci % kBlock || s.bytes || std::min(rows, columns) < 4) return 1;
  const int64_t products4 = Tiles4<4>::kFrequencies * tiles_in<Tiles4<4>>(rows) * tiles_in<Tiles4<4>>(columns);
  const int64_t products2 = Tiles2::kFrequencies * tiles_in<Tiles2>(rows) * tiles_in<Tiles2>(columns);
  return kLanes == 16 && std::min(rows, columns) >= 8 && 5 * products4 <= 4 * products2 ? 4 : 2;
}

template <typename M>
int64_t words_in_kernel_row(int64_t channels) {
  return (3 * channels + M::kPack - 1) / M::kPack;
}

// scale * w as words [block][3][taps of a kernel row][16]; flipped: for the gradient of the input, with zeros where ci is
// no multiple of 16.
template <typename M>
std::vector<float> pack_weights(const float* w, int64_t ci, int64_t co, float scale, bool flipped) {
  const int64_t in = flipped ? co : ci, out = flipped ? ci : co, words = words_in_kernel_row<M>(in);
  std::vector<float> packed(blocks(out) * 3 * words * kBlock);
  float* word = packed.data();
  auto fetch = [&](int64_t block, int64_t row, int64_t k, float* values) {
    std::fill_n(values, kBlock, 0.f);
    if (k >= 3 * in) return;
    const int64_t tap = row * 3 + k / in, i = k % in, o = block * kBlock, count = std::min<int64_t>(kBlock, out - o);
    const float* from = flipped ? w + ((8 - tap) * ci + o) * co + i : w + (tap * ci + i) * co + o;
    for (int64_t j = 0; j < count; ++j) values[j] = scale * from[flipped ? j * co : j];
  };
  for (int64_t block = 0; block < blocks(out); ++block)
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t k = 0; k < words; ++k, word += kBlock) {
        fetch(block, row, k * M::kPack, word);
        if constexpr (M::kPack == 2) {
          float second[kBlock];
          fetch(block, row, k * 2 + 1, second);
          for (int j = 0; j < kBlock; ++j) {
            const uint32_t pair = bfloat16_bits(word[j]) | bfloat16_bits(second[j]) << 16;
            std::memcpy(word + j, &pair, 4);
          }
        }
      }
  return packed;
}

// scale * w as words [block][kIn rows of frequencies][inputs][kIn][16]; flipped as above.
template <typename M, typename T>
std::vector<float> pack_tiles(const float* w, int64_t ci, int64_t co, float scale, bool flipped) {
  const int64_t in = flipped ? co : ci, out = flipped ? ci : co, words = in / M::kPack;
  std::vector<float> packed(T::kFrequencies * words * out);
  for (int64_t o = 0; o < out; o += kLanes)
    for (int64_t i = 0; i < in; i += M::kPack) {
      Vec tile[M::kPack][T::kFrequencies];
      for (int p = 0; p < M::kPack; ++p) {
        auto kernel = [&](int row, int column) {
          if (!flipped) return scale * load(w + ((row * 3 + column) * ci + i + p) * co + o);
          Vec values;
          for (int j = 0; j < kLanes; ++j) values[j] = scale * w[((8 - row * 3 - column) * ci + o + j) * co + i + p];
          return values;
        };
        kernel_tile<T>(kernel, [&](int frequency, Vec word) { tile[p][frequency] = word; });
      }
      for (int f = 0; f < T::kFrequencies; ++f) {
        const int64_t word = ((o / kBlock * T::kIn + f / T::kIn) * words + i / M::kPack) * T::kIn + f % T::kIn;
        char* to = reinterpret_cast<char*>(packed.data() + word * kBlock + o % kBlock);
        store_pairs<M>(to, tile[0][f], tile[M::kPack - 1][f]);
      }
    }
  return packed;
}

// Rows [begin, end) of image n with their padding, as taps or as pairs.
template <typename M, bool kPairs>
void load_rows(const Conv& s, const void* x, int64_t n, int64_t begin, int64_t end, char* dst) {
  constexpr bool kRounded = M::kPack == 2;
  const int64_t edge = s.padding * s.ci, row = s.w * s.ci, wide = s.padded_row();
  const int64_t bytes = kPairs ? wide * 4 : wide * 4 / M::kPack;
  float* line = kRounded ? scratch(Scratch::kLine, wide + s.ci) : nullptr;
  for (int64_t r = begin; r < end; ++r, dst += bytes) {
    if (r < 0 || r >= s.h) {
      std::memset(dst, 0, bytes);
      continue;
    }
    if (!kRounded) line = reinterpret_cast<float*>(dst);
    const int64_t from = (n * s.h + r) * row;
    std::fill_n(line, edge, 0.f);
    if (s.bytes)
      for (int64_t i = 0; i < row; ++i) line[edge + i] = static_cast<const uint8_t*>(x)[from + i];
    else
      std::memcpy(line + edge, static_cast<const float*>(x) + from, row * sizeof(float));
    std::fill_n(line + edge + row, kRounded ? edge + s.ci : edge, 0.f);
    if (kRounded) kPairs ? to_pairs<M>(line, line + s.ci, wide, dst) : to_taps<M>(line, wide, dst);
  }
  std::memset(dst, 0, 8);  // where the number of taps is odd, the last word has one value from beyond
}

// kPixels pixels x 16 channels, see docs/kernels.md. x: the window of the first pixel; kChannels: 0 for any number.
template <typename M, int kChannels, int kPixels>
void conv_tile(const char* x, int64_t x_row, int64_t channels, const float* w, const float* bias, float* y,
               int64_t y_pixel) {
  const int64_t ci = kChannels ? kChannels : channels, x_pixel = ci * 4 / M::kPack;
  const int64_t words = words_in_kernel_row<M>(ci);
  Vec sum[kPixels][kVecs];
  UNROLL for (int p = 0; p < kPixels; ++p)
    UNROLL for (int v = 0; v < kVecs; ++v) sum[p][v] = bias ? load(bias + v * kLanes) : Vec{};
  for (int row = 0; row < 3; ++row, x += x_row)
    for (int64_t k = 0; k < words; ++k, w += kBlock) {
      Vec weight[kVecs];
      UNROLL for (int v = 0; v < kVecs; ++v) weight[v] = load(w + v * kLanes);
      UNROLL for (int p = 0; p < kPixels; ++p)
        UNROLL for (int v = 0; v < kVecs; ++v)
          sum[p][v] = M::multiply_add(sum[p][v], weight[v], x + p * x_pixel + 4 * k);
    }
  UNROLL for (int p = 0; p < kPixels; ++p)
    UNROLL for (int v = 0; v < kVecs; ++v)
      store(y + p * y_pixel + v * kLanes, bias ? relu(sum[p][v]) : sum[p][v]);
}

using ConvTile = void (*)(const char*, int64_t, int64_t, const float*, const float*, float*, int64_t);

template <typename M, int kChannels, int... kIndex>
const ConvTile* tiles_of(std::integer_sequence<int, kIndex...>) {
  static constexpr ConvTile table[] = {conv_tile<M, kChannels, kIndex + 1>...};
  return table;  // [p - 1]: of p pixels
}

// With the number of channels known, offsets are part of the instructions.
template <typename M>
const ConvTile* choose_tiles(int64_t channels) {
  const auto sizes = std::make_integer_sequence<int, kTilePixels>{};
  switch (channels) {
    case 3: return tiles_of<M, 3>(sizes);
    case 16: return tiles_of<M, 16>(sizes);
    case 32: return tiles_of<M, 32>(sizes);
    case 64: return tiles_of<M, 64>(sizes);
    default: return tiles_of<M, 0>(sizes);
  }
}

// `width` pixels of a row, `out` channels (whole blocks). With a bias comes ReLU.
template <typename M>
void conv_row(const ConvTile* tiles, const char* x, int64_t x_row, int64_t ci, const float* w, int64_t out,
              const float* bias, int64_t width, float* y) {
  const int64_t count = (width + kTilePixels - 1) / kTilePixels, block_words = 3 * words_in_kernel_row<M>(ci) * kBlock;
  for (int64_t block = 0; block < out; block += kBlock, w += block_words)
    for (int64_t t = 0; t < count; ++t) {  // of nearly equal width
      const int64_t q = width * t / count, pixels = width * (t + 1) / count - q;
      tiles[pixels - 1](x + q * ci * 4 / M::kPack, x_row, ci, w, bias ? bias + block : nullptr, y + q * out + block, out);
    }
}

using TileProducts = void (*)(const char*, int64_t, int64_t, const float*, int64_t, float*);

template <typename M, typename T, int... kIndex>
const TileProducts* products_of(std::integer_sequence<int, kIndex...>) {
  static constexpr TileProducts table[] = {tile_products<M, T, kIndex + 1>...};
  return table;  // [t - 1]: of t tiles
}

// kOut rows of the convolution in `count` tiles, from weights of pack_tiles: calls put(tile, channel, outputs) as output_tiles
// does. A few tiles at a time, so that what is computed on the way stays in the first-level cache.
template <typename M, typename T, typename Put>
void conv_rows(const Strip<T>& x, int64_t ci, const float* w, int64_t out, const float* bias, int64_t count, const Put& put) {
  constexpr int kIn = T::kIn, kOut = T::kOut, kAtMost = kProductTiles<T>;
  const TileProducts* products = products_of<M, T>(std::make_integer_sequence<int, kAtMost>{});
  const int64_t parts = (count + kCachedTiles<T> - 1) / kCachedTiles<T>, most = (count + parts - 1) / parts;
  const int64_t tile = kIn * kBlock * 4 / M::kPack, row_words = kIn * ci / M::kPack * kBlock;
  char* v = scratch_bytes(Scratch::kTiles, most * tile * kIn * blocks(ci));
  float* sums = scratch(Scratch::kSums, kIn * kOut * most * kBlock);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = count * part / parts, some = count * (part + 1) / parts - first;
    const int64_t turns = (some + kAtMost - 1) / kAtMost;
    product_tiles<M, T>(x, ci, kOut * first, some, v);
    const float* words = w;
    for (int64_t block = 0; block < out; block += kBlock) {
      for (int64_t row = 0; row < kIn; ++row, words += row_words)
        for (int64_t turn = 0; turn < turns; ++turn) {
          const int64_t t = some * turn / turns, tiles = some * (turn + 1) / turns - t;
          products[tiles - 1](v + (row * blocks(ci) * some + t) * tile, some, ci, words, some,
                              sums + (row * kOut * some + t) * kBlock);
        }
      output_tiles<T>(sums, some, bias ? bias + block : nullptr, [&](int64_t t, int64_t c, const Vec(*y)[kOut]) {
        put(first + t, block + c, y);
      });
    }
  }
}

// The outputs of conv_rows as rows of `width` pixels: row(0), ... of `rows`.
template <int kOut, typename Row>
auto put_rows(const Row& row, int64_t rows, int64_t width, int64_t out) {
  std::array<float*, kOut> at{};
  for (int i = 0; i < std::min<int64_t>(kOut, rows); ++i) at[i] = row(i);
  return [=](int64_t t, int64_t c, const Vec(*y)[kOut]) {
    const int64_t from = kOut * t * out + c, columns = width - kOut * t;
    UNROLL for (int i = 0; i < kOut; ++i) {
      if (!at[i]) return;
      UNROLL for (int j = 0; j < kOut; ++j)
        if (j < columns) store(at[i] + from + j * out, y[i][j]);
    }
  };
}

// 2x2 maximum of two rows that have been through ReLU. At a tie the gradient goes up, then to the left: as where first
// the rows and then the columns are compared.
void pool_four(Vec v0, Vec v1, Vec v2, Vec v3, float* y, uint8_t* code) {
  const Vec left = larger(v0, v2), right = larger(v1, v3), most = larger(left, right);
  const Vec total = (v0 + v1) + (v2 + v3);  // nothing is negative: NaN where one of them is
  const Vec pooled = total == total ? most : total;
  store(y, pooled);
  if (!code) return;
  const IntVec in_left = 2 + 2 * (v0 >= v2), in_right = 3 + 2 * (v1 >= v3);  // true is -1
  const IntVec best = left >= right ? in_left : in_right;
  store_codes(code, pooled > Vec{} ? best : IntVec{} + 4);
}

void pool_row(const float* upper, const float* lower, int64_t co, int64_t stride, int64_t width, float* y, uint8_t* code) {
  for (int64_t q = 0; q < width; ++q)
    for (int64_t c = 0; c < co; c += kLanes, y += kLanes) {
      const int64_t i = q * stride * co + c;
      pool_four(load(upper + i), load(upper + i + co), load(lower + i), load(lower + i + co), y, code);
      if (code) code += kLanes;
    }
}

// kPooled windows of a pool of stride 2: of each the four sums of conv_tile, in registers all together.
template <typename M, int kChannels, int kPooled>
void pooled_tile(const char* x, int64_t x_row, int64_t channels, const float* w, const float* bias, int64_t co, float* y,
                 uint8_t* code) {
  const int64_t ci = kChannels ? kChannels : channels, x_pixel = ci * 4 / M::kPack, words = words_in_kernel_row<M>(ci);
  Vec sum[2][2 * kPooled];
  UNROLL for (int p = 0; p < 2 * kPooled; ++p) sum[0][p] = sum[1][p] = load(bias);
  for (int row = 0; row < 3; ++row, x += x_row)
    for (int64_t k = 0; k < words; ++k, w += kBlock) {
      const Vec weight = load(w);
      UNROLL for (int lower = 0; lower < 2; ++lower)
        UNROLL for (int p = 0; p < 2 * kPooled; ++p)
          sum[lower][p] = M::multiply_add(sum[lower][p], weight, x + lower * x_row + p * x_pixel + 4 * k);
    }
  UNROLL for (int p = 0; p < kPooled; ++p) {
    const Vec v0 = relu(sum[0][2 * p]), v1 = relu(sum[0][2 * p + 1]), v2 = relu(sum[1][2 * p]), v3 = relu(sum[1][2 * p + 1]);
    pool_four(v0, v1, v2, v3, y + p * co, code ? code + p * co : nullptr);
  }
}

using PooledTile = void (*)(const char*, int64_t, int64_t, const float*, const float*, int64_t, float*, uint8_t*);

template <typename M, int kChannels, int... kIndex>
const PooledTile* pooled_tiles_of(std::integer_sequence<int, kIndex...>) {
  static constexpr PooledTile table[] = {pooled_tile<M, kChannels, kIndex + 1>...};
  return table;  // [p - 1]: of p windows
}

// A row of `columns` pooled values, where a vector is a block.
template <typename M>
void pooled_row(const char* x, int64_t x_row, int64_t ci, const float* w, int64_t out, const float* bias, int64_t columns,
                float* y, uint8_t* code) {
  constexpr int kMost = kTilePixels / 2;
  const auto sizes = std::make_integer_sequence<int, kMost>{};
  const PooledTile* tiles = ci == 3 ? pooled_tiles_of<M, 3>(sizes) : pooled_tiles_of<M, 0>(sizes);
  const int64_t count = (columns + kMost - 1) / kMost, block_words = 3 * words_in_kernel_row<M>(ci) * kBlock;
  for (int64_t block = 0; block < out; block += kBlock, w += block_words)
    for (int64_t t = 0; t < count; ++t) {  // of nearly equal width
      const int64_t q = columns * t / count, windows = columns * (t + 1) / count - q, to = q * out + block;
      tiles[windows - 1](x + 2 * q * ci * 4 / M::kPack, x_row, ci, w, bias + block, out, y + to, code ? code + to : nullptr);
    }
}

// The rows of image n that tiles from row r on look at.
template <typename T>
Strip<T> image_strip(const Conv& s, const float* x, int64_t n, int64_t r, const float* zeros) {
  auto row = [&](int64_t k) {
    const int64_t i = r - s.padding + k;
    return i < 0 || i >= s.h ? zeros : x + (n * s.h + i) * s.w * s.ci;
  };
  Strip<T> strip{{}, {}, s.padding, s.w};
  for (int k = 0; k < T::kIn; ++k) strip.rows[k] = row(k);
  for (int k = 0; k < T::kOut; ++k) strip.next[k] = row(T::kIn + k);
  return strip;
}

float* zero_row(int64_t values) {
  float* zeros = scratch(Scratch::kInput, values);
  std::fill_n(zeros, values, 0.f);
  return zeros;
}

template <typename M, typename T>
void forward(const Pool& pool, const Conv& s, const void* x, const float* w, const float* b, float* y, uint8_t* code) {
  std::vector<float> weights;
  if constexpr (kTiled<T>) weights = pack_tiles<M, T>(w, s.ci, s.co, s.scale, false);
  else weights = pack_weights<M>(w, s.ci, s.co, s.scale, false);
  const ConvTile* tiles = choose_tiles<M>(s.ci);
  const int64_t stride = std::max<int64_t>(1, s.pool_stride), window = s.pool_stride ? 2 : 1;
  const int64_t rows = s.rows(), columns = s.columns(), y_row = columns * s.co, x_row = s.padded_row() * 4 / M::kPack;
  const int64_t width = (columns - 1) * stride + window;  // columns of the convolution that somebody looks at
  const int64_t height = band(s.padded_row() * stride, rows), bands = (rows + height - 1) / height;
  const bool in_place = M::kPack == 1 && !s.padding && !s.bytes;

  parallel_for(pool, s.n * bands, [&](int64_t job) {
    const int64_t n = job / bands, y0 = job % bands * height, y1 = std::min(rows, y0 + height);
    const int64_t r0 = y0 * stride, r1 = (y1 - 1) * stride + window;  // rows of the convolution
    const float* zeros = kTiled<T> ? zero_row(s.w * s.ci) : nullptr;
    const char* in = static_cast<const char*>(x) + (n * s.h + r0) * x_row;
    if (!in_place && !kTiled<T>) {
      char* copy = scratch_bytes(Scratch::kInput, x_row * (r1 - r0 + 2) + s.ci * 4);
      load_rows<M, false>(s, x, n, r0 - s.padding, r1 - s.padding + 2, copy);
      in = copy;
    }
    constexpr int64_t kRing = 2 * T::kOut;  // the last rows
    float* ring = s.pool_stride ? scratch(Scratch::kConvolved, kRing * width * s.co) : nullptr;
    auto row = [&](int64_t r) { return ring ? ring + r % kRing * width * s.co : y + (n * rows + r) * y_row; };
    for (int64_t r = r0; r < r1; r += T::kOut) {
      const int64_t end = std::min(r1, r + T::kOut);
      if constexpr (kTiled<T>) {
        const Strip<T> strip = image_strip<T>(s, static_cast<const float*>(x), n, r, zeros);
        const int64_t count = tiles_in<T>(width);
        if (s.pool_stride == 2) {  // a tile is what pools look at
          const int64_t first = (n * rows + r / 2) * y_row, lines = (end - r) / 2;
          conv_rows<M>(strip, s.ci, weights.data(), s.co, b, count, [=](int64_t t, int64_t c, const Vec(*v)[T::kOut]) {
            constexpr int kPools = T::kOut / 2;
            const int64_t from = first + kPools * t * s.co + c, left = columns - kPools * t;
            UNROLL for (int i = 0; i < kPools; ++i)
              UNROLL for (int j = 0; j < kPools; ++j) {
                const int64_t to = from + i * y_row + j * s.co;
                const Vec *upper = v[2 * i] + 2 * j, *lower = v[2 * i + 1] + 2 * j;
                if (i < lines && j < left)
                  pool_four(upper[0], upper[1], lower[0], lower[1], y + to, code ? code + to : nullptr);
              }
          });
          continue;
        }
        conv_rows<M>(strip, s.ci, weights.data(), s.co, b, count,
                     put_rows<T::kOut>([&](int64_t i) { return row(r + i); }, end - r, width, s.co));
      } else {
        if constexpr (kVecs == 1)
          if (s.pool_stride == 2) {
            const int64_t to = (n * rows + r / 2) * y_row;
            if ((r - r0) % 2 == 0)
              pooled_row<M>(in + (r - r0) * x_row, x_row, s.ci, weights.data(), s.co, b, columns, y + to,
                            code ? code + to : nullptr);
            continue;
          }
        conv_row<M>(tiles, in + (r - r0) * x_row, x_row, s.ci, weights.data(), s.co, b, width, row(r));
      }
      for (int64_t lower = std::max(r, r0 + 1); s.pool_stride && lower < end; ++lower) {
        const int64_t upper = lower - r0 - 1, o = (n * rows + y0 + upper / stride) * y_row;
        if (upper % stride == 0) pool_row(row(lower - 1), row(lower), s.co, stride, columns, y + o, code ? code + o : nullptr);
      }
    }
  });
}

// The gradient before ReLU of row r of the convolution, from what belongs to the row's image.
void unpool_row(const Conv& s, int64_t r, const float* g, const float* y, const uint8_t* code, float* dz) {
  const int64_t width = s.conv_columns(), rows = s.rows(), columns = s.columns(), co = s.co;
  if (!s.pool_stride) {
    const int64_t o = r * width * co;
    for (int64_t i = 0; i < width * co; i += kLanes) store(dz + i, keep(load(y + o + i) > Vec{}, load(g + o + i)));
    return;
  }
  auto sent = [&](int64_t py, int64_t px, int64_t c, int position) {  // by window (py, px)
    const int64_t o = (py * columns + px) * co + c;
    return select(g + o, code + o, position);
  };
  if (s.pool_stride == 2) {
    for (int64_t q = 0; q < width; ++q)
      for (int64_t c = 0; c < co; c += kLanes, dz += kLanes)
        store(dz, r / 2 < rows && q / 2 < columns ? sent(r / 2, q / 2, c, (r & 1) * 2 + (q & 1)) : Vec{});
    return;
  }
  for (int64_t q = 0; q < width; ++q)
    for (int64_t c = 0; c < co; c += kLanes, dz += kLanes) {
      Vec sum{};
      for (int dy = 0; dy < 2; ++dy) {
        if (r - dy < 0 || r - dy >= rows) continue;
        if (q < columns) sum += sent(r - dy, q, c, dy * 2);
        if (q > 0) sum += sent(r - dy, q - 1, c, dy * 2 + 1);
      }
      store(dz, sum);
    }
}

// The same for a pool of stride 2, as pairs of pixels, which are the two of a window; sum[c] += all of them.
template <typename M>
void unpool_pairs(const Conv& s, int64_t r, const float* g, const uint8_t* code, int64_t pairs, char* dz, float* sum) {
  const int64_t columns = r / 2 < s.rows() ? s.columns() : 0, position = r % 2 * 2;
  for (int64_t c = 0; c < s.co; c += kLanes) {
    Vec total{};
    for (int64_t q = 0; q < pairs; ++q) {
      const int64_t o = (r / 2 * s.columns() + q) * s.co + c;
      const Vec left = q < columns ? select(g + o, code + o, position) : Vec{};
      const Vec right = q < columns ? select(g + o, code + o, position + 1) : Vec{};
      total += left + right;
      store_pairs<M>(dz + (q * s.co + c) * 4, left, right);
    }
    store(sum + c, load(sum + c) + total);
  }
}

// The gradient of kTaps taps x 16 channels in each of kRows kernel rows, summed over a band.
template <typename M, int kChannels, int kTaps, int kRows>
void weight_tile(const char* x, int64_t x_row, int64_t channels, const char* dz, int64_t z_row, int64_t co, int64_t rows,
                 int64_t steps, float* dw) {
  const int64_t x_step = (kChannels ? kChannels : channels) * 4 * M::kPack;  // to the next pixel, or pair of pixels
  Vec sum[kRows * kTaps][kVecs] = {};  // of this band alone: short chains of additions round less
  for (int64_t r = 0; r < rows; ++r, x += x_row, dz += z_row) {
    const char *x_now = x, *z_now = dz;
    for (int64_t q = 0; q < steps; ++q, x_now += x_step, z_now += co * 4) {
      Vec z[kVecs];
      UNROLL for (int v = 0; v < kVecs; ++v) z[v] = load(reinterpret_cast<const float*>(z_now) + v * kLanes);
      UNROLL for (int t = 0; t < kRows * kTaps; ++t)
        UNROLL for (int v = 0; v < kVecs; ++v)
          sum[t][v] = M::multiply_add(sum[t][v], z[v], x_now + t / kTaps * x_row + t % kTaps * 4);
    }
  }
  UNROLL for (int t = 0; t < kRows * kTaps; ++t)
    UNROLL for (int v = 0; v < kVecs; ++v) {
      float* to = dw + t * kBlock + v * kLanes;
      store(to, load(to) + sum[t][v]);
    }
}

// All taps of a kernel row and a block, in tiles of at most kTaps.
template <typename M, int kChannels, int kTaps = kTileTaps>
void weight_taps(const char* x, int64_t x_row, int64_t ci, const char* dz, int64_t z_row, int64_t co, int64_t rows,
                 int64_t steps, int64_t taps, float* dw) {
  for (; taps >= kTaps; taps -= kTaps, x += kTaps * 4, dw += kTaps * kBlock)
    weight_tile<M, kChannels, kTaps, 1>(x, x_row, ci, dz, z_row, co, rows, steps, dw);
  if constexpr (kTaps > 1)
    if (taps) weight_taps<M, kChannels, kTaps / 2>(x, x_row, ci, dz, z_row, co, rows, steps, taps, dw);
}

// dw as [block][3][3 * ci][16].
template <typename M>
void weight_band(const char* x, int64_t x_row, int64_t ci, const char* dz, int64_t z_row, int64_t co, int64_t rows,
                 int64_t steps, float* dw) {
  const auto taps = ci == 16   ? weight_taps<M, 16>
                    : ci == 32 ? weight_taps<M, 32>
                    : ci == 64 ? weight_taps<M, 64>
                               : weight_taps<M, 0>;
  for (int64_t block = 0; block < co; block += kBlock, dz += kBlock * 4) {
    if constexpr (kTileTaps >= 24)
      if (ci == 3) {  // colours: all 27 taps at once
        weight_tile<M, 3, 9, 3>(x, x_row, ci, dz, z_row, co, rows, steps, dw);
        dw += 27 * kBlock;
        continue;
      }
    for (int row = 0; row < 3; ++row, dw += 3 * ci * kBlock)
      taps(x + row * x_row, x_row, ci, dz, z_row, co, rows, steps, 3 * ci, dw);
  }
}

// The same in tiles, from the strip(k) of x and the rows(k) of dz of the k-th of `strips` rows of tiles: dw as
// [block][frequencies][ci][16].
template <typename M, typename T, typename Strips, typename Rows>
void weight_rows(const Strips& strip, const Rows& rows, int64_t ci, int64_t co, int64_t strips, int64_t width, float* dw) {
  constexpr int kTaps = kTileTaps < kBlock ? 4 : kBlock;
  constexpr int64_t kTiles = 2048 / T::kFrequencies;  // sums are kept in registers for so many
  const int64_t tiles = tiles_in<T>(width), words = (tiles + M::kPack - 1) / M::kPack;
  const int64_t most = std::max<int64_t>(1, kTiles / tiles);
  // An odd number of lines, so that frequencies do not compete for places in the first-level cache.
  auto odd = [](int64_t bytes) { return (bytes / 64 | 1) * 64; };
  const int64_t v_step = odd(most * words * ci * 4), z_step = odd(most * words * co * 4);
  char* v = scratch_bytes(Scratch::kTiles, T::kFrequencies * v_step);
  char* z = scratch_bytes(Scratch::kSums, T::kFrequencies * z_step);
  for (int64_t first = 0; first < strips; first += most) {
    const int64_t last = std::min(strips, first + most), steps = (last - first) * words;
    for (int64_t k = first; k < last; ++k) {
      const int64_t at = (k - first) * words * 4;
      weight_tiles<M>(strip(k), ci, tiles, v + at * ci, v_step);
      gradient_tiles<M, T>(rows(k).data(), width, co, z + at * co, z_step);
    }
    float* to = dw;
    for (int64_t block = 0; block < co; block += kBlock)
      for (int f = 0; f < T::kFrequencies; ++f)
        for (int64_t i = 0; i < ci; i += kTaps, to += kTaps * kBlock)
          weight_tile<M, 0, kTaps, 1>(v + f * v_step + i * 4, 0, ci / M::kPack, z + f * z_step + block * 4, 0, co, 1, steps,
                                      to);
  }
}

// sum[c] += row[q][c] over all q, in four chains that do not wait for each other.
void add_columns(const float* row, int64_t width, int64_t co, float* sum) {
  for (int64_t c = 0; c < co; c += kLanes) {
    Vec part[4] = {};
    int64_t q = 0;
    for (; q + 4 <= width; q += 4)
      UNROLL for (int j = 0; j < 4; ++j) part[j] += load(row + (q + j) * co + c);
    for (; q < width; ++q) part[0] += load(row + q * co + c);
    store(sum + c, load(sum + c) + ((part[0] + part[1]) + (part[2] + part[3])));
  }
}

template <typename M, typename T>
void backward(const Pool& pool, const Conv& s, const void* x, const float* w, const void* kept, const float* g, float* dw,
              float* db, float* dx) {
  constexpr bool rounded = M::kPack == 2 && !kTiled<T>;  // tiles round what they have transformed
  const int64_t taps = 9 * s.ci, out = blocks(s.ci) * kBlock;
  const bool halved = s.pool_stride == 2;  // then an odd row or column at the end has no gradient
  const int64_t height = halved ? 2 * s.rows() : s.conv_rows(), width = s.conv_columns();
  const int64_t z_padding = dx ? 2 - s.padding : 0;          // of the convolution that gives dx
  const int64_t steps = (width + M::kPack - 1) / M::kPack;   // pixels, or pairs of pixels, in a row of dz
  const int64_t z_edge = z_padding * s.co, z_wide = width * s.co + 2 * z_edge;
  const int64_t x_row = s.padded_row() * 4, z_row = rounded ? z_wide * 2 : z_wide * 4;  // bytes
  const int64_t pair_row = rounded ? steps * s.co * 4 : z_row;
  std::vector<float> weights;
  if constexpr (kTiled<T>) weights = pack_tiles<M, T>(w, s.ci, s.co, s.scale, true);
  else if (dx) weights = pack_weights<M>(w, s.ci, s.co, s.scale, true);
  const ConvTile* tiles = choose_tiles<M>(s.co);
  const int64_t rows = band(std::max(s.padded_row(), z_wide), s.h);
  const bool in_place = M::kPack == 1 && !s.padding && !s.bytes;

  // Each group of images has sums of its own, so that the result does not depend on the number of threads.
  const int64_t part = (taps + 1) * s.co, most = std::clamp<int64_t>(kPartialSums / part, 1, 64);
  const int64_t group = (s.n + most - 1) / most, groups = (s.n + group - 1) / group;
  std::vector<float> sums(groups * part);  // of each: dw [block][taps][16], db [co]

  parallel_for(pool, groups, [&](int64_t job) {
    float *sum_w = sums.data() + job * part, *sum_b = sum_w + taps * s.co, *frequencies = nullptr;
    if constexpr (kTiled<T>) {
      frequencies = scratch(Scratch::kFrequencies, T::kFrequencies * s.ci * s.co);
      std::fill_n(frequencies, T::kFrequencies * s.ci * s.co, 0.f);
    }
    for (int64_t n = job * group; n < std::min(s.n, (job + 1) * group); ++n) {
      const int64_t image = n * s.rows() * s.columns() * s.co;
      const float* y = s.pool_stride ? nullptr : static_cast<const float*>(kept) + image;
      const uint8_t* code = s.pool_stride ? static_cast<const uint8_t*>(kept) + image : nullptr;
      for (int64_t i0 = 0; i0 < s.h; i0 += rows) {
        // Rows [i0, i1) of dx need rows [z0, z1) of dz, of which [i0, i0 + own) are this band's for dw and db.
        const int64_t i1 = std::min(s.h, i0 + rows), z0 = i0 - z_padding, z1 = dx ? i1 + 2 - z_padding : i1;
        const int64_t own = std::max<int64_t>(0, std::min(i1, height) - i0);
        char* z_taps = scratch_bytes(Scratch::kGradient, z_row * (z1 - z0) + s.co * 4);
        char* z_pairs = rounded ? scratch_bytes(Scratch::kGradientPairs, pair_row * own)
                                 : z_taps + z_padding * z_row + z_edge * 4;
        for (int64_t r = z0; r < z1; ++r) {
          char* z = z_taps + (r - z0) * z_row;
          if (r < 0 || r >= height) {
            std::memset(z, 0, z_row);
            continue;
          }
          if (rounded && !dx && s.pool_stride == 2) {
            unpool_pairs<M>(s, r, g + image, code, steps, z_pairs + (r - i0) * pair_row, sum_b);
            continue;
          }
          float* line = rounded ? scratch(Scratch::kLine, z_wide + s.co) : reinterpret_cast<float*>(z);
          float* middle = line + z_edge;
          std::fill_n(line, z_edge, 0.f);
          unpool_row(s, r, g + image, y, code, middle);
          std::fill_n(middle + width * s.co, rounded ? std::max(z_edge, s.co) : z_edge, 0.f);
          const bool mine = r >= i0 && r < i0 + own;
          if (mine) add_columns(middle, width, s.co, sum_b);
          if (rounded && dx) to_taps<M>(line, z_wide, z);
          if (rounded && mine)
            for (int64_t q = 0; q < steps; ++q)
              to_pairs<M>(middle + 2 * q * s.co, middle + (2 * q + 1) * s.co, s.co,
                          z_pairs + (r - i0) * pair_row + q * s.co * 4);
        }
        if constexpr (kTiled<T>) {
          constexpr int64_t kOut = T::kOut;
          const float *zeros = zero_row(std::max(s.w * s.ci, z_wide)), *z = reinterpret_cast<const float*>(z_taps);
          auto x_strip = [&](int64_t k) { return image_strip<T>(s, static_cast<const float*>(x), n, i0 + kOut * k, zeros); };
          auto z_rows = [&](int64_t k) {
            std::array<const float*, kOut> rows;
            for (int64_t i = 0; i < kOut; ++i)
              rows[i] = kOut * k + i < own ? z + (z_padding + kOut * k + i) * z_wide + z_edge : zeros;
            return rows;
          };
          weight_rows<M, T>(x_strip, z_rows, s.ci, s.co, tiles_in<T>(own), halved ? 2 * s.columns() : width, frequencies);
          for (int64_t i = i0; i < i1; i += kOut) {
            auto row = [&](int64_t k) { return z0 + i - i0 + k < z1 ? z + (i - i0 + k) * z_wide : zeros; };
            Strip<T> strip{{}, {}, 0, s.w + 2};
            for (int k = 0; k < T::kIn; ++k) strip.rows[k] = row(k);
            for (int k = 0; k < kOut; ++k) strip.next[k] = row(T::kIn + k);
            float* to = dx + (n * s.h + i) * s.w * s.ci;
            conv_rows<M>(strip, s.co, weights.data(), s.ci, nullptr, tiles_in<T>(s.w),
                         put_rows<kOut>([=](int64_t k) { return to + k * s.w * s.ci; }, i1 - i, s.w, s.ci));
          }
          continue;
        }
        if (own) {
          const char* in = static_cast<const char*>(x) + (n * s.h + i0) * x_row;
          if (!in_place) {
            char* copy = scratch_bytes(Scratch::kInput, x_row * (own + 2) + s.ci * 4);
            load_rows<M, true>(s, x, n, i0 - s.padding, i0 - s.padding + own + 2, copy);
            std::memset(copy + x_row * (own + 2), 0, s.ci * 4);  // the pixel beyond
            in = copy;
          }
          weight_band<M>(in, x_row, s.ci, z_pairs, pair_row, s.co, own, steps, sum_w);
        }
        if (!dx) continue;
        for (int64_t i = i0; i < i1; ++i) {
          float* row = dx + (n * s.h + i) * s.w * s.ci;
          float* padded = out == s.ci ? row : scratch(Scratch::kPadded, s.w * out);
          conv_row<M>(tiles, z_taps + (i - i0) * z_row, z_row, s.co, weights.data(), out, nullptr, s.w, padded);
          if (padded != row)
            for (int64_t q = 0; q < s.w; ++q) std::copy_n(padded + q * out, s.ci, row + q * s.ci);
        }
      }
    }
    if constexpr (kTiled<T>)
      for (int64_t block = 0; block < s.co; block += kBlock, frequencies += T::kFrequencies * s.ci * kBlock)
        for (int64_t i = 0; i < s.ci; ++i)
          for (int64_t c = 0; c < kBlock; c += kLanes)
            kernel_gradient<T>(frequencies + i * kBlock + c, s.ci * kBlock, [&](int row, int column, Vec sum) {
              store(sum_w + block * taps + ((row * 3 + column) * s.ci + i) * kBlock + c, sum);
            });
  });

  parallel_for(pool, s.co / kBlock, [&](int64_t block) {
    float *sum_w = sums.data() + block * taps * kBlock, *sum_b = sums.data() + taps * s.co + block * kBlock;
    for (int64_t p = 1; p < groups; ++p) {
      for (int64_t i = 0; i < taps * kBlock; ++i) sum_w[i] += sum_w[p * part + i];
      for (int64_t i = 0; i < kBlock; ++i) sum_b[i] += sum_b[p * part + i];
    }
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < kBlock; ++i) dw[t * s.co + block * kBlock + i] = s.scale * sum_w[t * kBlock + i];
    std::copy_n(sum_b, kBlock, db + block * kBlock);
  });
}

// Calls call(M, tiles) with the arithmetic and the tiles that suit `s`.
template <typename M, typename Call>
void choose(const Conv& s, const Call& call) {
  const int64_t size = tile_size(s);
  if constexpr (kLanes == 16)
    if (size == 4) return call(M{}, Tiles4<M::kPack == 1 ? 4 : 3>{});
  size == 1 ? call(M{}, NoTiles{}) : call(M{}, Tiles2{});
}

}  // namespace

void conv_forward(const Pool& pool, const Conv& conv, const void* x, const float* w, const float* b, float* y,
                  uint8_t* code) {
  auto call = [&](auto m, auto tiles) { forward<decltype(m), decltype(tiles)>(pool, conv, x, w, b, y, code); };
  conv.bfloat16 ? choose<Bfloat16>(conv, call) : choose<Float32>(conv, call);
}

void conv_backward(const Pool& pool, const Conv& conv, const void* x, const float* w, const void* kept, const float* g,
                   float* dw, float* db, float* dx) {
  auto call = [&](auto m, auto tiles) {
    dx ? backward<decltype(m), decltype(tiles)>(pool, conv, x, w, kept, g, dw, db, dx)
       : backward<decltype(m), NoTiles>(pool, conv, x, w, kept, g, dw, db, dx);
  };
  conv.bfloat16 ? choose<Bfloat16>(conv, call) : choose<Float32>(conv, call);
}

}  // namespace cnnjax
