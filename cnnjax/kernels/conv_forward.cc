// Convolution, bias, ReLU and pool.
#include <array>
#include <vector>

#include "conv_tiles.h"
#include "conv_image.h"

namespace cnnjax {
namespace {

// A column of a 2x2 pool, of values that have been through ReLU.
struct Column {
  Vec most, total;
  Codes row;  // 0 or 2: of the larger
};
inline Column column_of(Vec upper, Vec lower) {
  return {larger(upper, lower), upper + lower, pick(less(upper, lower), all_codes(2), all_codes(0))};
}

// The maximum of two columns. At a tie the gradient goes up, then to the left: as where first the rows and then the columns are
// compared.
inline void pool_columns(const Column& left, const Column& right, float* y, uint8_t* code) {
  const Vec total = left.total + right.total;  // nothing is negative: NaN where one of them is
  const Vec pooled = pick(at_most(total, total), larger(left.most, right.most), total);
  store(y, pooled);
  if (!code) return;
  const Codes best = pick(at_most(right.most, left.most), left.row, right.row + 1);
  store_codes(code, pick(less(Vec{}, pooled), best, all_codes(4)));
}

void pool_four(Vec v0, Vec v1, Vec v2, Vec v3, float* y, uint8_t* code) {
  pool_columns(column_of(v0, v2), column_of(v1, v3), y, code);
}

void pool_row(const float* upper, const float* lower, int64_t co, int64_t stride, int64_t width, float* y, uint8_t* code) {
  auto column = [&](int64_t i) { return column_of(load(upper + i), load(lower + i)); };
  for (int64_t c = 0; c < co; c += kLanes) {
    Column left = column(c);
    for (int64_t q = 0; q < width; ++q) {
      const int64_t i = q * stride * co + c;
      const Column right = column(i + co);
      pool_columns(left, right, y + q * co + c, code ? code + q * co + c : nullptr);
      left = stride == 1 ? right : q + 1 < width ? column(i + 2 * co) : left;
    }
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

template <typename M, typename T>
Forward prepare(const Conv& s, const float* w, const float* bias) {
  std::vector<float> weights;
  if constexpr (kTiled<T>) weights = pack_tiles<M, T>(w, s.ci, s.co, s.scale, false);
  else weights = pack_weights<M>(w, s.ci, s.co, s.scale, false);
  const ConvTile* tiles = choose_tiles<M>(s.ci);
  const int64_t stride = std::max<int64_t>(1, s.pool_stride), window = s.pool_stride ? 2 : 1;
  const int64_t rows = s.rows(), columns = s.columns(), y_row = columns * s.co, x_row = s.padded_row() * 4 / M::kPack;
  const int64_t width = (columns - 1) * stride + window;  // columns of the convolution that somebody looks at
  const int64_t height = band_rows(s.padded_row() * stride, rows), bands = (rows + height - 1) / height;
  const bool in_place = M::kPack == 1 && !s.padding && s.in == Kind::kFloat;

  return {bands, [=, weights = std::move(weights)](int64_t band, const void* x, float* y, uint8_t* code) {
    const int64_t y0 = band * height, y1 = std::min(rows, y0 + height);
    const int64_t r0 = y0 * stride, r1 = (y1 - 1) * stride + window;  // rows of the convolution
    const float* zeros = kTiled<T> ? zero_row(s.w * s.ci) : nullptr;
    const char* in = static_cast<const char*>(x) + r0 * x_row;
    if (!in_place && !kTiled<T>) {
      char* copy = scratch_bytes(Scratch::kInput, x_row * (r1 - r0 + 2) + s.ci * 4);
      load_rows<M, false>(s, x, r0 - s.padding, r1 - s.padding + 2, copy);
      in = copy;
    }
    constexpr int64_t kRing = 2 * T::kOut;  // the last rows
    float* ring = s.pool_stride ? scratch(Scratch::kConvolved, kRing * width * s.co) : nullptr;
    auto row = [&](int64_t r) { return ring ? ring + r % kRing * width * s.co : y + r * y_row; };
    for (int64_t r = r0; r < r1; r += T::kOut) {
      const int64_t end = std::min(r1, r + T::kOut);
      if constexpr (kTiled<T>) {
        const Strip<T> strip = image_strip<T>(s, static_cast<const float*>(x), r, zeros);
        const int64_t count = tiles_in<T>(width);
        auto fill = [&](int64_t first, int64_t tiles, char* v) { product_tiles<M, T>(strip, s.ci, T::kOut * first, tiles, v); };
        if (s.pool_stride == 2) {  // a tile is what pools look at
          const int64_t first = r / 2 * y_row, lines = (end - r) / 2;
          conv_rows<M, T>(s.ci, weights.data(), s.co, bias, count, fill, [=](int64_t t, int64_t c, const Vec(*v)[T::kOut]) {
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
        conv_rows<M, T>(s.ci, weights.data(), s.co, bias, count, fill,
                        put_rows<T::kOut>([&](int64_t i) { return row(r + i); }, end - r, width, s.co));
      } else {
        if constexpr (kVecs == 1)
          if (s.pool_stride == 2) {
            const int64_t to = r / 2 * y_row;
            if ((r - r0) % 2 == 0)
              pooled_row<M>(in + (r - r0) * x_row, x_row, s.ci, weights.data(), s.co, bias, columns, y + to,
                            code ? code + to : nullptr);
            continue;
          }
        conv_row<M>(tiles, in + (r - r0) * x_row, x_row, s.ci, weights.data(), s.co, bias, width, row(r));
      }
      for (int64_t lower = std::max(r, r0 + 1); s.pool_stride && lower < end; ++lower) {
        const int64_t upper = lower - r0 - 1, o = (y0 + upper / stride) * y_row;
        if (upper % stride == 0) pool_row(row(lower - 1), row(lower), s.co, stride, columns, y + o, code ? code + o : nullptr);
      }
    }
  }};
}

}  // namespace

Forward prepare_forward(const Conv& conv, const float* w, const float* b) {
  auto call = [&](auto m, auto tiles) { return prepare<decltype(m), decltype(tiles)>(conv, w, b); };
  return conv.bfloat16 ? choose<Bfloat16>(conv, call) : choose<Float32>(conv, call);
}

}  // namespace cnnjax
