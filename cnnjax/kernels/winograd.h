// A 3x3 convolution in tiles of 2x2 outputs with 16 products instead of 36, or of 4x4 with 36 instead of 144 (Winograd's
// minimal filtering, F(2x2, 3x3) and F(4x4, 3x3); Lavin and Gray 2016, arXiv:1509.09308). A tile's inputs and the kernel are
// brought to "frequencies" by additions; there each is a product of matrices, tiles x inputs times inputs x outputs; additions
// bring the sums back. Tiles2 and Tiles4 have all of this in one dimension; in two it is done twice.
#pragma once

#include <algorithm>

#include "vector.h"

namespace cnnjax {
namespace {

// kOut outputs of kIn inputs. `input` computes kIn / kGroups frequencies of a group, from d(0), d(1), ... that it asks for.
// `gradient` is `output` turned round, and `kernel_gradient` is `kernel`. Kernels come out kWhole times as large, so that
// whole numbers stay whole.
struct Tiles2 {
  static constexpr int kOut = 2, kIn = 4, kFrequencies = 16, kGroups = 1;
  static constexpr float kWhole = 2;

  template <int kGroup, typename Inputs>
  static void input(const Inputs& d, Vec* to, Vec one) {
    const Vec d0 = d(0), d1 = d(1), d2 = d(2), d3 = d(3);
    to[0] = d0 - d2, to[1] = d1 + d2, to[2] = subtract(d2, d1, one), to[3] = subtract(d1, d3, one);
  }
  static void output(const Vec* m, Vec* y, Vec one) {
    y[0] = add(m[0], m[1] + m[2], one), y[1] = subtract(m[1] - m[2], m[3], one);
  }
  static void gradient(const Vec* z, Vec* to) { to[0] = z[0], to[1] = z[0] + z[1], to[2] = z[0] - z[1], to[3] = -z[1]; }
  static void kernel(const Vec* g, Vec* to) {
    to[0] = 2.f * g[0], to[1] = g[0] + g[1] + g[2], to[2] = g[0] - g[1] + g[2], to[3] = 2.f * g[2];
  }
  static void kernel_gradient(const Vec* m, Vec* g) {
    g[0] = 2.f * m[0] + m[1] + m[2], g[1] = m[1] - m[2], g[2] = m[1] + m[2] + 2.f * m[3];
  }
};

// Polynomials at 0, infinity, a, -a, 2 a, -2 a. With a = 1 whole numbers stay whole; with 3/4 errors are half as large.
template <int kQuarters>
struct Tiles4 {
  static constexpr int kOut = 4, kIn = 6, kFrequencies = 36, kGroups = 3;
  static constexpr float a = kQuarters / 4.f, a2 = a * a, a3 = a * a2, a4 = a2 * a2, kWhole = 24 * a4;

  template <int kGroup, typename Inputs>
  static void input(const Inputs& d, Vec* to, Vec) {
    if constexpr (kGroup == 0) {
      to[0] = d(0) * (4 * a4) + (d(4) - d(2) * (5 * a2)), to[1] = d(1) * (4 * a4) + (d(5) - d(3) * (5 * a2));
    } else {
      constexpr float kPoint = kGroup == 1 ? a : 2 * a, kOther = kGroup == 1 ? 4 * a2 : a2;
      const Vec even = d(4) - d(2) * kOther, odd = d(3) - d(1) * kOther;
      to[0] = even + odd * kPoint, to[1] = even - odd * kPoint;
    }
  }
  static void output(const Vec* m, Vec* y, Vec one) {
    const Vec even1 = m[2] + m[3], odd1 = m[2] - m[3], even2 = m[4] + m[5], odd2 = m[4] - m[5];
    y[0] = add(m[0], add(even1, even2, one), one), y[1] = (odd1 + odd2 * 2.f) * a;
    y[2] = (even1 + even2 * 4.f) * a2, y[3] = m[1] + (odd1 + odd2 * 8.f) * a3;
  }
  static void gradient(const Vec* z, Vec* to) {
    const Vec even1 = z[0] + z[2] * a2, odd1 = z[1] + z[3] * a2, even2 = z[0] + z[2] * (4 * a2), odd2 = z[1] + z[3] * (4 * a2);
    to[0] = z[0], to[1] = z[3], to[2] = even1 + odd1 * a, to[3] = even1 - odd1 * a;
    to[4] = even2 + odd2 * (2 * a), to[5] = even2 - odd2 * (2 * a);
  }
  static void kernel(const Vec* g, Vec* to) {
    const Vec even1 = (g[0] + g[2] * a2) * -4.f, odd1 = g[1] * (-4 * a), even2 = g[0] + g[2] * (4 * a2), odd2 = g[1] * (2 * a);
    to[0] = g[0] * 6.f, to[1] = g[2] * kWhole, to[2] = even1 + odd1, to[3] = even1 - odd1;
    to[4] = even2 + odd2, to[5] = even2 - odd2;
  }
  static void kernel_gradient(const Vec* m, Vec* g) {
    const Vec even1 = (m[2] + m[3]) * -4.f, odd1 = (m[2] - m[3]) * -4.f, even2 = m[4] + m[5], odd2 = m[4] - m[5];
    g[0] = m[0] * 6.f + (even1 + even2), g[1] = (odd1 + odd2 * 2.f) * a, g[2] = m[1] * kWhole + (even1 + even2 * 4.f) * a2;
  }
};

// Frequencies of one product: a row in registers, or one after the other where these do not suffice; its tiles; and the tiles
// of all that is computed in the first-level cache.
template <typename T>
constexpr int kAtOnce = kLanes == 16 ? T::kIn : 1;
template <typename T>
constexpr int kProductTiles = kLanes == 16 ? 28 / T::kIn : kTilePixels;
template <typename T>
constexpr int kCachedTiles = (T::kOut == 2 ? 2 : 3) * kProductTiles<T>;

template <typename T>
int64_t tiles_in(int64_t pixels) { return (pixels + T::kOut - 1) / T::kOut; }

// The rows of a row of tiles, `pixels` each; before the first pixel come `before` zeros, after the last as many as are asked
// for. next: rows that will be asked for after these.
template <typename T>
struct Strip {
  const float *rows[T::kIn], *next[T::kOut];
  int64_t before, pixels;
};

template <typename T, int kTogether, int kGroup, typename Put>
void input_group(const Strip<T>& x, int64_t channels, int64_t c, int64_t begin, int64_t tiles, const Put& put) {
  constexpr int kOut = T::kOut, kRows = T::kIn / T::kGroups, kColumns = T::kIn + (kTogether - 1) * kOut;
  const Vec one = ones();
  Vec column[kColumns][kRows];
  auto read = [&](int64_t pixel, Vec* to) {
    if (pixel < x.before || pixel >= x.before + x.pixels) {
      UNROLL for (int i = 0; i < kRows; ++i) to[i] = Vec{};
      return;
    }
    const int64_t at = (pixel - x.before) * channels + c;
    if (kGroup == 0)
      UNROLL for (int i = 0; i < kOut; ++i) __builtin_prefetch(x.next[i] + at);
    T::template input<kGroup>([&](int i) { return load(x.rows[i] + at); }, to, one);
  };
  UNROLL for (int j = 0; j < 2; ++j) read(begin + j, column[j]);
  for (int64_t t = 0; t < tiles; t += kTogether) {
    UNROLL for (int j = 2; j < kColumns; ++j) read(begin + kOut * t + j, column[j]);
    UNROLL for (int i = 0; i < kRows; ++i) {
      Vec tile[kTogether][T::kIn];
      UNROLL for (int p = 0; p < kTogether; ++p) {
        auto d = [&](int j) { return column[p * kOut + j][i]; };
        T::template input<0>(d, tile[p], one);
        if constexpr (T::kGroups == 3)
          T::template input<1>(d, tile[p] + kRows, one), T::template input<2>(d, tile[p] + 2 * kRows, one);
      }
      put(c, t, kGroup * kRows + i, tile);
      UNROLL for (int j = 0; j < 2; ++j) column[j][i] = column[kTogether * kOut + j][i];
    }
  }
}

// Calls put(channel, tile, row, a row of frequencies) for tiles from pixel `begin` on; kTogether: tiles at once, `put` has the
// row of each. Rows in groups, so that the registers suffice.
template <typename T, int kTogether, typename Put>
void input_tiles(const Strip<T>& x, int64_t channels, int64_t begin, int64_t tiles, const Put& put) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    input_group<T, kTogether, 0>(x, channels, c, begin, tiles, put);
    if constexpr (T::kGroups == 3) {
      input_group<T, kTogether, 1>(x, channels, c, begin, tiles, put);
      input_group<T, kTogether, 2>(x, channels, c, begin, tiles, put);
    }
  }
}

// For products: v [rows of frequencies][blocks of channels][tiles][kIn][16] as words of M, of neighbouring channels.
template <typename M, typename T>
void product_tiles(const Strip<T>& x, int64_t channels, int64_t begin, int64_t tiles, char* v) {
  constexpr int64_t kValue = 4 / M::kPack, kTile = T::kIn * kBlock * kValue;  // bytes
  input_tiles<T, 1>(x, channels, begin, tiles, [&](int64_t c, int64_t t, int row, const Vec(*tile)[T::kIn]) {
    store_blocks<M, T::kIn>(v + ((row * (channels / kBlock) + c / kBlock) * tiles + t) * kTile + c % kBlock * kValue, tile[0]);
  });
}

// The same, and for the gradient of the kernel: z [frequencies][tiles][channels] as words of M, of neighbouring tiles; `step`:
// bytes from one frequency to the next. `begin` belongs to an even tile.
template <typename M, typename T>
void gradient_product_tiles(const Strip<T>& x, int64_t channels, int64_t begin, int64_t tiles, char* v, char* z, int64_t step) {
  constexpr int64_t kValue = 4 / M::kPack, kTile = T::kIn * kBlock * kValue;
  input_tiles<T, M::kPack>(x, channels, begin, tiles, [&](int64_t c, int64_t t, int row, const Vec(*tile)[T::kIn]) {
    char* to = v + ((row * (channels / kBlock) + c / kBlock) * tiles + t) * kTile + c % kBlock * kValue;
    UNROLL for (int p = 0; p < M::kPack; ++p)
      if (!p || t + p < tiles) store_blocks<M, T::kIn>(to + p * kTile, tile[p]);
    to = z + T::kIn * row * step + (t / M::kPack * channels + c) * 4;
    UNROLL for (int j = 0; j < T::kIn; ++j) store_pairs<M>(to + j * step, tile[0][j], tile[M::kPack - 1][j]);
  });
}

// A row of frequencies: kTiles tiles of v times the words w [channels / kPack][kIn][16], brought back to kOut columns: sums
// [kOut][`stride` tiles][16]. `tiles`: of v.
template <typename M, typename T, int kTiles>
void tile_products(const char* v, int64_t tiles, int64_t channels, const float* w, int64_t stride, float* sums) {
  constexpr int kIn = T::kIn, kOut = T::kOut, kSome = kAtOnce<T>;
  constexpr int64_t kWords = kBlock / M::kPack, kTile = kIn * kWords * 4;  // of a block of channels; bytes of a tile
  Vec row[kTiles][kVecs][kIn];
  UNROLL for (int j = 0; j < kIn; j += kSome) {
    Vec sum[kSome][kTiles][kVecs] = {};
    const char* x = v + j * kWords * 4;
    const float* word = w + j * kBlock;
    for (int64_t c = 0; c < channels; c += kBlock, x += tiles * kTile)
      for (int k = 0; k < kWords; ++k, word += kIn * kBlock)
        UNROLL for (int i = 0; i < kSome; ++i)
          UNROLL for (int u = 0; u < kVecs; ++u) {
            const Vec weight = load_weights(word + i * kBlock + u * kLanes);
            UNROLL for (int t = 0; t < kTiles; ++t)
              sum[i][t][u] = M::multiply_add(sum[i][t][u], weight, x + t * kTile + (i * kWords + k) * 4);
          }
    UNROLL for (int i = 0; i < kSome; ++i)
      UNROLL for (int t = 0; t < kTiles; ++t)
        UNROLL for (int u = 0; u < kVecs; ++u) row[t][u][j + i] = sum[i][t][u];
  }
  const Vec one = ones();
  UNROLL for (int t = 0; t < kTiles; ++t)
    UNROLL for (int u = 0; u < kVecs; ++u) {
      Vec y[kOut];
      T::output(row[t][u], y, one);
      UNROLL for (int j = 0; j < kOut; ++j) store(sums + (j * stride + t) * kBlock + u * kLanes, y[j]);
    }
}

// Sums [kIn][kOut][tiles][16] -> put(tile, channel, kOut rows of kOut outputs) with bias and ReLU, or without where there is
// no bias.
template <typename T, typename Put>
void output_tiles(const float* sums, int64_t tiles, const float* bias, const Put& put) {
  constexpr int kIn = T::kIn, kOut = T::kOut;
  const Vec one = ones();
  for (int64_t t = 0; t < tiles; ++t)
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      const Vec add_to = bias ? load(bias + c) : Vec{};
      Vec y[kOut][kOut];
      UNROLL for (int j = 0; j < kOut; ++j) {
        Vec m[kIn], column[kOut];
        UNROLL for (int i = 0; i < kIn; ++i) m[i] = load(sums + ((i * kOut + j) * tiles + t) * kBlock + c);
        T::output(m, column, one);
        UNROLL for (int i = 0; i < kOut; ++i) y[i][j] = bias ? relu(column[i] + add_to) : column[i];
      }
      put(t, c, y);
    }
}

// For the gradient of the kernel, its other factor: kOut rows of `width` pixels -> v [frequencies][tiles][channels] as words of M,
// of neighbouring tiles. After these rows come those that will be asked for next. Not inlined: as a part of the loop around it, it
// would keep in memory what has registers here.
template <typename M, typename T, typename Number>
__attribute__((noinline)) void weight_tiles(const void* const* rows, int64_t width, int64_t channels, char* v, int64_t step) {
  constexpr int kPack = M::kPack, kIn = T::kIn, kOut = T::kOut;
  const int64_t tiles = tiles_in<T>(width);
  for (int64_t t = 0; t < tiles; t += kPack)
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vec column[kPack][kOut][kIn];
      UNROLL for (int p = 0; p < kPack; ++p)
        UNROLL for (int j = 0; j < kOut; ++j) {
          const int64_t pixel = kOut * (t + p) + j;
          Vec d[kOut] = {};
          if (pixel < width)
            UNROLL for (int i = 0; i < kOut; ++i) {
              const int64_t at = pixel * channels + c;
              __builtin_prefetch(static_cast<const Number*>(rows[kOut + i]) + at);
              d[i] = load_factors<M>(static_cast<const Number*>(rows[i]) + at);
            }
          T::gradient(d, column[p][j]);
        }
      char* to = v + (t / kPack * channels + c) * 4;
      UNROLL for (int i = 0; i < kIn; ++i, to += kIn * step) {
        Vec row[kPack][kIn];
        UNROLL for (int p = 0; p < kPack; ++p) {
          Vec d[kOut];
          UNROLL for (int j = 0; j < kOut; ++j) d[j] = column[p][j][i];
          T::gradient(d, row[p]);
        }
        UNROLL for (int j = 0; j < kIn; ++j) store_pairs<M>(to + j * step, row[0][j], row[kPack - 1][j]);
      }
    }
}

// kernel(row, column) -> word(frequency, vector).
template <typename T, typename Kernel, typename Word>
void kernel_tile(const Kernel& kernel, const Word& word) {
  constexpr int kIn = T::kIn;
  Vec column[3][kIn];
  UNROLL for (int j = 0; j < 3; ++j) {
    const Vec g[3] = {kernel(0, j), kernel(1, j), kernel(2, j)};
    T::kernel(g, column[j]);
  }
  UNROLL for (int i = 0; i < kIn; ++i) {
    const Vec g[3] = {column[0][i], column[1][i], column[2][i]};
    Vec row[kIn];
    T::kernel(g, row);
    UNROLL for (int j = 0; j < kIn; ++j) word(kIn * i + j, row[j] * (1.f / (T::kWhole * T::kWhole)));
  }
}

// Gradients of frequencies, `step` numbers apart -> of the kernel, through put(row, column, vector).
template <typename T, typename Put>
void kernel_gradient(const float* sums, int64_t step, const Put& put) {
  constexpr int kIn = T::kIn;
  Vec column[kIn][3];
  UNROLL for (int j = 0; j < kIn; ++j) {
    Vec m[kIn];
    UNROLL for (int i = 0; i < kIn; ++i) m[i] = load(sums + (kIn * i + j) * step);
    T::kernel_gradient(m, column[j]);
  }
  UNROLL for (int i = 0; i < 3; ++i) {
    Vec m[kIn], row[3];
    UNROLL for (int j = 0; j < kIn; ++j) m[j] = column[j][i];
    T::kernel_gradient(m, row);
    UNROLL for (int j = 0; j < 3; ++j) put(i, j, row[j] * (1.f / (T::kWhole * T::kWhole)));
  }
}

}  // namespace
}  // namespace cnnjax
