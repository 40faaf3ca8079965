// A 3x3 convolution of tiles of 2x2 outputs with 16 products instead of 36 (Winograd's minimal filtering F(2x2, 3x3); Lavin
// and Gray 2016, arXiv:1509.09308). A tile's 4x4 inputs and the kernel are brought to 16 "frequencies" by additions; there
// each is a product of matrices, tiles x inputs times inputs x outputs; additions bring the sums back. In one dimension:
//
//   inputs d0..d3 -> d0-d2, d1+d2, d2-d1, d1-d3      kernel g0..g2 -> g0, (g0+g1+g2)/2, (g0-g1+g2)/2, g2
//   sums s0..s3   -> s0+s1+s2, s1-s2-s3
//
// The gradient of the kernel goes the same way back: z0, z1 -> z0, z0+z1, z0-z1, -z1, then products with the inputs.
#pragma once

#include "vector.h"

namespace cnnjax {
namespace {

constexpr int kFrequencies = 16;
// Tiles of one product: a row of four frequencies in registers, or one after the other where these do not suffice.
constexpr int kProductTiles = kLanes == 16 ? 7 : kTilePixels, kAtOnce = kLanes == 16 ? 4 : 1;

inline int64_t tiles_in(int64_t pixels) { return (pixels + 1) / 2; }

// Four rows of `pixels` each; before the first pixel come `before` zeros, after the last as many as are asked for. next: rows
// that will be asked for after these.
struct FourRows {
  const float *rows[4], *next[2];
  int64_t before, pixels;
};

// Calls put(channel, tile, row, four frequencies) for tiles from pixel `begin` on; kTogether: tiles at once, `put` has the
// four of each.
template <int kTogether, typename Put>
void input_tiles(const FourRows& x, int64_t channels, int64_t begin, int64_t tiles, const Put& put) {
  const Vec one = ones();
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vec column[2 + 2 * kTogether][4];
    auto read = [&](int64_t pixel, Vec* to) {
      if (pixel < x.before || pixel >= x.before + x.pixels) {
        to[0] = to[1] = to[2] = to[3] = Vec{};
        return;
      }
      const int64_t i = (pixel - x.before) * channels + c;
      __builtin_prefetch(x.next[0] + i), __builtin_prefetch(x.next[1] + i);
      const Vec a = load(x.rows[0] + i), b = load(x.rows[1] + i), d = load(x.rows[2] + i), e = load(x.rows[3] + i);
      to[0] = a - d, to[1] = b + d, to[2] = d - b, to[3] = b - e;
    };
    read(begin, column[0]);
    read(begin + 1, column[1]);
    for (int64_t t = 0; t < tiles; t += kTogether) {
      UNROLL for (int j = 2; j < 2 + 2 * kTogether; ++j) read(begin + 2 * t + j, column[j]);
      UNROLL for (int i = 0; i < 4; ++i) {
        Vec tile[kTogether][4];
        UNROLL for (int p = 0; p < kTogether; ++p) {
          const Vec a = column[2 * p][i], b = column[2 * p + 1][i], d = column[2 * p + 2][i], e = column[2 * p + 3][i];
          tile[p][0] = subtract(a, d, one), tile[p][1] = add(b, d, one);
          tile[p][2] = subtract(d, b, one), tile[p][3] = subtract(b, e, one);
        }
        put(c, t, i, tile);
        column[0][i] = column[2 * kTogether][i], column[1][i] = column[2 * kTogether + 1][i];
      }
    }
  }
}

// For products: v [4 rows][blocks of channels][tiles][4][16] as words of M, of neighbouring channels.
template <typename M>
void product_tiles(const FourRows& x, int64_t channels, int64_t begin, int64_t tiles, char* v) {
  constexpr int64_t kValue = 4 / M::kPack, kTile = 4 * kBlock * kValue;  // bytes
  input_tiles<1>(x, channels, begin, tiles, [&](int64_t c, int64_t t, int row, const Vec(*four)[4]) {
    store_four<M>(v + ((row * (channels / kBlock) + c / kBlock) * tiles + t) * kTile + c % kBlock * kValue, four[0]);
  });
}

// For the gradient of the kernel: v [16][tiles][channels] as words of M, of neighbouring tiles; `step`: bytes from one
// frequency to the next.
template <typename M>
void weight_tiles(const FourRows& x, int64_t channels, int64_t tiles, char* v, int64_t step) {
  input_tiles<M::kPack>(x, channels, 0, tiles, [&](int64_t c, int64_t t, int row, const Vec(*four)[4]) {
    char* to = v + 4 * row * step + (t / M::kPack * channels + c) * 4;
    UNROLL for (int j = 0; j < 4; ++j) store_pairs<M>(to + j * step, four[0][j], four[M::kPack - 1][j]);
  });
}

// kTiles tiles of v times the words w [4 rows][channels / kPack][4][16] -> sums [4][2][`stride` tiles][16], where the four
// frequencies of a row are brought back to two columns. `tiles`: of v.
template <typename M, int kTiles>
void tile_products(const char* v, int64_t tiles, int64_t channels, const float* w, int64_t stride, float* sums) {
  constexpr int64_t kWords = kBlock / M::kPack, kTile = 4 * kWords * 4;  // of a block of channels; bytes of a tile
  for (int row = 0; row < 4; ++row, v += channels / kBlock * tiles * kTile, w += channels / M::kPack * 4 * kBlock) {
    Vec four[4][kTiles][kVecs];
    UNROLL for (int j = 0; j < 4; j += kAtOnce) {
      Vec sum[kAtOnce][kTiles][kVecs] = {};
      const char* x = v + j * kWords * 4;
      const float* word = w + j * kBlock;
      for (int64_t c = 0; c < channels; c += kBlock, x += tiles * kTile)
        for (int k = 0; k < kWords; ++k, word += 4 * kBlock)
          UNROLL for (int i = 0; i < kAtOnce; ++i)
            UNROLL for (int u = 0; u < kVecs; ++u) {
              const Vec weight = load(word + i * kBlock + u * kLanes);
              UNROLL for (int t = 0; t < kTiles; ++t)
                sum[i][t][u] = M::multiply_add(sum[i][t][u], weight, x + t * kTile + (i * kWords + k) * 4);
            }
      UNROLL for (int i = 0; i < kAtOnce; ++i)
        UNROLL for (int t = 0; t < kTiles; ++t)
          UNROLL for (int u = 0; u < kVecs; ++u) four[j + i][t][u] = sum[i][t][u];
    }
    UNROLL for (int t = 0; t < kTiles; ++t)
      UNROLL for (int u = 0; u < kVecs; ++u) {
        float* to = sums + (2 * row * stride + t) * kBlock + u * kLanes;
        store(to, four[0][t][u] + four[1][t][u] + four[2][t][u]);
        store(to + stride * kBlock, four[1][t][u] - four[2][t][u] - four[3][t][u]);
      }
  }
}

// Sums [4][2][tiles][16] -> put(tile, channel, upper left, upper right, lower left, lower right) with bias and ReLU, or
// without where there is no bias.
template <typename Put>
void output_tiles(const float* sums, int64_t tiles, const float* bias, const Put& put) {
  const int64_t step = 2 * tiles * kBlock;
  const Vec one = ones();
  for (int64_t t = 0; t < tiles; ++t)
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      const Vec add_to = bias ? load(bias + c) : Vec{};
      Vec upper[2], lower[2];
      UNROLL for (int j = 0; j < 2; ++j) {
        const float* from = sums + (j * tiles + t) * kBlock + c;
        const Vec a = load(from), b = load(from + step), d = load(from + 2 * step), e = load(from + 3 * step);
        upper[j] = add(a, add_to, one) + add(b, d, one), lower[j] = subtract(b, e, one) + subtract(add_to, d, one);
        if (bias) upper[j] = relu(upper[j]), lower[j] = relu(lower[j]);
      }
      put(t, c, upper[0], upper[1], lower[0], lower[1]);
    }
}

// Two rows of `width` gradients of outputs -> z [16][tiles][channels] as words of M, of neighbouring tiles.
template <typename M>
void gradient_tiles(const float* upper, const float* lower, int64_t width, int64_t channels, char* z, int64_t step) {
  constexpr int kPack = M::kPack;
  const int64_t tiles = tiles_in(width);
  for (int64_t t = 0; t < tiles; t += kPack)
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec left[kPack][4], right[kPack][4];
      auto read = [&](int64_t pixel, Vec* to) {
        const bool exists = pixel < width;
        const Vec a = exists ? load(upper + pixel * channels + c) : Vec{};
        const Vec b = exists ? load(lower + pixel * channels + c) : Vec{};
        to[0] = a, to[1] = a + b, to[2] = a - b, to[3] = -b;
      };
      UNROLL for (int p = 0; p < kPack; ++p) read(2 * (t + p), left[p]), read(2 * (t + p) + 1, right[p]);
      char* to = z + (t / kPack * channels + c) * 4;
      UNROLL for (int k = 0; k < 4; ++k) {
        const Vec *a = left[0], *b = right[0], *d = left[kPack - 1], *e = right[kPack - 1];
        store_pairs<M>(to + (4 * k) * step, a[k], d[k]);
        store_pairs<M>(to + (4 * k + 1) * step, a[k] + b[k], d[k] + e[k]);
        store_pairs<M>(to + (4 * k + 2) * step, a[k] - b[k], d[k] - e[k]);
        store_pairs<M>(to + (4 * k + 3) * step, -b[k], -e[k]);
      }
    }
}

// kernel(row, column) -> word(frequency): 3x3 vectors to 16.
template <typename Kernel, typename Word>
void kernel_tile(const Kernel& kernel, const Word& word) {
  Vec half[4][3];
  UNROLL for (int j = 0; j < 3; ++j) {
    const Vec a = kernel(0, j), b = kernel(1, j), d = kernel(2, j);
    half[0][j] = a, half[1][j] = (a + b + d) * 0.5f, half[2][j] = (a - b + d) * 0.5f, half[3][j] = d;
  }
  UNROLL for (int i = 0; i < 4; ++i) {
    const Vec a = half[i][0], b = half[i][1], d = half[i][2];
    word(4 * i, a), word(4 * i + 1, (a + b + d) * 0.5f), word(4 * i + 2, (a - b + d) * 0.5f), word(4 * i + 3, d);
  }
}

// Gradients of 16 frequencies, `step` numbers apart -> of the kernel, through put(row, column, vector).
template <typename Put>
void kernel_gradient(const float* sums, int64_t step, const Put& put) {
  Vec half[3][4];
  UNROLL for (int j = 0; j < 4; ++j) {
    const Vec a = load(sums + j * step), b = load(sums + (4 + j) * step), d = load(sums + (8 + j) * step),
              e = load(sums + (12 + j) * step);
    half[0][j] = a + (b + d) * 0.5f, half[1][j] = (b - d) * 0.5f, half[2][j] = (b + d) * 0.5f + e;
  }
  UNROLL for (int i = 0; i < 3; ++i) {
    const Vec* h = half[i];
    put(i, 0, h[0] + (h[1] + h[2]) * 0.5f);
    put(i, 1, (h[1] - h[2]) * 0.5f);
    put(i, 2, (h[1] + h[2]) * 0.5f + h[3]);
  }
}

}  // namespace
}  // namespace cnnjax
