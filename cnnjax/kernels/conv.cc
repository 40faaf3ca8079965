#include "conv.h"

#include <utility>
#include <vector>

#include "vector.h"
#include "winograd.h"

namespace cnnjax {
namespace {

// Partial sums of all groups of images together, in numbers.
constexpr int64_t kPartialSums = int64_t(1) << 24;

// Rows in a band, an even number: about 400 kB of `wide` values each, so that a band stays in the second-level cache.
int64_t band(int64_t wide, int64_t rows) {
  const int64_t fit = std::max<int64_t>(8, 96 * 1024 / wide), bands = (rows + fit - 1) / fit;
  return ((rows + bands - 1) / bands + 1) / 2 * 2;
}

// Where channels fill vectors, tiles of 2x2 save more than they cost.
bool in_tiles(const Conv& s) {
  return s.ci % kBlock == 0 && !s.bytes && std::min(s.conv_rows(), s.conv_columns()) >= 4;
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

// scale * w as words [block][4 rows of frequencies][inputs][4][16]; flipped as above.
template <typename M>
std::vector<float> pack_tiles(const float* w, int64_t ci, int64_t co, float scale, bool flipped) {
  const int64_t in = flipped ? co : ci, out = flipped ? ci : co, words = in / M::kPack;
  std::vector<float> packed(kFrequencies * words * out);
  for (int64_t o = 0; o < out; o += kLanes)
    for (int64_t i = 0; i < in; i += M::kPack) {
      Vec tile[M::kPack][kFrequencies];
      for (int p = 0; p < M::kPack; ++p) {
        auto kernel = [&](int row, int column) {
          if (!flipped) return scale * load(w + ((row * 3 + column) * ci + i + p) * co + o);
          Vec values;
          for (int j = 0; j < kLanes; ++j) values[j] = scale * w[((8 - row * 3 - column) * ci + o + j) * co + i + p];
          return values;
        };
        kernel_tile(kernel, [&](int frequency, Vec word) { tile[p][frequency] = word; });
      }
      for (int f = 0; f < kFrequencies; ++f) {
        const int64_t word = ((o / kBlock * 4 + f / 4) * words + i / M::kPack) * 4 + f % 4;
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

template <typename M, int... kIndex>
const TileProducts* products_of(std::integer_sequence<int, kIndex...>) {
  static constexpr TileProducts table[] = {tile_products<M, kIndex + 1>...};
  return table;  // [t - 1]: of t tiles
}

// A pair of rows of the convolution in `count` tiles, from weights of pack_tiles: calls put(tile, channel, four outputs) as
// output_tiles does. A few tiles at a time, so that what is computed on the way stays in the first-level cache.
template <typename M, typename Put>
void conv_rows(const FourRows& x, int64_t ci, const float* w, int64_t out, const float* bias, int64_t count,
               const Put& put) {
  const TileProducts* products = products_of<M>(std::make_integer_sequence<int, kProductTiles>{});
  const int64_t parts = (count + 2 * kProductTiles - 1) / (2 * kProductTiles), most = (count + parts - 1) / parts;
  const int64_t tile = 4 * kBlock * 4 / M::kPack, block_words = kFrequencies * ci / M::kPack * kBlock;
  char* v = scratch_bytes(Scratch::kTiles, most * tile * 4 * blocks(ci));
  float* sums = scratch(Scratch::kSums, 8 * most * kBlock);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = count * part / parts, some = count * (part + 1) / parts - first;
    const int64_t turns = (some + kProductTiles - 1) / kProductTiles;
    product_tiles<M>(x, ci, 2 * first, some, v);
    for (int64_t block = 0; block < out; block += kBlock) {
      for (int64_t turn = 0; turn < turns; ++turn) {
        const int64_t t = some * turn / turns, tiles = some * (turn + 1) / turns - t;
        products[tiles - 1](v + t * tile, some, ci, w + block / kBlock * block_words, some, sums + t * kBlock);
      }
      output_tiles(sums, some, bias ? bias + block : nullptr, [&](int64_t t, int64_t c, Vec v0, Vec v1, Vec v2, Vec v3) {
        put(first + t, block + c, v0, v1, v2, v3);
      });
    }
  }
}

// The outputs of conv_rows as two rows of `width` pixels; lower may be null.
struct PutRows {
  float *upper, *lower;
  int64_t width, out;
  void operator()(int64_t t, int64_t c, Vec v0, Vec v1, Vec v2, Vec v3) const {
    const int64_t i = 2 * t * out + c;
    const bool both = 2 * t + 1 < width;
    store(upper + i, v0);
    if (both) store(upper + i + out, v1);
    if (!lower) return;
    store(lower + i, v2);
    if (both) store(lower + i + out, v3);
  }
};

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

// The rows of image n that a pair of rows from r on looks at.
FourRows image_rows(const Conv& s, const float* x, int64_t n, int64_t r, const float* zeros) {
  auto row = [&](int64_t r) { return r < 0 || r >= s.h ? zeros : x + (n * s.h + r) * s.w * s.ci; };
  r -= s.padding;
  return {{row(r), row(r + 1), row(r + 2), row(r + 3)}, {row(r + 4), row(r + 5)}, s.padding, s.w};
}

float* zero_row(const Conv& s) {
  float* zeros = scratch(Scratch::kInput, s.w * s.ci);
  std::fill_n(zeros, s.w * s.ci, 0.f);
  return zeros;
}

template <typename M>
void forward(const Pool& pool, const Conv& s, const void* x, const float* w, const float* b, float* y, uint8_t* code) {
  const bool tiled = in_tiles(s);
  const auto weights = tiled ? pack_tiles<M>(w, s.ci, s.co, s.scale, false) : pack_weights<M>(w, s.ci, s.co, s.scale, false);
  const ConvTile* tiles = choose_tiles<M>(s.ci);
  const int64_t stride = std::max<int64_t>(1, s.pool_stride), window = s.pool_stride ? 2 : 1;
  const int64_t rows = s.rows(), columns = s.columns(), y_row = columns * s.co, x_row = s.padded_row() * 4 / M::kPack;
  const int64_t width = (columns - 1) * stride + window;  // columns of the convolution that somebody looks at
  const int64_t height = band(s.padded_row() * stride, rows), bands = (rows + height - 1) / height;
  const bool in_place = M::kPack == 1 && !s.padding && !s.bytes;

  parallel_for(pool, s.n * bands, [&](int64_t job) {
    const int64_t n = job / bands, y0 = job % bands * height, y1 = std::min(rows, y0 + height);
    const int64_t r0 = y0 * stride, r1 = (y1 - 1) * stride + window;  // rows of the convolution
    const float* zeros = tiled ? zero_row(s) : nullptr;
    const char* in = static_cast<const char*>(x) + (n * s.h + r0) * x_row;
    if (!in_place && !tiled) {
      char* copy = scratch_bytes(Scratch::kInput, x_row * (r1 - r0 + 2) + s.ci * 4);
      load_rows<M, false>(s, x, n, r0 - s.padding, r1 - s.padding + 2, copy);
      in = copy;
    }
    float* ring = s.pool_stride ? scratch(Scratch::kConvolved, 4 * width * s.co) : nullptr;  // the last four rows
    auto row = [&](int64_t r) { return ring ? ring + (r & 3) * width * s.co : y + (n * rows + r) * y_row; };
    for (int64_t r = r0; r < r1; ++r) {
      const int64_t upper = r - r0 - 1, o = (n * rows + y0 + upper / stride) * y_row;
      if (tiled && s.pool_stride == 2) {  // a tile is what a pool looks at
        if ((r - r0) % 2) continue;
        const int64_t to = (n * rows + r / 2) * y_row;
        conv_rows<M>(image_rows(s, static_cast<const float*>(x), n, r, zeros), s.ci, weights.data(), s.co, b, columns,
                     [&](int64_t t, int64_t c, Vec v0, Vec v1, Vec v2, Vec v3) {
                       const int64_t i = to + t * s.co + c;
                       pool_four(v0, v1, v2, v3, y + i, code ? code + i : nullptr);
                     });
        continue;
      }
      if constexpr (kVecs == 1)
        if (!tiled && s.pool_stride == 2) {
          const int64_t to = (n * rows + r / 2) * y_row;
          if ((r - r0) % 2 == 0)
            pooled_row<M>(in + (r - r0) * x_row, x_row, s.ci, weights.data(), s.co, b, columns, y + to,
                          code ? code + to : nullptr);
          continue;
        }
      if (!tiled)
        conv_row<M>(tiles, in + (r - r0) * x_row, x_row, s.ci, weights.data(), s.co, b, width, row(r));
      else if ((r - r0) % 2 == 0)
        conv_rows<M>(image_rows(s, static_cast<const float*>(x), n, r, zeros), s.ci, weights.data(), s.co, b,
                     tiles_in(width), PutRows{row(r), r + 1 < r1 ? row(r + 1) : nullptr, width, s.co});
      if (!s.pool_stride || upper < 0 || upper % stride) continue;
      pool_row(row(r - 1), row(r), s.co, stride, columns, y + o, code ? code + o : nullptr);
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

// The same in tiles, from pairs of rows of dz and the four(pair) rows of x that belong to each: dw as
// [block][16 frequencies][ci][16]. An odd row of dz is followed by zeros.
template <typename M, typename Four>
void weight_rows(const Four& four, int64_t ci, const float* dz, int64_t z_row, int64_t co, int64_t rows, int64_t width,
                 float* dw) {
  constexpr int kTaps = kTileTaps < kBlock ? 4 : kBlock;
  constexpr int64_t kTiles = 128;  // sums are kept in registers for so many
  const int64_t tiles = tiles_in(width), words = (tiles + M::kPack - 1) / M::kPack, pairs = tiles_in(rows);
  const int64_t most = std::max<int64_t>(1, kTiles / tiles);
  // An odd number of lines, so that frequencies do not compete for places in the first-level cache.
  auto odd = [](int64_t bytes) { return (bytes / 64 | 1) * 64; };
  const int64_t v_step = odd(most * words * ci * 4), z_step = odd(most * words * co * 4);
  char *v = scratch_bytes(Scratch::kTiles, kFrequencies * v_step), *z = scratch_bytes(Scratch::kSums, kFrequencies * z_step);
  for (int64_t first = 0; first < pairs; first += most) {
    const int64_t last = std::min(pairs, first + most), steps = (last - first) * words;
    for (int64_t pair = first; pair < last; ++pair) {
      const int64_t at = (pair - first) * words * 4;
      const float* upper = dz + 2 * pair * z_row;
      weight_tiles<M>(four(pair), ci, tiles, v + at * ci, v_step);
      gradient_tiles<M>(upper, upper + z_row, width, co, z + at * co, z_step);
    }
    float* to = dw;
    for (int64_t block = 0; block < co; block += kBlock)
      for (int f = 0; f < kFrequencies; ++f)
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

template <typename M>
void backward(const Pool& pool, const Conv& s, const void* x, const float* w, const void* kept, const float* g, float* dw,
              float* db, float* dx) {
  const bool tiled = in_tiles(s) && dx;
  const bool rounded = M::kPack == 2 && !tiled;  // tiles round what they have transformed
  const int64_t taps = (tiled ? kFrequencies : 9) * s.ci, out = blocks(s.ci) * kBlock;
  const int64_t height = s.conv_rows(), width = s.conv_columns();
  const int64_t z_padding = dx ? 2 - s.padding : 0;          // of the convolution that gives dx
  const int64_t steps = (width + M::kPack - 1) / M::kPack;   // pixels, or pairs of pixels, in a row of dz
  const int64_t z_edge = z_padding * s.co, z_wide = width * s.co + 2 * z_edge;
  const int64_t x_row = s.padded_row() * 4, z_row = rounded ? z_wide * 2 : z_wide * 4;  // bytes
  const int64_t pair_row = rounded ? steps * s.co * 4 : z_row;
  const auto weights = !dx     ? std::vector<float>()
                       : tiled ? pack_tiles<M>(w, s.ci, s.co, s.scale, true)
                               : pack_weights<M>(w, s.ci, s.co, s.scale, true);
  const ConvTile* tiles = choose_tiles<M>(s.co);
  const int64_t rows = band(std::max(s.padded_row(), z_wide), s.h);
  const bool in_place = M::kPack == 1 && !s.padding && !s.bytes;

  // Each group of images has sums of its own, so that the result does not depend on the number of threads.
  const int64_t part = (taps + 1) * s.co, most = std::clamp<int64_t>(kPartialSums / part, 1, 64);
  const int64_t group = (s.n + most - 1) / most, groups = (s.n + group - 1) / group;
  std::vector<float> sums(groups * part);  // of each: dw [block][taps][16], db [co]

  parallel_for(pool, groups, [&](int64_t job) {
    float *sum_w = sums.data() + job * part, *sum_b = sum_w + taps * s.co;
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
        if (own && tiled) {
          const float* zeros = zero_row(s);
          auto four = [&](int64_t pair) { return image_rows(s, static_cast<const float*>(x), n, i0 + 2 * pair, zeros); };
          weight_rows<M>(four, s.ci, reinterpret_cast<const float*>(z_pairs), z_wide, s.co, own, width, sum_w);
        } else if (own) {
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
        for (int64_t i = i0; tiled && i < i1; i += 2) {
          float* row = dx + (n * s.h + i) * s.w * s.ci;
          auto z = [&](int64_t k) {  // a row beyond the last does not count
            return reinterpret_cast<const float*>(z_taps) + std::min(i - i0 + k, i1 + 1 - i0) * z_wide;
          };
          const FourRows four{{z(0), z(1), z(2), z(3)}, {z(4), z(5)}, 0, s.w + 2};
          conv_rows<M>(four, s.co, weights.data(), s.ci, nullptr, tiles_in(s.w),
                       PutRows{row, i + 1 < i1 ? row + s.w * s.ci : nullptr, s.w, s.ci});
        }
        for (int64_t i = i0; !tiled && i < i1; ++i) {
          float* row = dx + (n * s.h + i) * s.w * s.ci;
          float* padded = out == s.ci ? row : scratch(Scratch::kPadded, s.w * out);
          conv_row<M>(tiles, z_taps + (i - i0) * z_row, z_row, s.co, weights.data(), out, nullptr, s.w, padded);
          if (padded != row)
            for (int64_t q = 0; q < s.w; ++q) std::copy_n(padded + q * out, s.ci, row + q * s.ci);
        }
      }
    }
  });

  parallel_for(pool, s.co / kBlock, [&](int64_t block) {
    float *sum_w = sums.data() + block * taps * kBlock, *sum_b = sums.data() + taps * s.co + block * kBlock;
    for (int64_t p = 1; p < groups; ++p) {
      for (int64_t i = 0; i < taps * kBlock; ++i) sum_w[i] += sum_w[p * part + i];
      for (int64_t i = 0; i < kBlock; ++i) sum_b[i] += sum_b[p * part + i];
    }
    for (int64_t i = 0; tiled && i < s.ci; ++i)
      for (int64_t c = 0; c < kBlock; c += kLanes)
        kernel_gradient(sum_w + i * kBlock + c, s.ci * kBlock, [&](int row, int column, Vec sum) {
          store(dw + ((row * 3 + column) * s.ci + i) * s.co + block * kBlock + c, s.scale * sum);
        });
    for (int64_t t = 0; !tiled && t < taps; ++t)
      for (int64_t i = 0; i < kBlock; ++i) dw[t * s.co + block * kBlock + i] = s.scale * sum_w[t * kBlock + i];
    std::copy_n(sum_b, kBlock, db + block * kBlock);
  });
}

}  // namespace

void conv_forward(const Pool& pool, const Conv& conv, const void* x, const float* w, const float* b, float* y,
                  uint8_t* code) {
  (conv.bfloat16 ? forward<Bfloat16> : forward<Float32>)(pool, conv, x, w, b, y, code);
}

void conv_backward(const Pool& pool, const Conv& conv, const void* x, const float* w, const void* kept, const float* g,
                   float* dw, float* db, float* dx) {
  (conv.bfloat16 ? backward<Bfloat16> : backward<Float32>)(pool, conv, x, w, kept, g, dw, db, dx);
}

}  // namespace cnnjax
