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

// Four rows of pixels with `channels` each -> v [16][tiles][channels]; `step`: numbers from one frequency to the next.
void input_tiles(const float* const rows[4], int64_t channels, int64_t tiles, float* v, int64_t step) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vec column[4][4];
    auto read = [&](int64_t pixel, Vec* to) {
      const int64_t i = pixel * channels + c;
      const Vec a = load(rows[0] + i), b = load(rows[1] + i), d = load(rows[2] + i), e = load(rows[3] + i);
      to[0] = a - d, to[1] = b + d, to[2] = d - b, to[3] = b - e;
    };
    read(0, column[0]);
    read(1, column[1]);
    float* to = v + c;
    for (int64_t t = 0; t < tiles; ++t, to += channels) {
      read(2 * t + 2, column[2]);
      read(2 * t + 3, column[3]);
      UNROLL for (int i = 0; i < 4; ++i) {
        store(to + (4 * i) * step, column[0][i] - column[2][i]);
        store(to + (4 * i + 1) * step, column[1][i] + column[2][i]);
        store(to + (4 * i + 2) * step, column[2][i] - column[1][i]);
        store(to + (4 * i + 3) * step, column[1][i] - column[3][i]);
        column[0][i] = column[2][i], column[1][i] = column[3][i];
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

// Two rows of gradients of outputs -> z [16][tiles][channels].
void gradient_tiles(const float* upper, const float* lower, int64_t channels, int64_t tiles, float* z, int64_t step) {
  for (int64_t t = 0; t < tiles; ++t)
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t i = 2 * t * channels + c;
      const Vec a = load(upper + i), b = load(upper + i + channels), d = load(lower + i), e = load(lower + i + channels);
      const Vec left[4] = {a, a + d, a - d, -d}, right[4] = {b, b + e, b - e, -e};
      float* to = z + t * channels + c;
      UNROLL for (int k = 0; k < 4; ++k) {
        store(to + (4 * k) * step, left[k]);
        store(to + (4 * k + 1) * step, left[k] + right[k]);
        store(to + (4 * k + 2) * step, left[k] - right[k]);
        store(to + (4 * k + 3) * step, -right[k]);
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
