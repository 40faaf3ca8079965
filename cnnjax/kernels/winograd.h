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

inline int64_t tiles_in(int64_t pixels) { return (pixels + 1) / 2; }

// Four rows of `pixels` each; before the first pixel come `before` zeros, after the last as many as are asked for.
struct FourRows {
  const float* rows[4];
  int64_t before, pixels;
};

// Tiles from pixel `begin` on -> v [16][tiles][channels] as words of M; `step`: bytes from one frequency to the next.
// kPairs: the values of two neighbouring tiles share a word, else those of two channels.
template <typename M, bool kPairs>
void input_tiles(const FourRows& x, int64_t channels, int64_t begin, int64_t tiles, char* v, int64_t step) {
  constexpr int kPack = kPairs ? M::kPack : 1, kValue = kPairs ? 4 : 4 / M::kPack;  // tiles at once; bytes
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vec column[2 + 2 * kPack][4];
    auto read = [&](int64_t pixel, Vec* to) {
      if (pixel < x.before || pixel >= x.before + x.pixels) {
        to[0] = to[1] = to[2] = to[3] = Vec{};
        return;
      }
      const int64_t i = (pixel - x.before) * channels + c;
      const Vec a = load(x.rows[0] + i), b = load(x.rows[1] + i), d = load(x.rows[2] + i), e = load(x.rows[3] + i);
      to[0] = a - d, to[1] = b + d, to[2] = d - b, to[3] = b - e;
    };
    read(begin, column[0]);
    read(begin + 1, column[1]);
    char* to = v + c * kValue;
    for (int64_t t = 0; t < tiles; t += kPack, to += channels * kValue) {
      UNROLL for (int j = 2; j < 2 + 2 * kPack; ++j) read(begin + 2 * t + j, column[j]);
      UNROLL for (int i = 0; i < 4; ++i) {
        Vec tile[kPack][4];
        UNROLL for (int p = 0; p < kPack; ++p) {
          const Vec a = column[2 * p][i], b = column[2 * p + 1][i], d = column[2 * p + 2][i], e = column[2 * p + 3][i];
          tile[p][0] = a - d, tile[p][1] = b + d, tile[p][2] = d - b, tile[p][3] = b - e;
        }
        UNROLL for (int j = 0; j < 4; ++j) {
          char* word = to + (4 * i + j) * step;
          kPairs ? store_pairs<M>(word, tile[0][j], tile[kPack - 1][j]) : store_taps<M>(word, tile[0][j]);
        }
        column[0][i] = column[2 * kPack][i], column[1][i] = column[2 * kPack + 1][i];
      }
    }
  }
}

// Sums [16][tiles][16] -> two rows of outputs, `stride` numbers from pixel to pixel; lower may be null. With a bias comes ReLU.
void output_tiles(const float* sums, int64_t tiles, const float* bias, int64_t width, int64_t stride, float* upper,
                  float* lower) {
  const int64_t step = tiles * kBlock;
  for (int64_t t = 0; t < tiles; ++t)
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      const float* from = sums + t * kBlock + c;
      Vec top[4], bottom[4];
      UNROLL for (int j = 0; j < 4; ++j) {
        const Vec a = load(from + j * step), b = load(from + (4 + j) * step), d = load(from + (8 + j) * step),
                  e = load(from + (12 + j) * step);
        top[j] = a + b + d, bottom[j] = b - d - e;
      }
      const Vec add = bias ? load(bias + c) : Vec{};
      auto put = [&](float* row, const Vec* s) {
        const Vec left = s[0] + s[1] + s[2] + add, right = s[1] - s[2] - s[3] + add;
        float* to = row + 2 * t * stride + c;
        store(to, bias ? relu(left) : left);
        if (2 * t + 1 < width) store(to + stride, bias ? relu(right) : right);
      };
      put(upper, top);
      if (lower) put(lower, bottom);
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
