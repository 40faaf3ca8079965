// Convolutions of the rows of one image, in tiles.
#pragma once

#include <array>
#include <utility>

#include "conv.h"
#include "packing.h"
#include "vector.h"
#include "winograd.h"

namespace cnnjax {
namespace {

// Rows in a band, whole tiles: about 400 kB of `wide` values each, so that a band stays in the second-level cache.
int64_t band_rows(int64_t wide, int64_t rows) {
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
  if (s.ci % kBlock || s.in == Kind::kByte || std::min(rows, columns) < 4) return 1;
  const int64_t products4 = Tiles4<4>::kFrequencies * tiles_in<Tiles4<4>>(rows) * tiles_in<Tiles4<4>>(columns);
  const int64_t products2 = Tiles2::kFrequencies * tiles_in<Tiles2>(rows) * tiles_in<Tiles2>(columns);
  return kLanes == 16 && std::min(rows, columns) >= 8 && 5 * products4 <= 4 * products2 ? 4 : 2;
}

// call(M, tiles) with the tiles that suit `s`.
template <typename M, typename Call>
auto choose(const Conv& s, const Call& call) {
  const int64_t size = tile_size(s);
  if constexpr (kLanes == 16)
    if (size == 4) return call(M{}, Tiles4<M::kPack == 1 ? 4 : 3>{});
  return size == 1 ? call(M{}, NoTiles{}) : call(M{}, Tiles2{});
}

// Rows [begin, end) of an image with their padding, as taps or as pairs.
template <typename M, bool kPairs>
void load_rows(const Conv& s, const void* x, int64_t begin, int64_t end, char* dst) {
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
    const int64_t from = r * row;
    std::fill_n(line, edge, 0.f);
    if (s.in == Kind::kByte)
      for (int64_t i = 0; i < row; ++i) line[edge + i] = static_cast<const uint8_t*>(x)[from + i];
    else if (s.in == Kind::kBfloat16)
      for (int64_t i = 0; i < row; i += kLanes) store(line + edge + i, load(static_cast<const uint16_t*>(x) + from + i));
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
// does. A few tiles at a time, so that what is computed on the way stays in the first-level cache: fill(first tile, tiles, v) as
// product_tiles does.
template <typename M, typename T, typename Fill, typename Put>
void conv_rows(int64_t ci, const float* w, int64_t out, const float* bias, int64_t count, const Fill& fill, const Put& put) {
  constexpr int kIn = T::kIn, kOut = T::kOut, kAtMost = kProductTiles<T>;
  const TileProducts* products = products_of<M, T>(std::make_integer_sequence<int, kAtMost>{});
  const int64_t parts = (count + kCachedTiles<T> - 1) / kCachedTiles<T>, most = (count + parts - 1) / parts + M::kPack;
  auto start = [&](int64_t part) { return part < parts ? count * part / parts / M::kPack * M::kPack : count; };
  const int64_t tile = kIn * kBlock * 4 / M::kPack, row_words = kIn * ci / M::kPack * kBlock;
  char* v = scratch_bytes(Scratch::kTiles, most * tile * kIn * blocks(ci));
  float* sums = scratch(Scratch::kSums, kIn * kOut * most * kBlock);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = start(part), some = start(part + 1) - first;
    const int64_t turns = (some + kAtMost - 1) / kAtMost;
    fill(first, some, v);
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

// The rows of an image that tiles from row r on look at.
template <typename T>
Strip<T> image_strip(const Conv& s, const float* x, int64_t r, const float* zeros) {
  auto row = [&](int64_t k) {
    const int64_t i = r - s.padding + k;
    return i < 0 || i >= s.h ? zeros : x + i * s.w * s.ci;
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

}  // namespace
}  // namespace cnnjax
